"""Several runs of one pool: do they rank alike, and do they choose the same documents?"""

from collections.abc import Sequence
from itertools import combinations

import polars as pl

from curate.reports.figures import Pair
from curate.reports.frame import VALUES
from curate.reports.ranks import correlation, membership, ranks, rounded
from curate.scores.run import Run

SHARES = {"1 %": 0.01, "5 %": 0.05}
_NUMBERS = 6  # what a document's place and score take, counted in numbers


def compare(runs: Sequence[Run]) -> tuple[Pair, ...]:
    """Compare every two runs on the documents that both scored.

    Runs of different pools have no documents in common that a place would tell: they are left out.
    """
    every = sampled_by(runs)
    frames = [_places(run, every) for run in runs]
    return tuple(
        _pair(runs[i], runs[j], frames[i], frames[j])
        for i, j in combinations(range(len(runs)), 2)
        if runs[i].record.fingerprints.pool == runs[j].record.fingerprints.pool
    )


def sampled_by(runs: Sequence[Run]) -> int:
    """Return 1 where all documents are compared, n where one in n is: they are held in memory together."""
    counts = [run.scores().select(pl.len()).collect().item() for run in runs]
    return max(1, -(-max(counts) * _NUMBERS * len(runs) // VALUES))


def _places(run: Run, every: int) -> pl.DataFrame:
    rows = run.scores().select(pl.struct("shard", "row").hash(0).alias("place"), "score")
    return rows.filter(pl.col("place") % every == 0).collect(engine="streaming")


def _pair(left: Run, right: Run, one: pl.DataFrame, other: pl.DataFrame) -> Pair:
    both = one.join(other, on="place", suffix="_right", maintain_order="left")
    if both.is_empty():
        return Pair(left=str(left.path), right=str(right.path), documents=0, spearman=None, overlap={})
    a, b = both["score"].to_numpy(), both["score_right"].to_numpy()
    overlap = {}
    for name, share in SHARES.items():
        here, there = membership(a, share), membership(b, share)
        overlap[name] = rounded(float((here * there).sum() / here.sum()))
    return Pair(
        left=str(left.path),
        right=str(right.path),
        documents=both.height,
        spearman=correlation(ranks(a), ranks(b)),
        overlap=overlap,
    )
