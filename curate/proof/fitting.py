"""Train one arm from one seed, and measure losses on the way."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.folders.codecs import JSON
from curate.folders.folder import Folder
from curate.folders.kept import Kept
from curate.folders.local_folder import LocalFolder
from curate.gradients.documents import Batching
from curate.proof.spool import SpooledCorpus, token_batches
from curate.proxies.proxy import Proxy, keep_freed_memory, load_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded
from curate.training.language import LanguageModel
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe
from curate.training.replay import Training
from curate.training.snapshots import trainable


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses by tokens trained on, from the untrained model's."""

    tokens: tuple[int, ...]
    target: tuple[float, ...]
    """Mean over held-out rows of their mean loss per token, in nats."""
    other: tuple[float, ...]
    """The same for text other than the target's."""
    rows: tuple[float, ...]
    """Every held-out row's mean loss per token at the end."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def figures(self) -> dict[str, Any]:
        """Return the curve alone."""
        return {k: v for k, v in asdict(self).items() if k != "rows"}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measures the losses of held-out rows of the target and of other text."""

    model: LanguageModel
    target: Corpus
    other: Corpus

    @classmethod
    def of(
        cls, proxy: Proxy, recipe: Recipe, batching: Batching, target: Sequence[Encoded], other: Sequence[Encoded]
    ) -> "Measure":
        """Return what measures the losses of these rows under a proxy that the recipe trains."""
        model = trainable(proxy, recipe)
        return cls(model=model, target=_corpus(target, batching), other=_corpus(other, batching))

    def __call__(self, parameters: Tensors) -> tuple[Float[Tensor, "documents"], float]:
        """Return every held-out row's loss, and the mean of other text's."""
        target, other = (mean_losses(self.model, parameters, corpus) for corpus in (self.target, self.other))
        return target, float(other.mean())


def fit(
    measure: Measure,
    corpus: Corpus,
    recipe: Recipe,
    batches: Sequence[tuple[int, ...]],
    *,
    points: int,
    untrained: Mapping[str, float],
    advance: Callable[[float], None],
) -> Curve:
    """Train through the batches and measure at `points` steps evenly spaced, the last among them."""
    training = Training(measure.model, corpus, recipe, batches=batches)
    stops = {math.ceil(training.steps * (i + 1) / points) for i in range(points)}
    state = training.start()
    tokens, losses = [0], [(untrained["target"], untrained["other"])]
    seen, rows = 0, torch.empty(0)
    while state.step < training.steps:
        seen += training.denominator(state.step)
        state = training.run(state, until=state.step + 1)
        advance(1)
        if state.step in stops:
            tokens.append(seen)
            rows, other = measure(state.parameters)
            losses.append((float(rows.mean()), other))
    target, others = zip(*losses, strict=True)
    return Curve(tokens=tuple(tokens), target=target, other=others, rows=tuple(rows.tolist()))


@dataclass(frozen=True, kw_only=True)
class ArmTraining:
    """One arm's training from one seed, as a job."""

    name: str
    """Of the file that keeps its curve."""
    spool: Path
    """The folder of its documents."""
    counts: Mapping[str, int]
    """Of these."""
    tokens: int
    steps: int
    seed: int
    """Added to the recipe's."""
    is_last: bool
    """Whether no other job has documents from this folder."""


@dataclass(frozen=True, kw_only=True)
class ArmWork:
    """The trainings of arms on one proxy, as work that other processes can do: it travels without the model."""

    proxy: ProxySettings
    fingerprint: str
    """Of the proxy."""
    recipe: Recipe
    batching: Batching
    target: Sequence[Encoded]
    other: Sequence[Encoded]
    points: int
    untrained: Mapping[str, float]
    folder: Folder
    """Where curves are kept."""
    measure: Measure | None = field(default=None, repr=False)
    """What this process has in memory already; it does not travel."""

    def open(self) -> Callable[[ArmTraining, Callable[[float], None]], None]:
        """Load the model. Raises CurateError where it is another than the one that was begun with."""
        work = self if self.measure is not None else self._loaded()
        kept = Kept(self.folder, JSON)

        def train(job: ArmTraining, advance: Callable[[float], None]) -> None:
            kept.at(job.name, lambda: work._trained(job, advance))
            if job.is_last:
                LocalFolder(job.spool.parent).remove(job.spool.name)

        return train

    def _loaded(self) -> "ArmWork":
        keep_freed_memory()
        proxy = load_proxy(self.proxy)
        if proxy.fingerprint() != self.fingerprint:
            raise CurateError(f"The model at {self.proxy.model} has changed during the trainings.")
        batching = replace(self.batching, room=self.batching.room.elsewhere(proxy.device))
        measure = Measure.of(proxy, self.recipe, batching, self.target, self.other)
        return replace(self, batching=batching, measure=measure)

    def _trained(self, job: ArmTraining, advance: Callable[[float], None]) -> dict[str, Any]:
        assert self.measure is not None
        corpus = SpooledCorpus(job.spool, self.batching.tokens, room=self.batching.room)
        recipe = replace(self.recipe, seed=self.recipe.seed + job.seed)
        batches = token_batches(corpus.scored, tokens=job.tokens, steps=job.steps, seed=recipe.seed)
        points, untrained = self.points, self.untrained
        curve = fit(self.measure, corpus, recipe, batches, points=points, untrained=untrained, advance=advance)
        lengths = np.diff(corpus.starts)
        read_tokens = int(sum(lengths[list(batch)].sum() for batch in batches))
        return {"curve": curve.as_dict(), "counts": job.counts, "read_tokens": read_tokens}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"measure": None}


def _corpus(documents: Sequence[Encoded], batching: Batching) -> Corpus:
    return Corpus(documents, batching.tokens, room=batching.room)
