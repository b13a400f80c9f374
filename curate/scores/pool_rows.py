"""The pool's rows as one Arrow stream of shard, row and the pool's columns, read when a query needs them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from curate.documents import DamagedShard, Pool, Shard, raw_tables
from curate.errors import CurateError
from curate.folders.unify import conform, unify
from curate.schema import SCORE_COLUMNS, is_reserved

_PROBED = 32  # shards whose first rows are looked at for types; scores know the scalar columns of all


class PoolRows:
    """Scannable by DuckDB any number of times; each scan streams the pool anew in bounded memory.

    `scored` is the schema of the scores: it knows the type of every scalar column over the whole pool.
    Columns of the pool called `shard` or `row` appear as `pool_shard` and `pool_row`.
    """

    def __init__(self, pool: Pool, scored: pa.Schema) -> None:
        self._pool = pool
        self._pool_schema = pool_schema(pool, scored)
        self.schema = pa.schema(
            [("shard", pa.string()), ("row", pa.int64()), *((_shown(f.name), f.type) for f in self._pool_schema)]
        )

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for shard in self._pool.shards:
            for numbers, table in _readable(shard):
                columns = [
                    pa.chunked_array([pa.array([shard.name]).take(pa.array([0] * len(numbers)))]),
                    pa.chunked_array([pa.array(numbers)]),
                    *_conformed(table, self._pool_schema, shard, int(numbers[0])).columns,
                ]
                yield from pa.Table.from_arrays(columns, schema=self.schema).to_batches()


def _readable(shard: Shard) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Stream a shard's tables as far as it can be read: the view skipped names a damaged one."""
    try:
        yield from raw_tables(shard)
    except DamagedShard:
        return


def pool_schema(pool: Pool, scored: pa.Schema) -> pa.Schema:
    """Return the pool's columns, typed by the first rows of some shards and by the scores of all."""
    shards = pool.shards
    step = max(1, len(shards) // _PROBED)
    probed = unify(_first_schema(shard) for shard in shards[::step])
    metadata = pa.schema(
        [(_original(f.name), f.type) for f in scored if f.name not in SCORE_COLUMNS and not f.name.startswith("score_")]
    )
    return unify([probed, metadata])


def _first_schema(shard: Shard) -> pa.Schema:
    for _, table in _readable(shard):
        return table.schema
    return pa.schema([])


def _conformed(table: pa.Table, schema: pa.Schema, shard: Shard, row: int) -> pa.Table:
    try:
        return conform(table, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CurateError(
            f"{shard.name}, after row {row}: a column changes its type ({error}).",
            hint="Give such a column one type, or query `scores`, which holds every scalar column.",
        ) from error


def _shown(name: str) -> str:
    return f"pool_{name}" if name in ("shard", "row") else name


def _original(name: str) -> str:
    bare = name.removeprefix("pool_")
    return bare if bare != name and is_reserved(bare) else name
