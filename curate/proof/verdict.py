"""Judge a comparison of arms: a table, and one sentence."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.amounts import counted
from curate.folders.folder import put_text
from curate.folders.local import open_folder
from curate.proof.arms import ALL, SELECTION, SWEPT
from curate.proof.fitting import Curve
from curate.proof.intervals import difference
from curate.proof.plots import learning_curves
from curate.proof.settings import RANDOM

LEAST_STEPS = 30
"""Of a training, from which on arms are judged: in shorter ones their order still changes."""
LOSSES = "losses.parquet"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm after training, by seed."""

    name: str
    times: float
    """Its tokens as a multiple of the others'."""
    counts: dict[str, int]
    """Of its documents: `documents`, `tokens`, `held_out` (left out, as losses are reported on them) …"""
    curves: tuple[Curve, ...]
    read_tokens: int | None = None
    """All tokens of the documents of the first seed's batches, those that carry no loss too; None where an older
    version has trained."""

    def final(self, kind: str) -> np.ndarray:
        """Return the loss at the end, per seed: 'target' or 'other'."""
        return np.array([getattr(c, kind)[-1] for c in self.curves])

    @property
    def rows(self) -> np.ndarray:
        """Return every held-out row's loss at the end `[seeds, rows]`."""
        return np.array([c.rows for c in self.curves])

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
            "read_tokens": self.read_tokens,
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
    """None where the interval of the difference holds 0, or the trainings are too short to tell."""
    too_short: bool
    """Whether the trainings have fewer steps than LEAST_STEPS."""
    difference: float
    """Random's loss less the selection's, in nats per token."""
    error: float | None
    """The standard error of the difference, over held-out rows and seeds; None with one of each."""
    interval: tuple[float, float] | None
    """Of the difference, at 95 %."""
    share: float | None
    """Of the distance from random to the best arm of equal tokens; None where random is the best."""
    best: str
    alike: tuple[str, ...]
    """Arms of equal tokens that do not differ clearly from the best."""


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
    is_of_tokens: bool = False
    """Whether the selection is of tokens, so that arms of equal tokens that carry loss differ in those they read."""

    @property
    def verdict(self) -> Verdict:
        """Compare the selection with random and with the best arm that trained on equal tokens."""
        losses = {o.name: o.rows for o in self.outcomes if o.name != ALL}
        means = {name: float(values.mean()) for name, values in losses.items()}
        best = min(means, key=lambda name: means[name])
        gained = difference(losses[RANDOM], losses[SELECTION])
        too_short, gap = self.steps < LEAST_STEPS, means[RANDOM] - means[best]
        alike = [n for n in losses if n != best and not difference(losses[n], losses[best]).is_clear]
        return Verdict(
            beats_random=gained.value > 0 if gained.is_clear and not too_short else None,
            too_short=too_short,
            difference=gained.value,
            error=gained.error,
            interval=gained.interval,
            share=gained.value / gap if gap > 0 else None,
            best=best,
            alike=tuple(alike),
        )

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        verdict, rows = self.verdict, {o.name: o.row() for o in self.outcomes}
        selection, random = rows[SELECTION]["target"], rows[RANDOM]["target"]
        num_seeds = len(rows[RANDOM]["seeds"])
        seeds = f"{num_seeds} seeds" if num_seeds > 1 else "one seed, so no spread is known"
        losses = f"{selection:.4f} against {random:.4f} nats per token on held-out rows ({seeds})"
        above = self._above(selection, random)
        if verdict.too_short:
            enough = math.ceil(self.tokens * LEAST_STEPS / self.steps)
            return (
                f"Too short to tell: {losses}, after {counted(self.steps, 'step')}; a verdict takes at least"
                f" {LEAST_STEPS}. Train on more tokens (--tokens {enough}) or in smaller batches (--set"
                f" batch_size=N).{above}"
            )
        if verdict.beats_random is None:
            low, high = verdict.interval or (-math.inf, math.inf)
            return (
                f"No difference from random is clear: {losses}; the 95 % interval of the difference,"
                f" {verdict.difference:+.4f}, goes from {low:+.4f} to {high:+.4f}.{above}"
            )
        text = f"The selection {'beats' if verdict.beats_random else 'does NOT beat'} random: {losses}"
        return f"{text}{self._beside_the_best(verdict, rows[verdict.best]['target'])}.{above}"

    def _beside_the_best(self, verdict: Verdict, loss: float) -> str:
        """Place the selection beside the best arm of equal tokens, where they differ clearly."""
        if verdict.best == SELECTION:
            others = ", ".join(verdict.alike)
            return f"; no clear difference to {others}" if others else "; it is the best arm of equal tokens"
        if verdict.beats_random and SELECTION in verdict.alike:
            return f"; no clear difference to the best arm of equal tokens ({verdict.best}, {loss:.4f})"
        if verdict.beats_random:
            return f", {verdict.share:.0%} of the distance from random to the best arm of equal tokens ({verdict.best})"
        return f"; the best arm of equal tokens is {verdict.best} ({loss:.4f})" if verdict.best != RANDOM else ""

    def _above(self, *losses: float) -> str:
        """Return a sentence where training made the loss worse, else nothing."""
        if min(losses) <= self.untrained["target"]:
            return ""
        return (
            f" Both end above the untrained model's {self.untrained['target']:.4f}: train longer, or at a lower rate."
        )

    def best_share(self) -> dict[str, Any] | None:
        """Return the share of a sweep that ends lowest, and those that do not differ clearly from it."""
        swept = {o.name: o.rows for o in self.outcomes if o.name.startswith(SWEPT)}
        if not swept:
            return None
        best = min(swept, key=lambda name: float(swept[name].mean()))
        alike = [n for n, values in swept.items() if n != best and not difference(values, swept[best]).is_clear]
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
                {**o.row(), "documents": o.counts, "curves": [c.figures() for c in o.curves]} for o in self.outcomes
            ],
        }

    def _losses(self) -> pa.Table:
        """Return the losses at the end: a line per arm, seed and held-out row."""
        columns: dict[str, list[Any]] = {"arm": [], "seed": [], "row": [], "loss": []}
        for outcome in self.outcomes:
            for seed, curve in enumerate(outcome.curves):
                columns["arm"] += [outcome.name] * len(curve.rows)
                columns["seed"] += [seed] * len(curve.rows)
                columns["row"] += range(len(curve.rows))
                columns["loss"] += curve.rows
        return pa.table(columns)

    def write(self, address: Path | str, plot: Path | str | None = None) -> None:
        """Write verify.json and every row's losses into a folder, and curves.png there or to `plot`."""
        folder = open_folder(address)
        put_text(folder, "verify.json", json.dumps(self.record(), indent=2, sort_keys=True) + "\n")
        folder.put(LOSSES, partial(pq.write_table, self._losses()))
        lines = [_line(o.name, o.curves) for o in self.outcomes]
        learning_curves(lines, self.untrained, plot or folder.child("curves.png").address)


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
