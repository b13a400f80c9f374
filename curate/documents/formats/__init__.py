"""One format per file; the folder and the entry points of the group `curate.formats` are the registry.

`contract.py` says what a format is. Adding one touches one file and its test.
"""

import sys
from functools import lru_cache
from pathlib import Path

from curate.documents.files import compression_of, file_name
from curate.documents.formats.contract import Format
from curate.errors import CurateError
from curate.registry import Registry

# What lies beside shards in a dataset's folder and is described by them, not data.
NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json"})

_REGISTRY = Registry(
    kind="format",
    group="curate.formats",
    folder=Path(__file__).parent,
    package=__name__,
    leave_out=frozenset({"contract"}),
    needs=("FORMAT",),
)


def names() -> tuple[str, ...]:
    """Return the formats that there are. Imports none of them."""
    return _REGISTRY.names()


@lru_cache  # asked for every shard
def get(name: str) -> Format:
    """Return a format by name."""
    return _REGISTRY.get(name).FORMAT


def format_of(name: str) -> str | None:
    """Tell the format by a file's suffix, the longest that is known; None for a file that is no shard."""
    lower = file_name(name)
    if lower in NOT_DATA:
        return None
    by_suffix = _by_suffix(tuple(sys.path))
    suffixes = (lower[i:] for i, character in enumerate(lower) if character == ".")
    return next((by_suffix[suffix] for suffix in suffixes if suffix in by_suffix), None)


def readable() -> str:
    """Return the readable suffixes, as text for people."""
    clauses = []
    for file_format in map(get, names()):
        plain = [s for s in file_format.suffixes if compression_of(s) is None]
        compressed = "also with .gz, .zst, .bz2 or .xz" if len(plain) < len(file_format.suffixes) else ""
        notes = ", ".join(n for n in (file_format.note, compressed) if n)
        clauses += [", ".join(plain) + (f" ({notes})" if notes else "")] if plain else []
    return "; ".join(clauses)


@lru_cache  # asked for every file of a folder
def _by_suffix(_path: tuple[str, ...]) -> dict[str, str]:
    by_suffix: dict[str, str] = {}
    for name in names():
        for suffix in get(name).suffixes:
            if suffix in by_suffix:
                raise CurateError(
                    f"The formats {by_suffix[suffix]!r} and {name!r} both read {suffix}; expected one of them.",
                    hint="Uninstall the package that brings the other one.",
                )
            by_suffix[suffix] = name
    return by_suffix
