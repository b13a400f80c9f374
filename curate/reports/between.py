"""Several runs of one pool: do they rank alike, and do they choose the same documents?"""

from collections.abc import Sequence
from itertools import combinations

import polars as pl

from curate.reports.figures import Pair
from curate.reports.frame import VALUES
from curate.reports.ranks import correlation, membership, ranks, rounded
from curate.scores.run import Run

SHARES = {"1 %": 0.01, "5 %": 0.05}
_NUMBERS = 6  # the memory of a document's place and score, in numbers


def compare(runs: Sequence[Run]) -> tuple[Pair, ...]:
    """Compare every two runs on the documents that both scored.

    Runs of different pools share no places and are left out.
    """
    every = sampled_by(runs)
    frames = [_places(run, every) for run in runs]
    return tuple(
        _pair(runs[i], runs[j], frames[i], frames[j])
        for i, j in combinations(range(len(runs)), 2)
        if runs[i].record.fingerprints.pool == runs[j].record.fingerprints.pool
    )


def sampled_by(runs: Sequence[Run]) -> int:
    """Return n where one in n documents is compared, so that all fit in memory together; 1 where all are."""
    counts = [run.scores().select(pl.len()).collect().item() for run in runs]
    return max(1, -(-max(counts) * _NUMBERS * len(runs) // VALUES))


def _places(run: Run, every: int) -> pl.DataFrame:
    places = run.scores().select(pl.struct("shard", "row").hash(0).alias("place"), "score")
    return places.filter(pl.col("place") % every == 0).collect(engine="streaming")


def _pair(left: Run, right: Run, left_places: pl.DataFrame, right_places: pl.DataFrame) -> Pair:
    joined = left_places.join(right_places, on="place", suffix="_right", maintain_order="left")
    if joined.is_empty():
        return Pair(left=left.address, right=right.address, documents=0, spearman=None, overlap={})
    left_scores, right_scores = joined["score"].to_numpy(), joined["score_right"].to_numpy()
    overlap = {}
    for name, share in SHARES.items():
        in_left, in_right = membership(left_scores, share), membership(right_scores, share)
        overlap[name] = rounded(float((in_left * in_right).sum() / in_left.sum()))
    return Pair(
        left=left.address,
        right=right.address,
        documents=joined.height,
        spearman=correlation(ranks(left_scores), ranks(right_scores)),
        overlap=overlap,
    )
