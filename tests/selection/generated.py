"""Random rows of every kind that a pool may have, by seed."""

import random
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any

import pyarrow as pa

NAMES = (
    *(
        "",
        "a",
        "A",
        "score",
        "Score",
        "row",
        "shard",
        "run",
        "weight",
        'a"; DROP',
        "é.b[]",
        "e\u0301",
        "é",
        "id",
        "loss",
    ),
    *("curate_score", "__index_level_0__", "pool_row", "train", "unnamed", "x y", "score_a", "a\0b", "token_scores"),
)
KEYS = ("", "a", "A", "k.b", "é", "role")
LETTERS = "ab Zé\u0301\u4e2d\U0001f600\t\n\r\"\\'=+-@,;|`\u2028\u202e\x00\x1b\x7f\x85{}[]<>01eE.N"
Random = random.Random


def text(rng: Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(6)))


def number(rng: Random) -> int:
    edge = rng.choice((1, 2**31, 2**53, 2**63, 2**64, 2**70))
    return rng.choice((-1, 1)) * (edge + rng.randint(-1, 1)) if rng.random() < 0.4 else rng.randint(-9, 9)


def floating(rng: Random) -> float:
    return rng.choice((0.0, -0.0, 1e300, 5e-324, 0.1, 1.0, rng.gauss(0, 1e3)))


def json_value(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind >= 7:
        return {rng.choice(KEYS): json_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 6:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    scalars = (lambda r: None, lambda r: r.random() < 0.5, number, floating, text, text)
    return scalars[kind](rng)


def json_rows(rng: Random, count: int) -> list[dict[str, Any]]:
    """Rows whose columns keep to one type, mix them, or come and go."""
    names = rng.sample(NAMES, rng.randrange(7))
    steady = {name: rng.choice((None, number, floating, text)) for name in names}
    rows = []
    for i in range(count):
        row: dict[str, Any] = {"text": f"t {i}"}
        for name in names:
            if rng.random() < 0.8:
                make = steady[name]
                row[name] = make(rng) if make else json_value(rng)
        rows.append(row)
    return rows


def text_rows(rng: Random, count: int) -> list[dict[str, Any]]:
    """Rows of strings and nulls, every column in each."""
    names = [name for name in rng.sample(NAMES, 5) if name and "\0" not in name]
    return [{"text": f"t {i}", **{n: text(rng) or None for n in names}} for i in range(count)]


def _moment(rng: Random) -> int:
    return rng.randint(-(2**58), 2**58)


LEAVES: list[tuple[pa.DataType, Callable[[Random], Any]]] = [
    (pa.int8(), lambda r: r.randint(-128, 127)),
    (pa.int64(), lambda r: r.randint(-(2**63), 2**63 - 1)),
    (pa.uint64(), lambda r: r.randrange(2**64)),
    (pa.float16(), lambda r: r.randint(-9, 9) / 4),
    (pa.float32(), lambda r: r.choice((0.5, float("nan"), float("-inf"), r.randint(-9, 9) / 8))),
    (pa.float64(), lambda r: r.choice((floating(r), float("nan"), float("inf")))),
    (pa.bool_(), lambda r: r.random() < 0.5),
    (pa.string(), text),
    (pa.large_string(), text),
    (pa.dictionary(pa.int8(), pa.string()), text),
    (pa.binary(), lambda r: r.randbytes(r.randrange(5))),
    (pa.large_binary(), lambda r: r.randbytes(r.randrange(5))),
    (pa.binary(3), lambda r: r.randbytes(3)),
    (pa.date32(), lambda r: date.fromordinal(r.randint(1, 3652059))),
    (pa.date64(), lambda r: date.fromordinal(r.randint(1, 3652059))),
    (pa.time32("s"), lambda r: time(r.randrange(24), r.randrange(60), r.randrange(60))),
    (pa.time64("us"), lambda r: time(r.randrange(24), 1, 2, r.randrange(10**6))),
    (pa.duration("us"), lambda r: timedelta(microseconds=r.randint(-(10**14), 10**14))),
    (pa.timestamp("us"), _moment),
    (pa.timestamp("us", "UTC"), _moment),
    (pa.timestamp("us", "+05:30"), _moment),
    (pa.timestamp("ms", "tzutc()"), lambda r: r.randint(-(2**47), 2**47)),
    (pa.timestamp("ns", "Europe/Berlin"), _moment),
    (pa.decimal128(20, 3), lambda r: Decimal(r.randint(-(10**9), 10**9)) / 1000),
    (pa.decimal256(50, 2), lambda r: Decimal(r.randint(-(10**20), 10**20)) / 100),
    (pa.null(), lambda r: None),
]
_OF_ARROW: list[tuple[pa.DataType, Callable[[Random], Any]]] = [
    (pa.string_view(), text),
    (pa.month_day_nano_interval(), lambda r: pa.MonthDayNano([r.randrange(9), r.randrange(9), r.randrange(9)])),
]


def typed_column(rng: Random, count: int, *, in_parquet: bool, in_datasets: bool) -> pa.Array:
    """A column of any type that its file may have, nested up to three levels deep, with nulls."""
    if not in_parquet and not in_datasets and rng.random() < 0.1:
        return _union(rng, count)
    return _array(rng, count, 0, in_parquet=in_parquet, in_datasets=in_datasets)


def _array(rng: Random, count: int, depth: int, *, in_parquet: bool, in_datasets: bool) -> pa.Array:
    limits = {"in_parquet": in_parquet, "in_datasets": in_datasets}
    mask = [rng.random() < 0.2 for _ in range(count)]
    kind = rng.randrange(11) if depth < 3 else 0
    if kind in (6, 7, 8):
        lengths = [0 if null else rng.randrange(4) for null in mask]
        offsets = list(accumulate(lengths, initial=0))
        inner = _array(rng, offsets[-1], depth + 1, **limits)
        if kind == 6:
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=pa.array(mask, pa.bool_()))
        if kind == 7 or in_datasets:
            return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), inner, mask=pa.array(mask, pa.bool_()))
        keys = pa.array([text(rng) for _ in range(offsets[-1])], pa.string())
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, inner, mask=pa.array(mask, pa.bool_()))
    if kind == 9:
        columns = [_array(rng, count, depth + 1, **limits) for _ in range(2)]
        return pa.StructArray.from_arrays(columns, names=["x", ""], mask=pa.array(mask, pa.bool_()))
    if kind == 10 and not in_parquet:  # Arrow's Parquet reader takes no null in a list of fixed size
        inner = _array(rng, 2 * count, depth + 1, **limits)
        return pa.FixedSizeListArray.from_arrays(inner, 2, mask=pa.array(mask, pa.bool_()))
    leaf, make = rng.choice(LEAVES if in_parquet or in_datasets else [*LEAVES, *_OF_ARROW])
    return pa.array([None if null else make(rng) for null in mask], leaf)


def _union(rng: Random, count: int) -> pa.Array:
    kinds = pa.array([rng.randrange(2) for _ in range(count)], pa.int8())
    moments = pa.array([_moment(rng) >> 12 for _ in range(count)], pa.timestamp("ms", "tzutc()"))
    return pa.UnionArray.from_sparse(kinds, [pa.array([text(rng) for _ in range(count)], pa.string()), moments])


def typed_table(rng: Random, count: int, prefix: str, *, in_parquet: bool, in_datasets: bool) -> pa.Table:
    """A table of a few columns beside the text, whose names begin with a prefix."""
    names = [prefix + name for name in rng.sample(NAMES, rng.randrange(5)) if not (in_datasets and "\0" in name)]
    limits = {"in_parquet": in_parquet, "in_datasets": in_datasets}
    columns = {name: typed_column(rng, count, **limits) for name in names}
    return pa.table({"text": pa.array([f"t {i}" for i in range(count)]), **columns})
