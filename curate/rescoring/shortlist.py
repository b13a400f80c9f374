"""Choose the documents to rescore, and those to train on beside them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import xxhash

from curate.documents import Fields, Pool, documents, sample_rows
from curate.errors import CurateError
from curate.executors.chunks import ChunkEncoder
from curate.executors.contract import Chunk, Span, SpanRows
from curate.schema import Document
from curate.scores.best import best_rows
from curate.scores.correlation import spearman
from curate.scores.run import Run

Place = tuple[str, int]
"""A document's shard and row."""


def best_places(runs: Sequence[Run], count: int) -> set[Place]:
    """Return the places of the best documents of each run; equal scores go by place."""
    return {place for run in runs for place in best_rows(run, ("shard", "row"), count)}


def fingerprint(places: set[Place]) -> str:
    """Hash a shortlist."""
    return xxhash.xxh3_128_hexdigest(repr(sorted(places)).encode())


def read_places(pool: Pool, fields: Fields, encode: ChunkEncoder, places: set[Place]) -> list[Chunk]:
    """Read a shortlist's documents, a part per shard that has some.

    Raises CurateError where the pool has fewer of them than the shortlist.
    """
    chunks = []
    for index, shard in enumerate(pool.shards):
        row_numbers = sorted(row for name, row in places if name == shard.name)
        rows = list(documents(shard, fields, only=row_numbers)) if row_numbers else []
        if len(rows) < len(row_numbers):
            raise CurateError(f"{shard.name} has {len(rows)} of the {len(row_numbers)} scored rows.")
        if rows:
            end = rows[-1].row + 1
            span = Span(shard=shard.name, shard_index=index, index=0, start=0, end=end, last=True)
            chunks.append(encode(SpanRows(span=span, rows=rows)))
    return chunks


def background(pool: Pool, fields: Fields, shortlist: Sequence[Document], count: int, seed: int) -> list[Document]:
    """Draw documents of the pool that are neither in the shortlist nor copies of its documents; all if fewer."""
    places = {(d.shard, d.row) for d in shortlist}
    contents = {d.content_hash for d in shortlist}
    drawn = sample_rows(pool, count + len(shortlist), seed, fields)
    candidates = [d for d in drawn if (d.shard, d.row) not in places and d.content_hash not in contents]
    if len(candidates) <= count:
        return candidates
    positions = np.random.default_rng([seed, 2]).permutation(len(candidates))[:count]
    return [candidates[i] for i in sorted(positions)]


def movement(parent: Run, rescored: pl.DataFrame) -> dict[str, float | int | None]:
    """Return how a run's ranking of the rescored documents moved: rank correlation, and overlap of the top tenth."""
    before = parent.scores().select("shard", "row", pl.col("score").alias("before"))
    after = rescored.lazy().select("shard", "row", "score")
    joined = after.join(before, on=["shard", "row"]).sort("shard", "row").collect(engine="streaming")
    tenth = max(1, len(joined) // 10)
    top = [set(joined.with_row_index().top_k(tenth, by=column)["index"]) for column in ("before", "score")]
    return {
        "documents": len(joined),
        "spearman": spearman(joined["before"].to_numpy(), joined["score"].to_numpy()) if len(joined) > 1 else None,
        "top_tenth": tenth,
        "stayed": len(top[0] & top[1]),
    }
