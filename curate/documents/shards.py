"""One file of a pool, and what of it could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np

from curate.errors import CurateError

_NULL = "__HIVE_DEFAULT_PARTITION__"
DAMAGED = "damaged shard"
"""The reason at the row from which on a shard could not be read."""


class Choice(Protocol):
    """The rows of one shard that take part; see `curate.documents.choices`. A value: it pickles."""

    @property
    def end(self) -> int | None:
        """The row from which on none is chosen; None where that is not known."""
        ...

    def rows(self, start: int, end: int) -> np.ndarray:
        """Return the chosen rows from `start` to before `end`, in order; the shard may end before them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a pool."""

    name: str
    """Path relative to the pool's root with forward slashes, unique in the pool."""
    url: str
    """Local path or fsspec url."""
    format: str
    """Name of the format that reads it, of `curate.documents.formats`."""
    size: int | None
    """Bytes on disk, where the file system tells them."""
    digest: str | None = None
    """An object store's digest of the content (ETag, blob id), where it has one."""
    choice: Choice | None = field(default=None, repr=False)
    """Which of its rows are read as documents; None: all of them."""

    @property
    def partitions(self) -> dict[str, str | None]:
        """The columns that the names of its folders give to every row (`lang=en/`), as text."""
        pairs = (folder.partition("=") for folder in PurePosixPath(self.name).parts[:-1])
        return {unquote(k): None if v == _NULL else unquote(v) for k, equals, v in pairs if k and equals}


class DamagedShard(CurateError):
    """The content of a shard cannot be read to its end; trying again would not help."""

    row: int
    """The first that could not be read."""

    @classmethod
    def at(cls, row: int, shard: Shard, problem: str, hint: str | None = None) -> "DamagedShard":
        damaged = "The file is damaged or was not written to its end: fetch or write it again, or remove it."
        error = cls(f"{shard.url}: {problem}; {row} rows could be read before.", hint=hint or damaged)
        error.row = row
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that could not be decoded; it keeps its row number so that later rows keep theirs."""

    reason: str
    """'undecodable line', 'not an object', 'undecodable row', 'wrong number of fields', 'a second header' …"""
    detail: str
    """The line number (from 1) and what the line holds."""
    columns: tuple[str, ...] = ()
    """The columns whose values could not be decoded; none where that is the whole row."""
    others: Mapping[str, Any] | None = None
    """The values of the other columns, where they could be decoded."""
    whole: Mapping[str, Any] | None = None
    """The row as a table keeps it, where it can: bytes stand for text that is not UTF-8."""
    hint: str | None = None
    """What to do where all rows of a file are like this one, and it is known."""


Row = Mapping[str, Any] | BadRow
"""A row's values by column, or why there are none."""
