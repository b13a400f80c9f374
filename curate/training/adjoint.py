"""MAGIC's way back: how the target's loss after training depends on every weight during it.

Ilyas & Engstrom 2025 (arXiv 2504.16430), with the replay of Engstrom et al. 2025 (arXiv 2503.13751). Each step takes
two moves, and none builds a graph of second order: φ's derivatives by the state after the step are pulled back through
the optimiser alone, which gives u_k = ∂φ/∂g_k; then one forward-over-reverse product per micro-batch gives H_k u_k,
which goes to the parameters, and along with it ⟨u_k, ∇ℓ_t⟩ of every token t: D_k times φ's derivative by its weight.

A document that was not trained on has such a derivative too: were it given weight at step k, φ would change by
⟨u_k, ∇ℓ_z(θ_k)⟩ / D_k. Snapshots keep u_k / D_k and θ_k.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.folders.codecs import JSON
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.progress import Task
from curate.training.checkpoints import flat, load, save, unflat
from curate.training.differentiable import Differentiable
from curate.training.microbatches import Corpus, MicroBatch
from curate.training.optimisers import State, Tensors
from curate.training.replay import DivergedError, Replay, added


@dataclass(frozen=True, kw_only=True)
class Adjoint:
    """The scores that one way back gives."""

    scores: Float[Tensor, "documents"]
    """-∂φ/∂w of every training document, in float64: above 0, more weight lowers the target's loss."""
    token_scores: Float[Tensor, "all_tokens"]
    """The same by token (`Corpus.split` cuts it); a document's add up to its score."""
    loss: float
    """φ after training: the mean over target documents of their mean token loss, in nats."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A way back by some of every step's documents, for its snapshots rather than for scores of trained documents.

    Exact is what goes through the optimiser; the Hessian's product is that of the sampled documents.
    """

    share: int
    """One in so many of a step's documents, which come in a random order anyway."""
    documents: frozenset[int]
    """Those that get scores all the same, at a forward pass each; the others' are NaN."""

    def of(self, batch: Sequence[int]) -> Sequence[int]:
        """Return the sampled documents of a step."""
        return batch[: -(-len(batch) // self.share)]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One step's parameters and directions, which score documents as if they had weight there."""

    step: int
    parameters: Tensors
    """θ_k, before the step."""
    directions: Tensors
    """-u_k / D_k: the score of a document z is ⟨directions, ∇ℓ_z(θ_k)⟩, ℓ_z summed over its scored tokens.

    Where no gradient had come before (an embedding of a token not seen yet) AdamW's steps are infinitely steep, up to
    1/√ε: entries there are huge, and true for infinitely small weights only.
    """
    denominator: int
    """D_k."""


def differentiate(
    replay: Replay,
    target: Corpus,
    name: str = "target",
    *,
    snapshots: Collection[int] = (),
    until: int = 0,
    sampling: Sampling | None = None,
    task: Task | None = None,
) -> Adjoint:
    """Walk back through a finished training run and return every weight's score for one target.

    Several targets share the run, one call each with a name of its own. Steps in `snapshots` (counted from 0) are kept
    for `snapshot`. Saves every √T steps: a killed call goes on from there and ends with the same bytes. With `until`
    the walk ends before that step (counted from 0), which suffices for a snapshot there; the scores then lack the
    steps before it. With `sampling` it is cheaper, and its directions are approximate. `task` advances by steps.
    """
    steps = replay.training.steps
    if wrong := [k for k in snapshots if not 0 <= k < steps]:
        raise SettingsError(f"There is no step {wrong[0]} to keep a snapshot of; the run has {steps}, counted from 0.")
    folder = _folder(replay, name)
    _check(folder, target, snapshots, sampling)
    way = _resume(replay, folder) or _begin(replay, target)
    if task is not None:
        task.advance(steps - way.cotangent.step)
    if skipped := [k for k in snapshots if k < until]:
        raise SettingsError(f"A walk back that ends at step {until} passes no step {skipped[0]} to keep a snapshot of.")
    while way.cotangent.step > until:
        _step_back(replay, way, folder, snapshots, sampling)
        if way.cotangent.step % replay.block == 0 or way.cotangent.step == until:
            _save(way, folder)
        if task is not None:
            task.advance(1)
    replay.forget_passing()
    scores = -way.slopes
    if sampling is not None:
        scored = torch.zeros(len(replay.training.corpus))
        scored[sorted(sampling.documents)] = 1
        scores[replay.training.corpus.spread(scored) == 0] = torch.nan
    return Adjoint(scores=replay.training.corpus.gather(scores), token_scores=scores, loss=way.loss)


def snapshot(replay: Replay, name: str, step: int) -> Snapshot:
    """Read a snapshot that `differentiate` kept."""
    folder, device = _folder(replay, name), torch.device("cpu")
    path = folder / f"{step:06d}.safetensors"
    if not path.exists():
        steps = ", ".join(str(int(p.stem)) for p in sorted(folder.glob("0*.safetensors"))) or "none"
        raise CurateError(f"{folder} keeps no snapshot of step {step}; it keeps {steps}.")
    return Snapshot(
        step=step,
        parameters=load(_parameters_file(replay, step), device),
        directions=load(path, device),
        denominator=replay.training.denominator(step),
    )


def score_unseen(model: Differentiable, snapshot: Snapshot, corpus: Corpus) -> Float[Tensor, "all_tokens"]:
    """Return the adjoint scores of documents that were never trained on, by token, from all trained parameters.

    Forward only: a token's score is its loss's slope along the snapshot's directions. `corpus.gather` adds them up.
    """
    device = next(iter(model.parameters().values())).device
    parameters, directions = (
        {n: t.to(device) for n, t in d.items()} for d in (snapshot.parameters, snapshot.directions)
    )
    scores = torch.zeros(corpus.num_tokens, dtype=torch.float64)

    def along(batch: MicroBatch) -> Tensor:
        return model.slopes(parameters, directions, batch).cpu().double()

    for batch, slopes in corpus.run("slopes", range(len(corpus)), along):
        scores.index_add_(0, batch.places[batch.scored], slopes[batch.scored])
    return scores


def target_loss(model: Differentiable, parameters: Tensors, target: Corpus) -> tuple[float, Tensors]:
    """Return φ, the mean over documents of their mean token loss, and its gradient.

    Documents without scored tokens do not count.
    """
    counts = torch.from_numpy(target.scored).double()
    shares = target.spread(1 / (counts.clamp_min(1) * (counts > 0).sum()))
    total: Tensors = {}
    dtype = next(iter(parameters.values())).dtype
    loss = 0.0

    def differentiate(batch: MicroBatch) -> tuple[float, Tensors]:
        coefficients = shares[batch.places] * batch.scored
        losses, gradients = model.gradients(parameters, batch, coefficients.to(dtype))
        return float((losses.cpu().double() * coefficients).sum()), gradients

    for _, (part, gradients) in target.run("gradients", range(len(target)), differentiate):
        loss += part
        total = added(total, gradients)
    return loss, total


@dataclass(kw_only=True)
class _Way:
    """How far a way back has come; changed in place, so that old and new state are not held together."""

    cotangent: State
    """φ's derivatives by parameters and moments before step `cotangent.step`."""
    slopes: Float[Tensor, "all_tokens"]
    """∂φ/∂w from the steps walked so far."""
    loss: float

    def add(self, batch: MicroBatch, along: Float[Tensor, "sequences tokens"], denominator: int) -> None:
        """Add the slopes of a micro-batch's tokens."""
        token_slopes = along.cpu().double()[batch.scored] / denominator
        self.slopes.index_add_(0, batch.places[batch.scored], token_slopes)


def _begin(replay: Replay, target: Corpus) -> _Way:
    training = replay.training
    state = replay.state_at(training.steps)
    loss, gradient = target_loss(training.model, state.parameters, target)
    if not math.isfinite(loss):
        raise DivergedError(f"The target's loss after training is {loss}.", hint="Lower the recipe's learning_rate.")
    zeros = {n: tuple(torch.zeros_like(m) for m in ms) for n, ms in state.moments.items()}
    cotangent = State(step=training.steps, parameters={n: gradient[n] for n in state.parameters}, moments=zeros)
    return _Way(cotangent=cotangent, slopes=torch.zeros(training.corpus.num_tokens, dtype=torch.float64), loss=loss)


def _step_back(replay: Replay, way: _Way, folder: Path, snapshots: Collection[int], sampling: Sampling | None) -> None:
    training, step = replay.training, way.cotangent.step - 1
    state = replay.state_at(step)
    way.cotangent, pulled = training.optimiser.pull_back(state, replay.gradient(state), way.cotangent)
    parameters = state.parameters
    del state  # its moments have done their part
    if step in snapshots:
        _keep(replay, folder, step, parameters, pulled)
    batch_documents = training.batches[step]
    sampled = batch_documents if sampling is None else sampling.of(batch_documents)
    for batch, (along, products) in training.products(step, parameters, pulled, sampled):
        for name, product in products.items():
            way.cotangent.parameters[name].add_(product)
        if sampling is None:
            way.add(batch, along, training.denominator(step))
    if sampling is not None:
        scored = [i for i in batch_documents if i in sampling.documents]
        for batch, along in training.slopes(scored, parameters, pulled):
            way.add(batch, along, training.denominator(step))
    if not bool(torch.isfinite(way.slopes).all()):
        raise DivergedError(
            f"The derivatives overflow at step {step + 1} of {training.steps}: the run is not smooth.",
            hint="Lower the recipe's learning_rate, give it a longer warmup, or a larger epsilon.",
        )


def _keep(replay: Replay, folder: Path, step: int, parameters: Tensors, pulled: Tensors) -> None:
    path = _parameters_file(replay, step)
    if not path.exists():  # groups share it
        save(parameters, path)
    denominator = replay.training.denominator(step)
    save({n: -u / denominator for n, u in pulled.items()}, folder / f"{step:06d}.safetensors")


def _save(way: _Way, folder: Path) -> None:
    step = torch.tensor(way.cotangent.step)
    tensors = {"slopes": way.slopes, "loss": torch.tensor(way.loss, dtype=torch.float64), "step": step}
    if way.cotangent.step:  # not needed once the walk has reached the start
        tensors |= flat(way.cotangent)
    save(tensors, folder / "way.safetensors")


def _resume(replay: Replay, folder: Path) -> _Way | None:
    path = folder / "way.safetensors"
    if not path.exists():
        return None
    tensors = load(path, next(iter(replay.training.model.parameters().values())).device)
    cotangent = unflat(tensors, int(tensors["step"]))
    return _Way(cotangent=cotangent, slopes=tensors["slopes"].cpu(), loss=float(tensors["loss"]))


def _check(folder: Path, target: Corpus, snapshots: Collection[int], sampling: Sampling | None) -> None:
    record: dict[str, object] = {"target": target.fingerprint(), "snapshots": sorted(set(snapshots))}
    if sampling is not None:
        record |= {"share": sampling.share, "documents": sorted(sampling.documents)}
    if Kept(open_folder(folder), JSON).at("target", lambda: record) != record:
        raise CurateError(
            f"{folder} holds the way back for another target, or with other snapshots.",
            hint="Give the target another name, or remove that folder.",
        )


def _folder(replay: Replay, name: str) -> Path:
    return replay.folder / "targets" / name


def _parameters_file(replay: Replay, step: int) -> Path:
    return replay.folder / "snapshots" / f"{step:06d}.safetensors"
