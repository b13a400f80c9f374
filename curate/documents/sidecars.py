"""Tell files of JSON that lie beside the shards and are no data: statistics, descriptions, indices."""

import codecs
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePosixPath

import orjson

from curate.documents import formats
from curate.documents.elements import HEAD, is_array
from curate.documents.files import local_path, open_binary, plain_name
from curate.documents.shards import BadRow, Row, Shard
from curate.errors import CurateError

_LARGEST = 64 << 20
_INDEX = "index.json"


def without_sidecars(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards that are data; all where none is.

    A .json is no data when it is one value and no objects, or when it has no column of the other shards and is a single
    object or an array. In an object store files of JSON are opened only where there are others, too.
    """
    others = [s for s in shards if not plain_name(s.name).endswith(".json")]
    if len(others) == len(shards) or (not others and local_path(shards[0].url) is None):
        return list(shards)
    beginnings = {s.name: _beginning(s) for s in shards if plain_name(s.name).endswith(".json")}
    unfit = {n for n, rows in beginnings.items() if rows is None}
    single = {n for n, rows in beginnings.items() if rows is not None and len(rows) == 1}
    arrays = {s.name for s in shards if s.name in beginnings and _is_array(s)} - unfit - single
    foreign: set[str] = set()
    for doubtful in (single | arrays, single):
        if columns := _columns([s for s in shards if s.name not in unfit | doubtful]):
            foreign = {n for n in doubtful if columns.isdisjoint(_keys(beginnings[n]))}
            break
    return [s for s in shards if s.name not in unfit | foreign] or list(shards)


def indices_of_others(shards: Sequence[Shard], others: Sequence[str]) -> list[str]:
    """Return the names of the shards called index.json that name files beside them which are no shards.

    So do datasets of MosaicML's streaming and of LitData, whose rows those files hold.
    """
    indices = [s for s in shards if PurePosixPath(s.name).name == _INDEX and (s.size or 0) <= _LARGEST]
    return [s.name for s in indices if _names_one(s, others)]


def _names_one(index: Shard, others: Sequence[str]) -> bool:
    folder = PurePosixPath(index.name).parent
    beside = [PurePosixPath(name).name for name in others if PurePosixPath(name).is_relative_to(folder)]
    if not beside:
        return False
    with open_binary(index.url) as stream:
        text = stream.read()
    return any(name.encode("utf-8", "surrogatepass") in text for name in beside)


def _beginning(shard: Shard) -> list[Row] | None:
    """Return the first two rows; None where the file is no lines of objects, but one value of JSON."""
    try:
        rows = [row for _, row in islice(formats.get(shard.format).rows(shard), 2)]
        return None if rows and isinstance(rows[0], BadRow) and _is_one_value(shard) else rows
    except CurateError:  # a damaged file: reading the pool reports it
        return []


def _is_array(shard: Shard) -> bool:
    with open_binary(shard.url) as stream:
        return is_array(stream.read(HEAD))


def _is_one_value(shard: Shard) -> bool:
    if (shard.size or 0) > _LARGEST:
        return False
    with open_binary(shard.url) as stream:
        try:
            orjson.loads(stream.read().removeprefix(codecs.BOM_UTF8))
        except orjson.JSONDecodeError:
            return False
    return True


def _columns(shards: Sequence[Shard]) -> set[str]:
    """Return the columns of the first shard that has some."""
    for shard in shards:
        try:
            if columns := formats.get(shard.format).columns(shard):
                return set(columns)
        except CurateError:
            continue
    return set()


def _keys(rows: list[Row] | None) -> set[str]:
    return {key for row in rows or () if not isinstance(row, BadRow) for key in row}
