"""Train one arm from one seed, and measure losses on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from curate.progress import Task
from curate.training.language import LanguageModel
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe
from curate.training.replay import Training


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
    task: Task,
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
        task.advance(1)
        if state.step in stops:
            tokens.append(seen)
            rows, other = measure(state.parameters)
            losses.append((float(rows.mean()), other))
    target, others = zip(*losses, strict=True)
    return Curve(tokens=tuple(tokens), target=target, other=others, rows=tuple(rows.tolist()))
