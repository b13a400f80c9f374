"""Types that hold Python values exactly, arrays of plain types, and values that Python cannot hold."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.folders.unify import merge_columns, unify, unify_types
from curate.folders.values import (
    EITHER_64,
    JSON_TEXT,
    array_of,
    as_text,
    in_known_zone,
    plain_array,
    python_values,
    storage_type,
    type_of,
)

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3)
KEYS = st.text('abA é"', max_size=2)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=8)


def held(value, kind: pa.DataType, stored) -> bool:
    """Whether what is stored says all of a value: itself, JSON of it, or an object with nulls for keys it lacks."""
    if value is None or stored is None:
        return value is stored
    if pa.types.is_struct(kind):
        types = {f.name: f.type for f in kind}
        return set(value) <= set(types) and all(held(value.get(k), t, stored[k]) for k, t in types.items())
    if pa.types.is_list(kind):
        return len(value) == len(stored) and all(
            held(v, kind.value_type, s) for v, s in zip(value, stored, strict=True)
        )
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.loads(stored) == value and type(json.loads(stored)) is type(value)
    return stored == value and isinstance(value, bool) == isinstance(stored, bool)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(0, 6))
def test_any_values_of_json_are_held_whole_also_when_typed_in_two_batches(values, cut):
    kind = storage_type(unify_types(type_of(values[:cut]), type_of(values[cut:])))
    assert kind == storage_type(type_of(values))
    stored = array_of(values, kind)
    assert stored.type == kind
    assert all(held(v, kind, s) for v, s in zip(values, stored.to_pylist(), strict=True))


def test_only_the_leaf_that_is_mixed_becomes_text():
    kind = type_of([[{"role": "user", "content": "a"}], [{"role": "user", "content": [{"text": "b"}]}]])
    assert kind == pa.list_(pa.struct([("role", pa.string()), ("content", JSON_TEXT)]))


def test_an_object_with_a_key_for_every_row_is_text_and_no_struct_of_thousands():
    assert type_of([{f"k{i}": i} for i in range(3000)]) == JSON_TEXT
    halves = [type_of([{f"{half}{i}": "x" for i in range(600)}]) for half in "ab"]
    assert unify_types(*halves) == JSON_TEXT


def test_numbers_of_64_bits_keep_their_digits_between_files():
    both = unify(pa.schema([("h", kind)]) for kind in (pa.int64(), pa.uint64()))
    assert both.field("h").type == EITHER_64
    assert array_of([-(2**63), 2**64 - 1], EITHER_64).to_pylist() == [-(2**63), 2**64 - 1]
    assert unify(pa.schema([("h", k)]) for k in (pa.uint64(), pa.float64())).field("h").type == pa.string()
    types: dict[str, pa.DataType] = {}
    for numbers in ([1, 2], [2**63], [5]):
        merge_columns(types, pa.schema([("h", type_of(numbers))]))
    assert storage_type(types["h"]) == pa.uint64()


@pytest.mark.parametrize("values", [[], [None], [[], None]])
def test_lists_of_objects_may_all_be_empty_or_missing(values):
    kind = pa.list_(pa.struct([("role", pa.string()), ("parts", pa.list_(pa.struct([("text", pa.string())])))]))
    array = array_of(values, kind)
    assert array.type == kind
    assert array.to_pylist() == values


VIEWS = pa.array(["a", "b", None], pa.string_view())


@pytest.mark.parametrize(
    ("array", "plain"),
    [
        (VIEWS, pa.string()),
        (pa.array([b"a", None], pa.binary_view()), pa.binary()),
        (pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint32()), VIEWS), pa.string()),
        (pa.array([["a", None], None, []], pa.large_list(pa.string_view())), pa.large_list(pa.string())),
        (pa.array([[1], None, []], pa.list_view(pa.int8())), pa.list_(pa.int8())),
        (pa.array([["a", None], None, [], ["b"]], pa.large_list_view(pa.string_view())), pa.large_list(pa.string())),
        (
            pa.StructArray.from_arrays([VIEWS, VIEWS], ["x", "y"], mask=pa.array([False, True, False])),
            pa.struct([("x", pa.string()), ("y", pa.string())]),
        ),
        (pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string_view())), pa.map_(pa.string(), pa.string())),
        (pa.array([1, None], pa.decimal32(5, 2)), pa.decimal128(5, 2)),
        (pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array(["a", "b"])), pa.string()),
    ],
)
def test_ways_of_storing_are_taken_off_and_the_values_stay(array, plain):
    for piece in (array, array.slice(1), array.slice(1, 1)):
        found = plain_array(piece)
        found.validate(full=True)
        assert found.type == plain
        assert found.to_pylist() == piece.to_pylist()


def test_a_uuid_is_its_text():
    (text,) = plain_array(pa.array([bytes(range(16))], pa.uuid())).to_pylist()
    assert text == "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_a_moment_that_python_lacks_is_left_to_the_caller_at_any_depth():
    moments = pa.array([0, 600_000_000_000], pa.timestamp("s"))
    nested = pa.ListArray.from_arrays([0, 2], pa.StructArray.from_arrays([moments], ["at"]))
    ((good, bad),) = python_values(nested, as_text)
    assert (good["at"].year, bad["at"][:5]) == (1970, "20983")
    assert python_values(nested, lambda _: None)[0][1] == {"at": None}


def test_zones_of_no_region_become_utc_and_keep_the_moment():
    for zone in ("+05:30", "tzutc()", "Factory"):
        array = in_known_zone(pa.array([0], pa.timestamp("us", zone)))
        assert (array.type.tz, array.cast(pa.int64()).to_pylist()) == ("UTC", [0])
    assert in_known_zone(pa.array([0], pa.timestamp("us", "Asia/Kolkata"))).type.tz == "Asia/Kolkata"


def test_lists_and_objects_of_which_none_has_a_value_are_arrays_too():
    kind = pa.list_(pa.struct([("a", pa.int64())]))
    assert array_of([[], []], kind).to_pylist() == [[], []]
    assert array_of([], pa.struct([("a", pa.int64())])).to_pylist() == []


def test_values_of_maps_unions_and_lists_of_one_size_come_in_utc_where_the_zone_is_unknown():
    zone, utc = pa.timestamp("ms", "tzutc()"), pa.timestamp("ms", "UTC")
    moments = pa.array([1, 2, 3], utc).to_pylist()
    arrays = [
        pa.array([[("a", 1)], None, []], pa.map_(pa.string(), zone)),
        pa.array([[1, 2], None], pa.list_(zone, 2)),
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array(["a", "b"]), pa.array([1, 2], zone)]),
    ]
    assert python_values(arrays[0], as_text) == [[("a", moments[0])], None, []]
    assert python_values(arrays[1].slice(1), as_text) == [None]
    assert python_values(arrays[1], as_text) == [moments[:2], None]
    assert python_values(arrays[2], as_text) == ["a", moments[1]]
