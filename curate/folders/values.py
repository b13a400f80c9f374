"""Python values and Arrow arrays: the type that holds values exactly, and conversion both ways."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class _JsonText(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.string(), "curate.json_text")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "_JsonText":
        return cls()


class Whole(pa.ExtensionType):
    """Whole numbers of Python from `low` to `high`, in the smallest type that holds all of them exactly."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        super().__init__(_whole_type(low, high), f"curate.whole.{low}.{high}")

    def __arrow_ext_serialize__(self) -> bytes:
        return f"{self.low} {self.high}".encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Whole":
        low, high = serialized.decode().split()
        return cls(int(low), int(high))


def _whole_type(low: int, high: int) -> pa.DataType:
    if low >= -(2**63) and high < 2**63:
        return pa.int64()
    if low < -(2**63) or high >= 2**64:
        return pa.string()
    return EITHER_64 if low < 0 else pa.uint64()


EITHER_64 = pa.decimal128(20, 0)
"""Holds every number of 64 bits, signed or not."""
JSON_TEXT = _JsonText()
"""Values that share no type: each is written as JSON, strings as they are."""
_MARKS = (_JsonText, Whole)
EXACT = 2**53  # the largest whole number below which a float holds all
_REGION = re.compile(r"UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+")
MOST_KEYS = 1024  # of one object; a struct of more is a map in disguise, and Arrow gives every object all of them
_SCALARS = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}
_FAILURES = (ValueError, TypeError, OverflowError, pa.ArrowException)


def type_of(values: Sequence[Any]) -> pa.DataType:
    """Return the marked type that holds all values exactly; JSON_TEXT where Arrow has none."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.null()
    if kinds == {dict}:
        types = types_of([v for v in values if v is not None])
        # Arrow's exchange with other libraries cuts names at a null character.
        named = len(types) <= MOST_KEYS and not any("\0" in name for name in types)
        return pa.struct(list(types.items())) if named else JSON_TEXT
    if kinds == {list}:
        return pa.list_(type_of(list(chain.from_iterable(v for v in values if v is not None))))
    if int in kinds and kinds <= {int, float}:
        numbers = [v for v in values if type(v) is int]
        whole = Whole(min(numbers), max(numbers))
        return with_float(whole) if float in kinds else whole
    if len(kinds) > 1:
        return JSON_TEXT
    return _SCALARS.get(kinds.pop()) or _type_in_arrow(values)


def types_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """Return the marked type of every key that any row has, in the order first seen."""
    by_key: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            by_key.setdefault(key, []).append(value)
    return {key: type_of(values) for key, values in by_key.items()}


def with_float(whole: Whole) -> pa.DataType:
    """Return the type of whole numbers and floats together: float64 where it holds all of them exactly."""
    return pa.float64() if whole.low >= -EXACT and whole.high <= EXACT else JSON_TEXT


def _type_in_arrow(values: Sequence[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except _FAILURES:
        return JSON_TEXT


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any length, with small or large offsets."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def storage_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without marks."""
    return mapped_type(kind, lambda leaf: leaf.storage_type if isinstance(leaf, _MARKS) else leaf)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values alone: dictionaries, views and extensions are ways of storing them."""
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return kind if isinstance(kind, _MARKS) else plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_large_list_view(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type), keys_sorted=kind.keys_sorted)
    if is_list(kind) or pa.types.is_fixed_size_list(kind) or (pa.types.is_struct(kind) and kind.num_fields):
        return mapped_type(kind, plain_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def mapped_type(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type with each innermost type changed; maps and objects without keys count as such."""

    def mapped(field: pa.Field) -> pa.Field:
        return field.with_type(mapped_type(field.type, change))

    if pa.types.is_struct(kind) and kind.num_fields:
        return pa.struct([mapped(f) for f in kind])
    if pa.types.is_list(kind):
        return pa.list_(mapped(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(mapped(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(mapped(kind.value_field), kind.list_size)
    return change(kind)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch of plain types."""
    columns = [plain_array(column) for column in batch.columns]
    fields = [f if f.type == c.type else f.with_type(c.type) for f, c in zip(batch.schema, columns, strict=True)]
    if all(a is b for a, b in zip(fields, batch.schema, strict=True)):
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=batch.schema.metadata))


def plain_array(array: pa.Array) -> pa.Array:
    """Return an array of the plain type; Arrow itself takes from no view and casts no dictionary of views."""
    kind, target = array.type, plain_type(array.type)
    if kind == target:
        return array
    if isinstance(kind, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
    if isinstance(array, pa.ExtensionArray):
        return plain_array(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return plain_array(array.dictionary).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        return plain_array(pc.call_function("run_end_decode", [array]))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # Arrow's own cast makes too few offsets where a list is null.
        return _list_array(array.value_lengths().to_pylist(), plain_array(array.flatten()), target, array.is_null())
    if isinstance(array, pa.MapArray):
        pairs = plain_array(map_pairs(array))
        keys, items = pairs.flatten().flatten()
        offsets = pa.array(accumulate((n or 0 for n in pairs.value_lengths().to_pylist()), initial=0), pa.int32())
        return pa.MapArray.from_arrays(offsets, keys, items, type=target, mask=array.is_null())
    return mapped_array(array, plain_array) if pa.types.is_nested(kind) else array.cast(target)


def mapped_array(array: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Return an array with each innermost one changed; maps, unions and objects without keys count as such."""
    kind, mask = array.type, array.is_null()
    if isinstance(array, pa.StructArray) and kind.num_fields:
        columns = [mapped_array(column, change) for column in array.flatten()]
        fields = [field.with_type(column.type) for field, column in zip(kind, columns, strict=True)]
        return pa.StructArray.from_arrays(columns, fields=fields, mask=mask)
    if is_list(kind):
        values = mapped_array(array.flatten(), change)
        make = pa.large_list if pa.types.is_large_list(kind) else pa.list_
        lengths = array.value_lengths().to_pylist()
        return _list_array(lengths, values, make(kind.value_field.with_type(values.type)), mask)
    if isinstance(array, pa.FixedSizeListArray):
        values = mapped_array(array.flatten(), change).take(_places(mask, kind.list_size))
        fixed = pa.list_(kind.value_field.with_type(values.type), kind.list_size)
        return pa.FixedSizeListArray.from_arrays(values, type=fixed, mask=mask)
    return change(array)


def _places(mask: pa.Array, size: int) -> pa.Array:
    """Return where the values of lists of one size lie among those of the lists that are not null."""
    nulls = np.repeat(mask.to_numpy(zero_copy_only=False), size)
    return pa.array(np.cumsum(~nulls) - 1, pa.int64(), mask=nulls)


def map_pairs(array: pa.MapArray) -> pa.ListArray:
    """Return maps as lists of objects with `key` and `value`."""
    # Arrow's own cast breaks lists of one size of nulls.
    offsets = np.asarray(array.offsets)
    first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
    columns = [array.keys.slice(first, count), array.items.slice(first, count)]
    pairs = pa.StructArray.from_arrays(columns, names=["key", "value"])
    return pa.ListArray.from_arrays(pa.array(offsets - first, pa.int32()), pairs, mask=array.is_null())


def _list_array(lengths: Sequence[int | None], values: pa.Array, kind: pa.DataType, mask: pa.Array) -> pa.Array:
    large = pa.types.is_large_list(kind)
    offsets = pa.array(accumulate((n or 0 for n in lengths), initial=0), pa.int64() if large else pa.int32())
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, values, type=kind, mask=mask)


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return an array of a given type; in strings whatever is none is written as JSON.

    Objects lose keys that the type does not have. Raises pa.ArrowInvalid or pa.ArrowTypeError for other values.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([v if v is None or isinstance(v, str) else json_text(v) for v in values], kind)
    if pa.types.is_struct(kind):
        _check_kind(values, dict, kind)
        if not kind.num_fields:
            return pa.array([None if v is None else {} for v in values], kind)
        columns = [array_of([None if v is None else v.get(f.name) for v in values], f.type) for f in kind]
        mask = pa.array([v is None for v in values], pa.bool_())
        return pa.StructArray.from_arrays(columns, fields=list(kind), mask=mask)
    if is_list(kind):
        _check_kind(values, list, kind)
        flat = list(chain.from_iterable(v for v in values if v is not None))
        mask = pa.array([v is None for v in values], pa.bool_())
        return _list_array([len(v or ()) for v in values], array_of(flat, kind.value_type), kind, mask)
    return pa.array(values, kind)


def _check_kind(values: Sequence[Any], expected: type, kind: pa.DataType) -> None:
    if other := next((v for v in values if v is not None and not isinstance(v, expected)), None):
        raise pa.ArrowTypeError(f"a {type(other).__name__} where others are {kind}")


def json_text(value: Any) -> str:
    """Return a value as JSON; a decimal as a number, bytes as base64, other values that JSON lacks as text."""
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=as_json)


def in_known_zone(array: pa.Array) -> pa.Array:
    """Return moments of a zone that is no region's, such as +05:30, in UTC: polars panics over such names."""
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.tz and not _REGION.fullmatch(kind.tz):
        return array.cast(pa.timestamp(kind.unit, "UTC"))
    return array


def as_json(value: Any) -> Any:
    """Return what stands in JSON for a value that it lacks."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def python_values(array: pa.Array | pa.ChunkedArray, unheld: Callable[[pa.Scalar], Any]) -> list[Any]:
    """Return an array as Python values; `unheld` stands in for each that Python has no value for.

    Those are moments beyond the year 9999 and strings that are not UTF-8. Moments in a zone of an unknown name come in
    UTC; of equal names in one object the last counts.
    """
    try:
        return array.to_pylist()
    except _FAILURES:
        if isinstance(array, pa.ChunkedArray):
            return [value for chunk in array.chunks for value in python_values(chunk, unheld)]
    kind = array.type
    if isinstance(array, pa.StructArray):
        columns = [python_values(column, unheld) for column in array.flatten()]
        objects = (dict(zip(kind.names, row, strict=True)) for row in zip(*columns, strict=True))
        return [value if valid else None for value, valid in zip(objects, array.is_valid().to_pylist(), strict=True)]
    if is_list(kind):
        flat = iter(python_values(array.flatten(), unheld))
        lengths = array.value_lengths().to_pylist()
        return [None if n is None else [next(flat) for _ in range(n)] for n in lengths]
    if isinstance(array, pa.MapArray):
        maps = python_values(map_pairs(array), unheld)
        return [None if pairs is None else [(p["key"], p["value"]) for p in pairs] for pairs in maps]
    if isinstance(array, pa.FixedSizeListArray):
        return python_values(array.cast(pa.list_(kind.value_type)), unheld)
    if pa.types.is_timestamp(kind) and kind.tz:
        array = array.cast(pa.timestamp(kind.unit, "UTC"))
    return [_value(scalar, unheld) for scalar in array]


def _value(scalar: pa.Scalar, unheld: Callable[[pa.Scalar], Any]) -> Any:
    try:
        return scalar.as_py()
    except _FAILURES:
        if isinstance(scalar, pa.UnionScalar):
            return python_values(pa.repeat(scalar.value, 1), unheld)[0]
        return unheld(scalar)


def as_text(scalar: pa.Scalar) -> str:
    """Return a value that Python cannot hold as text: a moment as ISO 8601 has it, else what can be read of it."""
    if pa.types.is_timestamp(scalar.type) or pa.types.is_date(scalar.type):
        return scalar.cast(pa.string()).as_py()
    buffer = getattr(scalar, "as_buffer", None)
    return buffer().to_pybytes().decode("utf-8", "replace") if buffer else str(scalar.cast(pa.int64()).as_py())
