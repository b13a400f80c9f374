"""Judge a comparison of arms: a table, and one sentence."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.folders.folder import put_text
from curate.folders.local import open_folder
from curate.proof.arms import ALL, SELECTION, SWEPT
from curate.proof.fitting import Curve
from curate.proof.plots import learning_curves
from curate.proof.settings import RANDOM

_CLEAR = 2.0
"""Standard errors from which a difference of means counts."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm after training, by seed."""

    name: str
    times: float
    """Its tokens as a multiple of the others'."""
    counts: dict[str, int]
    """Of its documents: `documents`, `tokens`, `held_out` (left out, as losses are reported on them) …"""
    curves: tuple[Curve, ...]

    def final(self, kind: str) -> np.ndarray:
        """Return the loss at the end, per seed: 'target' or 'other'."""
        return np.array([getattr(c, kind)[-1] for c in self.curves])

    @property
    def trained_tokens(self) -> int:
        return self.curves[0].tokens[-1]

    @property
    def epochs(self) -> float:
        return self.trained_tokens / self.counts["tokens"]

    def row(self) -> dict[str, Any]:
        """Return the figures of the table: means over seeds, and their standard deviation."""
        target, other = self.final("target"), self.final("other")
        return {
            "arm": self.name,
            "tokens": self.trained_tokens,
            "epochs": self.epochs,
            "target": float(target.mean()),
            "target_spread": spread(target),
            "other": float(other.mean()),
            "other_spread": spread(other),
            "seeds": [float(v) for v in target],
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a selection beats random."""

    beats_random: bool | None
    """None where the difference is too small for the seeds' spread."""
    difference: float
    """Random's loss less the selection's, in nats per token."""
    error: float | None
    """The standard error of the difference; None with one seed."""
    share: float | None
    """Of the distance from random to the best arm of equal tokens; None where random is the best."""
    best: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All arms of a comparison."""

    selection: str
    tokens: int
    steps: int
    held_out: int
    others: int
    outcomes: tuple[Outcome, ...]
    untrained: dict[str, float]
    out: str

    @property
    def verdict(self) -> Verdict:
        """Compare the selection with random and with the best arm that trained on equal tokens."""
        final = {o.name: o.final("target") for o in self.outcomes if o.name != ALL}
        selection, random = final[SELECTION], final[RANDOM]
        means = {name: float(values.mean()) for name, values in final.items()}
        best = min(means, key=lambda name: means[name])
        gap, difference = means[RANDOM] - means[best], means[RANDOM] - means[SELECTION]
        return Verdict(
            beats_random=difference > 0 if _differ(selection, random) else None,
            difference=difference,
            error=_error(selection, random),
            share=difference / gap if gap > 0 else None,
            best=best,
        )

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        verdict, rows = self.verdict, {o.name: o.row() for o in self.outcomes}
        selection, random = rows[SELECTION]["target"], rows[RANDOM]["target"]
        seeds = (
            f"{len(rows[RANDOM]['seeds'])} seeds" if verdict.error is not None else "one seed, so no spread is known"
        )
        losses = f"{selection:.4f} against {random:.4f} nats per token on held-out rows ({seeds})"
        if verdict.beats_random is None:
            text = f"No difference from random is clear: {losses}; a difference of {verdict.difference:+.4f}"
            return f"{text} is within twice its standard error of {verdict.error:.4f}.{self._above(selection, random)}"
        text = f"The selection {'beats' if verdict.beats_random else 'does NOT beat'} random: {losses}"
        if verdict.best == SELECTION:
            text += "; it is the best arm of equal tokens"
        elif verdict.share is not None and verdict.beats_random:
            text += (
                f", {verdict.share:.0%} of the distance from random to the best arm of equal tokens ({verdict.best})"
            )
        elif verdict.best != RANDOM:
            text += f"; the best arm of equal tokens is {verdict.best} ({rows[verdict.best]['target']:.4f})"
        return f"{text}.{self._above(selection, random)}"

    def _above(self, *losses: float) -> str:
        """Return a sentence where training made the loss worse, else nothing."""
        if min(losses) <= self.untrained["target"]:
            return ""
        return (
            f" Both end above the untrained model's {self.untrained['target']:.4f}: train longer, or at a lower rate."
        )

    def best_share(self) -> dict[str, Any] | None:
        """Return the share of a sweep that ends lowest, and those within two standard errors of it."""
        swept = {o.name: o.final("target") for o in self.outcomes if o.name.startswith(SWEPT)}
        if not swept:
            return None
        best = min(swept, key=lambda name: float(swept[name].mean()))
        alike = [n for n, values in swept.items() if n != best and not _differ(values, swept[best])]
        return {"best": best.removeprefix(SWEPT), "alike": [n.removeprefix(SWEPT) for n in alike]}

    def rows(self) -> list[dict[str, Any]]:
        return [o.row() for o in self.outcomes]

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        names = ("selection", "tokens", "steps", "held_out", "others", "untrained", "sentence")
        return {
            **{n: getattr(self, n) for n in names},
            "verdict": asdict(self.verdict),
            "best_share": self.best_share(),
            "arms": [
                {**o.row(), "documents": o.counts, "curves": [c.as_dict() for c in o.curves]} for o in self.outcomes
            ],
        }

    def write(self, folder: Path, plot: Path | None = None) -> None:
        """Write verify.json into a folder, and curves.png there or to `plot`."""
        put_text(open_folder(folder), "verify.json", json.dumps(self.record(), indent=2, sort_keys=True) + "\n")
        lines = [_line(o.name, o.curves) for o in self.outcomes]
        learning_curves(lines, self.untrained, plot or folder / "curves.png")


def _error(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return the standard error of a difference of means; None with one seed."""
    if len(left) < 2 or len(right) < 2:
        return None
    return float(np.sqrt(left.var(ddof=1) / len(left) + right.var(ddof=1) / len(right)))


def _differ(left: np.ndarray, right: np.ndarray) -> bool:
    """Return whether two means are apart by more than the seeds' spread explains; with one seed, at all."""
    return bool(abs(left.mean() - right.mean()) > _CLEAR * (_error(left, right) or 0.0))


def spread(values: np.ndarray) -> float | None:
    """Return the standard deviation over seeds; None of a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _line(name: str, curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "name": name,
        "tokens": curves[0].tokens,
        "target": [c.target for c in curves],
        "other": [c.other for c in curves],
    }
