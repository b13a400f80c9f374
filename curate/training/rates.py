"""Choose a training's learning rate: the one whose derivatives foretell retrainings best, of those that train well.

A rate that is too low is smooth and learns nothing; one that is too high learns, and its derivatives mean little. So
those count whose held-out loss is within one standard error of the best, and of them the most faithful is taken.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curate.errors import CurateError
from curate.fidelity import Check
from curate.training.language import LanguageModel
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.replay import DivergedError, Replay
from curate.training.smoothness import LEAST_AGREEMENT

HELD_OUT = 256
"""Documents at most whose loss after training tells learning rates apart."""

_TOLD = ("held_out", "smoothness", "check.predicted", "check.measured")
_DOCUMENTS = "check.documents"
_ENOUGH = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """How a training with one learning rate came out."""

    rate: float
    held_out: np.ndarray
    """`[documents]`: losses of documents that were not trained on, in nats per token; NaN where it diverged."""
    smoothness: float
    check: Check

    @property
    def loss(self) -> float:
        return float(self.held_out.mean())

    @property
    def error(self) -> float:
        """The standard error of the loss; without bound where there are too few documents to tell."""
        if len(self.held_out) < _ENOUGH:
            return math.inf
        return float(self.held_out.std(ddof=1) / math.sqrt(len(self.held_out)))

    @property
    def is_smooth(self) -> bool:
        return self.smoothness >= LEAST_AGREEMENT

    @property
    def explained(self) -> float:
        """The share of the squared changes of loss that the predicted ones explain: 1 where all are as predicted."""
        predicted, measured = self.check.predicted, self.check.measured
        whole = float((measured**2).sum())
        share = 1 - float(((measured - predicted) ** 2).sum()) / whole if whole else math.nan
        return share if math.isfinite(share) else -math.inf

    def line(self, chosen: bool) -> str:
        """Return the trial's line of the table."""
        if not math.isfinite(self.loss):
            return f"  {self.rate:8.2g}  diverged"
        rough = "" if self.is_smooth else ", rough"
        return (
            f"  {self.rate:8.2g}  held-out loss {self.loss:.4f} ± {self.error:.4f}, {self.check.overall.figure}{rough}"
            f"{', chosen' if chosen else ''}"
        )

    def details(self) -> dict[str, Any]:
        """Return the figures for a run's record."""
        is_there = math.isfinite(self.loss)
        overall = self.check.overall
        return {
            "learning_rate": self.rate,
            "held_out_loss": self.loss if is_there else None,
            "standard_error": self.error if math.isfinite(self.error) else None,
            "smoothness": self.smoothness if is_there else None,
            "slope": overall.slope,
            "correlation": overall.correlation,
        }


def tried(rates: Sequence[float], attempt: Callable[[float], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return what attempts at each learning rate tell, stacked; NaN stands for what a diverging training cannot tell.

    `trials` reads it. Raises CurateError where all diverge.
    """
    tensors: list[Mapping[str, Tensor] | None] = []
    for rate in rates:
        try:
            kept = attempt(rate)
            tensors.append({name: kept[name] for name in (*_TOLD, _DOCUMENTS)})
        except DivergedError:
            tensors.append(None)
    if (finite := next(filter(None, tensors), None)) is None:
        raise CurateError(
            "The training diverged with every learning rate that was tried.",
            hint="Give lower multiples of the recipe's (--rates 0.01,0.1), or a longer warmup.",
        )
    nothing = {n: torch.full_like(finite[n].double(), torch.nan) for n in _TOLD}
    return {n: torch.stack([(t or nothing)[n] for t in tensors]) for n in _TOLD} | {_DOCUMENTS: finite[_DOCUMENTS]}


def trials(rates: Sequence[float], kept: Mapping[str, Tensor], groups: Sequence[str]) -> list[Trial]:
    """Return how trainings with these learning rates came out, from what `tried` told."""
    left_out, documents = kept[_DOCUMENTS].tolist()
    return [
        Trial(
            rate=rate,
            held_out=kept["held_out"][i].numpy(),
            smoothness=float(kept["smoothness"][i]),
            check=Check(
                groups=tuple(groups),
                predicted=kept["check.predicted"][i].numpy(),
                measured=kept["check.measured"][i].numpy(),
                left_out=left_out,
                documents=documents,
            ),
        )
        for i, rate in enumerate(rates)
    ]


def held_out(replay: Replay, corpus: Corpus) -> Tensor:
    """Return the losses after training of documents that were not trained on."""
    model = replay.training.model
    assert isinstance(model, LanguageModel)
    return mean_losses(model, replay.state_at(replay.training.steps).parameters, corpus)


def chosen(trials: Sequence[Trial], *, accept_rough: bool) -> Trial:
    """Return the trial to take, of which at least one did not diverge; a rough one only where all are, or by leave."""
    finite = [t for t in trials if math.isfinite(t.loss)]
    smooth = [t for t in finite if t.is_smooth or accept_rough] or finite
    best = min(smooth, key=lambda t: t.loss)
    near = [t for t in smooth if t.loss <= best.loss + best.error]
    return max(near, key=lambda t: (t.check.overall.is_high, t.explained, -t.rate))


def table(trials: Sequence[Trial], taken: Trial) -> str:
    """Say how all trials came out."""
    return "\n".join([f"{len(trials)} learning rates were tried:", *(t.line(t is taken) for t in trials)])
