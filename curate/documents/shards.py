"""One file of a pool, and a row of it that could not be decoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that could not be decoded; it keeps its row number so that later rows keep theirs."""

    reason: str
    """'undecodable line', 'not an object', 'undecodable row', 'wrong number of fields' or 'too large'."""
    detail: str
    """The line number (from 1) and what the line holds."""
    columns: tuple[str, ...] = ()
    """The columns whose values could not be decoded; none where that is the whole row."""
    others: Mapping[str, Any] | None = None
    """The values of the other columns, where they could be decoded."""


Row = Mapping[str, Any] | BadRow
"""A row's values by column, or why there are none."""
