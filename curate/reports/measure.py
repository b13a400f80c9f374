"""Compute a run's figures: counts over all parts by DuckDB, distributions on a frame that fits in memory."""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import polars as pl

from curate.errors import CurateError
from curate.reports.figures import (
    BAND,
    OVERLAP,
    Band,
    Contamination,
    Duplicates,
    Figures,
    Histogram,
    Scores,
    Source,
    Typical,
)
from curate.reports.frame import Frame, read_frame
from curate.reports.ranks import correlation, histogram, mass, ranks, rounded, spearman
from curate.scores.arithmetic import arithmetic_note, arithmetic_warning
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.scores.session import Session, open_session
from curate.visible import visible

BEST, BEST_OF_ALL = 0.05, 0.01
BINS = 60
BANDS = 20
LISTED = 24
QUANTILES = {f"q{p:02d}": p / 100 for p in (0, 1, 5, 25, 50, 75, 95, 99, 100)}
CURVE = np.geomspace(0.001, 1, 40)


def measure(run: Run, *, by: str | None = None) -> Figures:
    """Compute the figures of a run, finished or not, without its documents' texts.

    Raises CurateError where the run has no score, SettingsError where it has no column `by`.
    """
    with open_session(run) as session:
        counts = _counted(session)
        if not counts["documents"]:
            raise CurateError(
                f"{run.address} holds no score; expected at least one.", hint="`curate status` shows the runs."
            )
        frame = read_frame(run, counts["documents"], by=by)
        duplicates = _duplicates(session, frame)
    best = frame.best("score", BEST)
    top = frame.table["hit"].to_numpy()[frame.best("score", BEST_OF_ALL)]
    sources, others = _sources(frame)
    return Figures(
        **_record(run, gradients="grad_norm" in frame.variables),
        documents=counts["documents"],
        tokens=counts["tokens"],
        truncated=counts["truncated"],
        loss=counts["loss"],
        skipped=_skipped(run),
        sampled=frame.sampled,
        scores=tuple(_scores(frame, c) for c in frame.columns),
        bands={v: _bands(frame, v) for v in frame.variables},
        typical={v: _typical(frame, v, best) for v in frame.variables},
        by=frame.by,
        sources=sources,
        other_sources=others,
        between_groups=_between(frame),
        duplicates=duplicates,
        contamination=Contamination(exact=counts["exact"], overlapping=counts["overlapping"], in_best=int(top.sum())),
    )


def _record(run: Run, *, gradients: bool) -> dict[str, Any]:
    """Return the figures that run.json holds."""
    record, details = run.record, run.record.details
    target_rows, holdout, coverage = details.target_rows, details.holdout, details.coverage
    return {
        "name": run.name,
        "path": run.address,
        "method": str(record.method),
        "model": str(record.model),
        "target": record.target,
        "pool": record.pool,
        "method_settings": dict(record.method_settings),
        "finished": run.is_finished,
        "target_rows": None if target_rows is None else len(target_rows),
        "heldout_rows": None if holdout is None else sum(map(len, holdout.rows.values())),
        "coverage": vars(coverage) if gradients and coverage else None,  # without gradients no layer is tracked
        "arithmetic": arithmetic_note(details),
        "arithmetic_warning": arithmetic_warning(details),
        "smoothness": run.record.smoothness,
        "check": run.record.check,
        "frequency_loss": details.frequency_loss,
        "excerpts": (),
        "texts_note": None,
        "narrowed": narrowed_note(record),
    }


def _counted(session: Session) -> dict[str, Any]:
    names = ("documents", "tokens", "truncated", "exact", "overlapping", "loss")
    (row,) = session.query(
        "SELECT count(*), coalesce(sum(n_tokens), 0)::BIGINT, count(*) FILTER (truncated),"
        " count(*) FILTER (target_exact), count(*) FILTER (target_exact OR target_overlap >= $overlap::FLOAT),"
        " round(sum(loss::DOUBLE * n_tokens) FILTER (isfinite(loss))"
        " / nullif(sum(n_tokens) FILTER (isfinite(loss)), 0), 9)"  # threads add up in any order
        " FROM scores",
        {"overlap": OVERLAP},
    ).rows()
    return dict(zip(names, row, strict=True))


def _skipped(run: Run) -> dict[str, int]:
    """Return the number of skipped rows by reason, the commonest first."""
    grouped = run.skipped().group_by("reason").len().sort("len", "reason", descending=[True, False])
    return dict(grouped.collect(engine="streaming").iter_rows())


def _duplicates(session: Session, frame: Frame) -> Duplicates:
    (row,) = session.query(
        "SELECT count(*), coalesce(sum(n - 1), 0)::BIGINT, coalesce(max(n), 1) FROM"
        # 64 bits of it are quicker to group by, and the same at this scale
        " (SELECT count(*) AS n FROM scores GROUP BY hash(content_hash)) WHERE n > 1"
    ).rows()
    best = frame.table["content"].gather(frame.best("score", BEST))
    return Duplicates(contents=row[0], copies=row[1], largest=row[2], copies_in_best=len(best) - best.n_unique())


def _scores(frame: Frame, column: str) -> Scores:
    values = frame.numbers(column)
    low, high, counts = histogram(values, BINS)
    masses = mass(values, np.array([BEST_OF_ALL, *CURVE]))
    return Scores(
        column=column,
        label=visible(column.removeprefix("score_")),
        mean=rounded(float(values.mean(dtype=np.float64))),
        std=rounded(float(values.std(dtype=np.float64))),
        quantiles=_quantiles(values, QUANTILES),
        positive=rounded(float((values > 0).mean())) or 0.0,
        histogram=Histogram(low=rounded(low) or 0.0, high=rounded(high) or 0.0, counts=tuple(counts)),
        mass=rounded(float(masses[0])),
        concentration=_pairs(CURVE, masses[1:]),
        spearman={v: _against(frame, frame.ranks[column], values, v) for v in frame.variables},
        spearman_of_size=_sizes(frame, values) if column == frame.columns[0] else {},
    )


def _sizes(frame: Frame, values: np.ndarray) -> dict[str, float | None]:
    size = np.abs(values)
    ranked = ranks(size)
    return {v: _against(frame, ranked, size, v) for v in frame.variables}


def _pairs(left: np.ndarray, right: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((rounded(float(x)) or 0.0, rounded(float(y)) or 0.0) for x, y in zip(left, right, strict=True))


def _against(frame: Frame, ranked: np.ndarray, values: np.ndarray, variable: str) -> float | None:
    """Correlate by ranks that are computed already, unless some documents lack the variable."""
    if variable in frame.ranks:
        return correlation(ranked, frame.ranks[variable])
    return spearman(values, frame.numbers(variable))


def _quantiles(values: np.ndarray, levels: dict[str, float]) -> dict[str, float | None]:
    quantiles = np.quantile(values, list(levels.values()))
    return {name: rounded(float(q)) for name, q in zip(levels, quantiles, strict=True)}


def _bands(frame: Frame, variable: str) -> tuple[Band, ...]:
    """Cut the documents into bands of about equal size along a variable; return the score's quantiles in each.

    Documents of equal rank stay together.
    """
    by, scores = frame.numbers(variable), frame.numbers("score")
    if variable in frame.ranks:
        ranked = frame.ranks[variable]
    else:
        finite = np.isfinite(by)
        by, scores = by[finite], scores[finite]
        ranked = ranks(by)
    bins = min(BANDS, len(by) // 10)
    band_of = ((ranked - 0.5) * bins // max(1, len(by))).astype(np.int8)
    bands = []
    for i in range(bins):
        members = np.flatnonzero(band_of == i)
        if not len(members):
            continue
        low, high = float(by[members].min()), float(by[members].max())
        quantiles = tuple(rounded(float(q)) or 0.0 for q in np.quantile(scores[members], BAND))
        bands.append(Band(low=rounded(low) or 0.0, high=rounded(high) or 0.0, quantiles=quantiles))
    return tuple(bands)


def _between(frame: Frame) -> tuple[tuple[float | None, ...], ...]:
    """Correlate the ranks of every two score columns."""
    correlations: dict[tuple[str, str], float | None] = {}
    for a, b in combinations_with_replacement(frame.columns, 2):
        correlations[a, b] = correlations[b, a] = correlation(frame.ranks[a], frame.ranks[b])
    return tuple(tuple(correlations[a, b] for b in frame.columns) for a in frame.columns)


def _typical(frame: Frame, variable: str, best: np.ndarray) -> Typical:
    values = frame.numbers(variable)
    best_values = values[best]
    return Typical(
        median=rounded(float(np.nanmedian(values))),
        median_of_best=rounded(float(np.nanmedian(best_values))) if np.isfinite(best_values).any() else None,
    )


def _sources(frame: Frame) -> tuple[tuple[Source, ...], int]:
    """Return the commonest values of a column with their scores, and the number of other values."""
    in_best = {f"best_{i}": _chosen(frame, c) for i, c in enumerate(frame.columns)}
    levels = {n: QUANTILES[n] for n in ("q05", "q25", "q50", "q75", "q95")}
    table = frame.table.select("by", "score", "n_tokens").with_columns(**{n: pl.Series(m) for n, m in in_best.items()})
    grouped = table.group_by("by").agg(
        pl.len().alias("documents"),
        pl.col("n_tokens").cast(pl.Int64).sum(),
        pl.col("score").cast(pl.Float64).mean().alias("mean"),
        *(pl.col("score").quantile(q, "linear").alias(n) for n, q in levels.items()),
        *(pl.col(n).sum() for n in in_best),
    )
    listed = grouped.sort("documents", "by", descending=[True, False], nulls_last=True)
    total = frame.table.height
    best = {n: int(m.sum()) for n, m in in_best.items()}
    return tuple(
        Source(
            value=r["by"],
            documents=r["documents"],
            tokens=r["n_tokens"],
            mean=rounded(r["mean"]),
            quantiles={n: rounded(r[n]) for n in levels},
            share=rounded(r["documents"] / total) or 0.0,
            share_of_best={c: rounded(r[n] / best[n]) or 0.0 for c, n in zip(frame.columns, in_best, strict=True)},
            enrichment=rounded(r["best_0"] / best["best_0"] / (r["documents"] / total)),
        )
        for r in listed.head(LISTED).iter_rows(named=True)
    ), max(0, listed.height - LISTED)


def _chosen(frame: Frame, column: str) -> np.ndarray:
    mask = np.zeros(frame.table.height, dtype=bool)
    mask[frame.best(column, BEST)] = True
    return mask
