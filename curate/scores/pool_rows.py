"""The pool's rows as one Arrow stream of shard, row and the pool's columns, read when a query needs them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Self

import numpy as np
import pyarrow as pa

from curate.documents import DamagedShard, Pool, Shard, formats, raw_tables
from curate.errors import CurateError
from curate.folders.unify import conform, unify
from curate.folders.values import array_of, as_text, map_pairs, mapped_array, mapped_type, python_values
from curate.schema import SCORE_COLUMNS, UNNAMED, column_name, is_reserved, is_score

_PROBED = 32  # shards whose first rows are looked at for types; scores know the scalar columns of all
_WHOLE_BYTES = 2 << 30  # of a pool, of which all rows are looked at where a query fails on types


class PoolRows:
    """Scannable by DuckDB any number of times; each scan streams the pool anew in bounded memory.

    `scored` is the schema of the scores: it knows the type of every scalar column over the whole pool.
    Columns of the pool that are called as one of `scores` is appear as `pool_score` …, as they do there, so that a join
    may say `score`; one without a name as `unnamed`.
    """

    def __init__(self, pool: Pool, scored: pa.Schema, *, whole: bool = False) -> None:
        self._pool, self._scored = pool, scored
        self.is_typed_whole = whole
        self._pool_schema = pool_schema(pool, scored, whole=whole)
        names = self._pool_schema.names
        self.schema = pa.schema(
            [("shard", pa.string()), ("row", pa.int64()), *zip(_shown(names), self._pool_schema.types, strict=True)]
        )

    @property
    def can_be_typed_whole(self) -> bool:
        """Whether a look at all rows of the pool is a matter of a minute or so."""
        return sum(shard.size or 0 for shard in self._pool.shards) <= _WHOLE_BYTES

    def typed_whole(self) -> Self:
        """Return the same rows with types that hold all of them, learned in one pass over the pool."""
        return type(self)(self._pool, self._scored, whole=True)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for shard in self._pool.shards:
            for numbers, table in _readable(shard):
                table = _for_sql(table, whole=self.is_typed_whole)
                columns = [
                    pa.chunked_array([pa.array([shard.name]).take(pa.array([0] * len(numbers)))]),
                    pa.chunked_array([pa.array(numbers)]),
                    *_conformed(table, self._pool_schema, shard, int(numbers[0])).columns,
                ]
                yield from pa.Table.from_arrays(columns, schema=self.schema).to_batches()


def _for_sql(table: pa.Table, *, whole: bool) -> pa.Table:
    """Return a table of values that DuckDB takes from Arrow."""
    for number, field in enumerate(table.schema):
        if mapped_type(field.type, partial(_in_sql, whole=whole)) != field.type:
            chunks = [mapped_array(c, partial(_array_in_sql, whole=whole)) for c in table.column(number).chunks]
            table = table.set_column(number, field.name, pa.chunked_array(chunks))
    return table


def _array_in_sql(array: pa.Array, *, whole: bool) -> pa.Array:
    kind = _in_sql(array.type, whole=whole)
    if kind == array.type:
        return array
    if isinstance(array, pa.MapArray):
        return mapped_array(map_pairs(array), partial(_array_in_sql, whole=whole))
    return array_of(python_values(array, as_text), kind) if pa.types.is_string(kind) else array.cast(kind)


def _readable(shard: Shard) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Stream a shard's tables as far as it can be read: the view skipped names a damaged one."""
    try:
        yield from raw_tables(shard)
    except DamagedShard:
        return


def pool_schema(pool: Pool, scored: pa.Schema, *, whole: bool = False) -> pa.Schema:
    """Return the pool's columns, typed by the first rows of some shards and by the scores of all, or by all rows."""
    step = 1 if whole else max(1, len(pool.shards) // _PROBED)
    probed = unify(schema for shard in pool.shards[::step] for schema in _schemas(shard, whole=whole))
    names = {column_name(name): name for name in probed.names} | {name: name for name in probed.names}
    metadata = {
        _original(f.name, names): f.type for f in scored if f.name not in SCORE_COLUMNS and not is_score(f.name)
    }
    unified = unify([probed, pa.schema([(n, k) for n, k in metadata.items() if not whole or n not in names])])
    return pa.schema(
        [
            f.with_type(pa.string() if _lacks_names(f.type) else mapped_type(f.type, partial(_in_sql, whole=whole)))
            for f in unified
        ]
    )


def _lacks_names(kind: pa.DataType) -> bool:
    """Whether SQL would take two keys of objects for one: a null character ends a name there."""
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return any("\0" in f.name or _lacks_names(f.type) for f in fields)


def _schemas(shard: Shard, *, whole: bool) -> Iterator[pa.Schema]:
    stated = formats.get(shard.format).schema(shard) if whole else None
    if stated is not None:
        yield stated
    else:
        yield from (table.schema for _, table in islice(_readable(shard), None if whole else 1))


def _in_sql(kind: pa.DataType, *, whole: bool) -> pa.DataType:
    """Return the type of values that DuckDB takes from Arrow; `whole`: also where a map has a key twice."""
    if kind == pa.float16():
        return pa.float32()
    if pa.types.is_decimal256(kind) or (pa.types.is_decimal(kind) and kind.scale < 0) or pa.types.is_union(kind):
        return pa.string()
    if whole and pa.types.is_map(kind):
        key, value = (mapped_type(t, partial(_in_sql, whole=whole)) for t in (kind.key_type, kind.item_type))
        return pa.list_(pa.struct([("key", key), ("value", value)]))
    return kind


def _conformed(table: pa.Table, schema: pa.Schema, shard: Shard, row: int) -> pa.Table:
    try:
        return conform(table, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CurateError(
            f"{shard.name}, after row {row}: a column changes its type ({error}).",
            hint="Give such a column one type, or query `scores`, which holds every scalar column.",
        ) from error


def _shown(names: Sequence[str]) -> list[str]:
    """Name the pool's columns: those that are called as one of the scores as the scores name them."""
    taken = {n.casefold() for n in names if not is_reserved(n)}
    renamed: dict[str, str] = {}
    for name in sorted(filter(is_reserved, names)):  # the order in which scores name them
        column = f"pool_{name}"
        while column.casefold() in taken:
            column = f"pool_{column}"
        taken.add(column.casefold())
        renamed[name] = column
    return [renamed.get(name) or column_name(name) for name in names]


def _original(name: str, names: Mapping[str, str]) -> str:
    """Return what the pool calls a column of the scores; `names` are the pool's, by what SQL calls them."""
    if name in names:
        return names[name]
    if name == UNNAMED:
        return ""
    bare = name
    while bare.startswith("pool_"):  # of two columns that differ by case alone one has the prefix twice
        bare = bare.removeprefix("pool_")
        if bare in names or is_reserved(bare):
            return names.get(bare, bare)
    return name
