"""A training run that can be walked through again, forwards and backwards, the same to the last bit.

The loss of step k is Σ_i w_i ℓ_i / D_k with ℓ_i summed over a document's scored tokens and D_k the number of scored
tokens among the step's documents, which stays when weights change: MAGIC (Ilyas & Engstrom 2025, arXiv 2504.16430).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import remove_leftovers
from curate.folders.codecs import JSON
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.progress import Task
from curate.training.checkpoints import POLICIES, load_state, on_the_way, positions, save_state
from curate.training.differentiable import Differentiable
from curate.training.gradient_log import GradientLog
from curate.training.microbatches import Corpus, MicroBatch, order
from curate.training.optimisers import Optimiser, State, Tensors
from curate.training.passing import PassingStates
from curate.training.recipe import Recipe


class DivergedError(CurateError):
    """A loss of the training, or a derivative, is not a number."""


class Training:
    """A deterministic training run: given a state, the gradient of the next step and the state after it."""

    def __init__(
        self,
        model: Differentiable,
        corpus: Corpus,
        recipe: Recipe,
        *,
        weights: Float[Tensor, "all_tokens"] | None = None,
        batches: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        """`weights` is one per token of the corpus (`Corpus.spread` gives a document's to its tokens); None: 1.

        `batches` are every step's documents where the recipe does not deal them out.
        """
        self.model, self.corpus, self.recipe = model, corpus, recipe
        if weights is not None and len(weights) != corpus.num_tokens:
            raise SettingsError(f"{len(weights)} weights were given for {corpus.num_tokens} tokens of training data.")
        self.weights = weights
        self._dealt = batches is None
        self.batches = order(recipe, len(corpus)) if batches is None else list(batches)
        self.optimiser = Optimiser(recipe, steps=self.steps, matrices=model.matrices)

    @property
    def steps(self) -> int:
        return len(self.batches)

    def denominator(self, step: int) -> int:
        """Return D: the scored tokens of the step's documents, whatever their weights."""
        return max(1, int(self.corpus.scored[list(self.batches[step])].sum()))

    def start(self) -> State:
        return self.optimiser.start(self.model.parameters())

    def gradient(self, state: State) -> tuple[float, Tensors]:
        """Return the loss of the step that comes after `state`, and its gradient, over micro-batches.

        Raises DivergedError when the loss is not a number.
        """
        total: Tensors = {}
        loss = 0.0

        def differentiate(batch: MicroBatch) -> tuple[float, Tensors]:
            coefficients = self.coefficients(batch, state.step)
            losses, gradients = self.model.gradients(state.parameters, batch, coefficients.to(_dtype(state)))
            return float((losses.cpu().double() * coefficients).sum()), gradients

        for _, (part, gradients) in self.corpus.run("gradients", self.batches[state.step], differentiate):
            loss += part
            total = added(total, gradients)
        if not math.isfinite(loss):
            raise DivergedError(
                f"The loss of step {state.step + 1} of {self.steps} is {loss}: the training diverged.",
                hint="Lower the recipe's learning_rate, or give it a longer warmup.",
            )
        return loss, total or {n: torch.zeros_like(p) for n, p in state.parameters.items()}

    def coefficients(self, batch: MicroBatch, step: int) -> Float[Tensor, "sequences tokens"]:
        """Return the coefficient w / D of the loss of every token of one of a step's micro-batches, in float64."""
        coefficients = batch.scored.double() / self.denominator(step)
        return coefficients if self.weights is None else coefficients * self.weights[batch.places]

    def products(
        self, step: int, parameters: Tensors, directions: Tensors, documents: Sequence[int] | None = None
    ) -> Iterator[tuple[MicroBatch, tuple[Float[Tensor, "sequences tokens"], Tensors]]]:
        """Yield a step's micro-batches with their tokens' slopes along the directions, and the Hessian's products.

        `documents` are some of the step's, which then stand for all of them.
        """
        dtype = next(iter(parameters.values())).dtype
        documents = self.batches[step] if documents is None else documents
        share = self.denominator(step) / max(1, int(self.corpus.scored[list(documents)].sum()))

        def multiply(batch: MicroBatch) -> tuple[Tensor, Tensors]:
            coefficients = self.coefficients(batch, step) * share
            return self.model.products(parameters, directions, batch, coefficients.to(dtype))

        return self.corpus.run("products", documents, multiply)

    def slopes(
        self, documents: Sequence[int], parameters: Tensors, directions: Tensors
    ) -> Iterator[tuple[MicroBatch, Float[Tensor, "sequences tokens"]]]:
        """Yield micro-batches of some documents with their tokens' slopes along the directions."""
        return self.corpus.run("slopes", documents, lambda batch: self.model.slopes(parameters, directions, batch))

    def run(self, state: State | None = None, *, until: int | None = None) -> State:
        """Train on from `state` (None: the start) without keeping anything."""
        state = state or self.start()
        while state.step < (self.steps if until is None else until):
            state = self.optimiser.update(state, self.gradient(state)[1])
        return state

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the run: recipe, documents, weights and first parameters."""
        digest = xxhash.xxh3_128(json.dumps(self.recipe.as_dict(), sort_keys=True).encode())
        digest.update(self.corpus.fingerprint().encode())
        digest.update(b"1" if self.weights is None else self.weights.double().numpy().tobytes())
        if not self._dealt:
            digest.update(repr(self.batches).encode())
        for name, parameter in self.model.parameters().items():
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a replay takes, estimated before it starts."""

    steps: int
    tokens: int
    """Of all steps together, padding aside."""
    parameters: int
    disk_bytes: int
    """At most, on the way back, apart from snapshots."""
    state_bytes: int
    """Memory for parameters, moments, their cotangents, and the gradients and states kept, without activations."""


class Replay:
    """A training run kept in a folder, to be continued after a kill and walked back step by step.

    The folder: `checkpoints/` by the policy; `gradients/`, those that memory does not hold (see `GradientLog`; to keep
    them saves a quarter of the whole cost); `passing/`, those states between two checkpoints that memory does not hold
    while the way back goes through them (see `PassingStates`). There is no random state: nothing in a run is drawn but
    the documents' order, which follows from the recipe's seed.
    """

    def __init__(
        self, training: Training, folder: Path, *, checkpoints: str = "sqrt", keep_gradients: bool = True
    ) -> None:
        """Open or make the folder.

        Raises CurateError when it holds another run, SettingsError for an unknown policy.
        """
        if checkpoints not in POLICIES:
            raise SettingsError(f"checkpoints is {checkpoints!r}; expected one of {', '.join(POLICIES)}.")
        self.training, self.folder = training, folder
        self.checkpoints, self.keep_gradients = checkpoints, keep_gradients
        self._positions = positions(checkpoints, training.steps)
        self.log = GradientLog(folder / "gradients", self._device)
        self.passing = PassingStates(folder / "passing", self._device)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self._check()

    def _check(self) -> None:
        record = {
            "fingerprint": self.training.fingerprint(),
            "recipe": self.training.recipe.as_dict(),
            "steps": self.training.steps,
            "documents": len(self.training.corpus),
        }
        if (recorded := Kept(open_folder(self.folder), JSON).at("replay", lambda: record)) != record:
            changed = [k for k in record if recorded.get(k) != record[k]]
            raise CurateError(
                f"{self.folder} holds another training run: {', '.join(changed)} differ.",
                hint="Give another folder, or the same model, documents, weights and recipe.",
            )

    @property
    def block(self) -> int:
        """Steps between two saves of the way back."""
        return math.isqrt(max(1, self.training.steps - 1)) + 1

    def plan(self) -> Plan:
        """Return what the run and one way back take."""
        training = self.training
        state = training.start()
        size = sum(p.numel() * p.element_size() for p in state.parameters.values())
        whole = size + sum(m.numel() * m.element_size() for ms in state.moments.values() for m in ms)
        passing = {"all": 0, "sqrt": self.block, "log": training.steps.bit_length()}[self.checkpoints]
        held = min(passing, self.passing.most_bytes // max(1, whole))
        logged = training.steps * size if self.keep_gradients else 0
        lengths = np.diff(training.corpus.starts)
        return Plan(
            steps=training.steps,
            tokens=int(sum(lengths[list(b)].sum() for b in training.batches)),
            parameters=sum(p.numel() for p in state.parameters.values()),
            disk_bytes=(len(self._positions) + passing - held + 1) * whole + max(0, logged - self.log.most_bytes),
            state_bytes=(2 + held) * whole + 3 * size + min(logged, self.log.most_bytes),
        )

    def run(self, task: Task | None = None) -> State:
        """Train to the end, from the last saved checkpoint; `task` advances by steps."""
        state = self._latest(self.training.steps)
        if state is None:
            state = self.training.start()
            self._save(state)
        if task is not None and state.step:
            task.advance(state.step)
        while state.step < self.training.steps:
            state = self.training.optimiser.update(state, self.gradient(state, keep=self.keep_gradients))
            if state.step in self._positions:
                self._save(state)
            if task is not None:
                task.advance(1)
        return state

    def gradient(self, state: State, *, keep: bool = False) -> Tensors:
        """Return the gradient of the step after `state`, from the log where it is kept; `keep` keeps it."""
        if (kept := self.log.get(state.step)) is not None:
            return kept
        loss, gradients = self.training.gradient(state)
        if keep:
            self.log.put(state.step, gradients, loss)
        return gradients

    def state_at(self, step: int) -> State:
        """Return the state before a step, replaying from the nearest one that is kept.

        Keeps states that earlier steps will need, so that a walk back costs at most one more run ('sqrt'), or few
        states at a time ('log').
        """
        self._drop_after(step)
        state = self._latest(step)
        if state is None:
            raise CurateError(f"{self.folder} has no checkpoint before step {step}.", hint="Run the training first.")
        passing = on_the_way(self.checkpoints, state.step, step)
        keep = self.keep_gradients or self.checkpoints != "log"  # else the way back would compute them once more
        while state.step < step:
            state = self.training.optimiser.update(state, self.gradient(state, keep=keep))
            if state.step in passing:
                self.passing.put(state)
        return state

    def forget_passing(self) -> None:
        """Remove what a walk back left between checkpoints."""
        self._drop_after(-1)

    def _latest(self, step: int) -> State | None:
        files = {int(p.stem): p for p in (self.folder / "checkpoints").glob("*.safetensors")}
        saved, passing = max((k for k in files if k <= step), default=-1), self.passing.latest(step)
        if passing > saved:
            return self.passing.get(passing)
        return load_state(files[saved], saved, self._device) if saved >= 0 else None

    def _drop_after(self, step: int) -> None:
        if not self.keep_gradients:
            self.log.drop_after(step)
        self.passing.drop_after(step)

    def _save(self, state: State) -> None:
        save_state(state, self.folder / "checkpoints" / f"{state.step:06d}.safetensors")

    @property
    def _device(self) -> torch.device:
        return next(iter(self.training.model.parameters().values())).device


def added(total: Tensors, gradients: Tensors) -> Tensors:
    """Return a total with gradients added; the first ones are the total. Two of these may share their memory."""
    return {name: total[name] + gradient for name, gradient in gradients.items()} if total else gradients


def _dtype(state: State) -> torch.dtype:
    return next(iter(state.parameters.values())).dtype
