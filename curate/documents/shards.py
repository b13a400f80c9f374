"""One file of a pool, its format by its ending, and a row of it that could not be decoded."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["jsonl", "parquet", "arrow", "saved"]

_LINES = (".jsonl", ".ndjson", ".json")
_COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
_BINARY: dict[str, Format] = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow"}

READABLE = ".jsonl, .ndjson, .json (one object per line), each also with .gz or .zst, .parquet, .arrow"
"""The endings that are read, for people."""

# What lies beside shards in a dataset's folder and is described by them, not data.
NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a pool."""

    name: str
    """Path relative to the pool's root with forward slashes, unique in the pool."""
    url: str
    """Local path or fsspec url."""
    format: Format
    """'saved' is one Arrow file of a `save_to_disk` folder; it reads like 'arrow'."""
    size: int | None
    """Bytes on disk, where the file system tells."""
    digest: str | None = None
    """What an object store calls the content (ETag, blob id), where it does."""

    @property
    def compression(self) -> str | None:
        """'gz', 'zst' or None, for lines of JSON."""
        return compression_of(self.url.split("?")[0]) if self.format == "jsonl" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that could not be decoded; it keeps its row number so that later rows keep theirs."""

    reason: str
    """'undecodable line', 'not an object' or 'undecodable row'."""
    detail: str
    """The line number (from 1) and what was found."""


def compression_of(name: str) -> str | None:
    """Tell the compression by the last ending."""
    return next((c for ending, c in _COMPRESSIONS.items() if name.lower().endswith(ending)), None)


def format_of(name: str) -> Format | None:
    """Tell the format by the file's endings; None for a file that is no shard."""
    lower = name.lower().rsplit("/", 1)[-1]
    if lower in NOT_DATA:
        return None
    for ending, kind in _BINARY.items():
        if lower.endswith(ending):
            return kind
    for ending in _COMPRESSIONS:
        lower = lower.removesuffix(ending)
    return "jsonl" if lower.endswith(_LINES) else None
