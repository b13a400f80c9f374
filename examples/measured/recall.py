"""How much of a teacher's best does a student find? On documents that it did not learn from, by the sample's size.

    python examples/measured/recall.py runs/ekfac runs/magic --cheap runs/bm25 runs/embedding \
        --students words embeddings hidden --sizes 1000 2000 5000 10000 --out recall

Every run has scored the same pool for the same groups. A student learns from a seeded sample of a teacher's documents,
as `curate predict --documents` does, and predicts all others. Figures are means over the groups: rank correlation, the
share of the true best 5 % among the predicted best 5, 10 and 20 %, over all documents and within domains; the share of
the documents that holds nine tenths of the true best; and both as cross-validation within the sample expected them.
Beside them, a cheap run as a first stage. What is finished is kept under --out.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import curate
from curate.pipeline.lesson import lesson_of
from curate.pipeline.predict import make_prediction
from curate.pipeline.predicting import open_reading
from curate.progress import Silent
from curate.students.fitting import TOKENS, Sample, fit
from curate.students.judging import BEST, Figures, LeftOut, judge
from curate.students.settings import Learn, PredictSettings

RECALL = 0.9
ALL = 10**9


@dataclass(frozen=True)
class Outcome:
    """What a student, or a cheap run, finds of one teacher's best; by score column."""

    figures: Mapping[str, Figures]
    needed: Mapping[str, float]
    """Share of the documents that holds nine tenths of the best."""
    expected: Mapping[str, Figures]
    """By cross-validation within the sample; empty for a cheap run."""
    expected_needed: Mapping[str, float]
    seconds: float = 0.0
    """Of learning, without reading."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Outcome":
        figures, expected = ({c: Figures.of(f) for c, f in values[n].items()} for n in ("figures", "expected"))
        return cls(**{**values, "figures": figures, "expected": expected})


def read(run: str, student: str, layers: int | None) -> Sample:
    """Return a run's documents as a student reads them."""
    teacher = curate.Run.open(run)
    prediction = make_prediction(PredictSettings(teacher=run, student=student, documents=ALL), teacher, Silent())
    lesson = lesson_of(teacher, prediction, Silent())
    return lesson.sample(
        open_reading(student, prediction.scoring, layers), lesson.lengths(prediction.scoring), prediction
    )


def with_scores(sample: Sample, run: str) -> Sample:
    """Return documents with another run's scores."""
    frame = curate.Run.open(run).scores().sort("shard", "row").collect()
    if frame["content_hash"].to_list() != sample.contents:
        raise SystemExit(f"{run} has scored other documents.")
    scores = {c: frame[c].cast(pl.Float64).to_numpy() for c in sample.columns if c in frame.columns}
    return replace(sample, columns={**sample.columns, **scores})


def part(sample: Sample, rows: np.ndarray) -> Sample:
    """Return some of the documents."""
    return Sample(
        features=sample.features[rows],
        sizes=sample.sizes[rows],
        sources=[sample.sources[i] for i in rows.tolist()],
        contents=[sample.contents[i] for i in rows.tolist()],
        columns={c: values[rows] for c, values in sample.columns.items()},
    )


def halves(sample: Sample, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a seeded sample, and all others."""
    order = np.random.default_rng([seed, 4]).permutation(len(sample.sizes))
    return np.sort(order[:size]), np.sort(order[size:])


def taught(student: str, sample: Sample, size: int, seed: int, learn: Learn) -> Outcome:
    """Learn from a sample, and judge what is predicted of the others."""
    rows, others = halves(sample, size, seed)
    begun = time.perf_counter()
    fitted = fit(student, part(sample, rows), folds=5, seed=seed, by_source=False, learn=learn)
    seconds = time.perf_counter() - begun
    rest = part(sample, others)
    predicted = dict(zip(fitted.columns, fitted(rest.features, rest.sizes, rest.sources).T, strict=True))
    outcome = judged(rest, {c: predicted[c] for c in fitted.figures})
    of_sample = fitted.left_out
    needed = {c: of_sample.share_needed([c], [c], BEST, RECALL) for c in of_sample.columns}
    return replace(outcome, expected=fitted.figures, expected_needed=needed, seconds=seconds)


def judged(rest: Sample, predicted: Mapping[str, np.ndarray]) -> Outcome:
    """Judge predictions by column."""
    left_out = LeftOut(
        columns=tuple(predicted),
        truth=np.stack([rest.columns[c] for c in predicted], 1),
        predicted=np.stack([*predicted.values()], 1),
        sources=rest.sources,
    )
    figures = {c: judge(rest.columns[c], values, rest.sources) for c, values in predicted.items()}
    return Outcome(figures, {c: left_out.share_needed([c], [c], BEST, RECALL) for c in predicted}, {}, {})


def cheap(sample: Sample, scores: Sample, size: int, seed: int) -> Outcome:
    """Judge a cheap run's scores of the documents that a student of that sample would predict."""
    others = halves(sample, size, seed)[1]
    return judged(part(sample, others), {c: v[others] for c, v in scores.columns.items() if c != TOKENS})


def study(args: argparse.Namespace) -> dict[tuple[str, str, int], list[Outcome]]:
    """Return the outcomes of all seeds by teacher, student or cheap run, and size."""
    outcomes: dict[tuple[str, str, int], list[Outcome]] = {}
    for name in [*args.students, *args.cheap]:
        sample: Sample | None = None
        for teacher, size, seed in product(args.teachers, args.sizes, range(args.seeds)):
            key = (Path(teacher).name, Path(name).name, size)
            kept = Path(args.out) / f"{'-'.join(map(str, key))}-{seed}.json"
            if not kept.exists():
                sample = sample or read(args.teachers[0], name if name in args.students else "words", args.layers)
                truth = with_scores(sample, teacher)
                outcome = (
                    taught(name, truth, size, seed, args.learn)
                    if name in args.students
                    else cheap(truth, with_scores(sample, name), size, seed)
                )
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            outcomes.setdefault(key, []).append(Outcome.of(json.loads(kept.read_text(encoding="utf-8"))))
    return outcomes


def groups_of(figures: Mapping[str, Any]) -> list[str]:
    return [c for c in figures if c != "score"] or ["score"]


def mean(outcomes: Sequence[Outcome], value: Callable[[Outcome, str], float | None]) -> float:
    """Return the mean of a figure over groups and seeds."""
    return float(np.mean([value(o, c) or 0.0 for o in outcomes for c in groups_of(o.figures)]))


def main_table(outcomes: Mapping[tuple[str, str, int], Sequence[Outcome]]) -> Table:
    """Return the means over groups."""
    table = Table("teacher", "student", "sample", "Spearman", "within", "best 5 % in 5/10/20 %", "within domains")
    for column in ("expected", "holds .9", "expected", "learning, s"):
        table.add_column(column)
    for (teacher, name, size), of in outcomes.items():
        told = [mean(of, lambda o, c: o.figures[c].spearman), mean(of, lambda o, c: o.figures[c].within_spearman)]
        recalls, within = (
            "/".join(
                f"{mean(of, lambda o, c, i=i, n=n: (getattr(o.figures[c], n) or (0, 0, 0))[i]):.2f}" for i in range(3)
            )
            for n in ("recall", "within_recall")
        )
        needed = f"{mean(of, lambda o, c: o.needed[c]):.2f}"
        row = [teacher, name, f"{size:,}", *(f"{v:.2f}" for v in told), recalls, within]
        if of[0].expected:
            expected = f"{mean(of, lambda o, c: o.expected[c].recall[2]):.2f}"
            expected_needed = f"{mean(of, lambda o, c: o.expected_needed[c]):.2f}"
            row += [expected, needed, expected_needed, f"{np.mean([o.seconds for o in of]):.0f}"]
        else:
            row += ["", needed, "", ""]
        table.add_row(*row)
    return table


def group_table(outcomes: Mapping[tuple[str, str, int], Sequence[Outcome]], size: int) -> Table:
    """Return by group, for one size: the share of the best 5 % in the predicted best 20 %, and what holds .9."""
    groups = groups_of(next(iter(outcomes.values()))[0].figures)
    table = Table("teacher", "student", *(c.removeprefix("score_") for c in groups), title=f"{size:,} documents")
    for (teacher, name, of_size), of in outcomes.items():
        if of_size == size:
            cells = (
                f"{np.mean([o.figures[c].recall[2] for o in of]):.2f}, {np.mean([o.needed[c] for o in of]):.2f}"
                for c in groups
            )
            table.add_row(teacher, name, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+")
    parser.add_argument("--cheap", nargs="*", default=[], help="runs that are used as a first stage, too")
    parser.add_argument("--students", nargs="+", default=["words", "embeddings", "hidden"])
    parser.add_argument("--learn", default="best", help="or ranks; another --out for each")
    parser.add_argument("--layers", type=int, help="that the student `hidden` runs")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 2_000, 5_000, 10_000])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="recall")
    args = parser.parse_args()
    console, outcomes = Console(width=160), study(args)
    console.print(main_table(outcomes))
    for size in args.sizes:
        console.print(group_table(outcomes, size))


if __name__ == "__main__":
    main()
