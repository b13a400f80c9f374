"""Train one arm from one seed, and measure losses on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measures the losses of held-out rows of the target and of other text."""

    model: LanguageModel
    target: Corpus
    other: Corpus

    def __call__(self, parameters: Tensors) -> tuple[float, float]:
        target, other = (
            float(mean_losses(self.model, parameters, corpus).mean()) for corpus in (self.target, self.other)
        )
        return target, other


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
    seen = 0
    while state.step < training.steps:
        seen += training.denominator(state.step)
        state = training.run(state, until=state.step + 1)
        task.advance(1)
        if state.step in stops:
            tokens.append(seen)
            losses.append(measure(state.parameters))
    return Curve(tokens=tuple(tokens), target=tuple(t for t, _ in losses), other=tuple(o for _, o in losses))
