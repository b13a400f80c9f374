"""Tell what `curate` wrote below a pool's folder, which is no part of the pool: runs, stores, proxies, selections."""

from collections.abc import Iterable
from pathlib import PurePosixPath

import orjson

from curate.documents.files import open_binary

# Names of the records, and keys that tell them from other files of that name.
_RECORDS = {
    "run.json": {"settings", "fingerprints"},
    "store.json": {"settings", "fingerprints"},
    "warmup.json": {"settings", "curate"},
    "manifest.json": {"filters", "curate"},
    "settings.json": {"settings", "command", "working_folder"},
}


def folders_of_results(files: Iterable[tuple[str, str]]) -> set[str]:
    """Return the folders of results below an address; `files` are (name below it, url)."""
    paths = ((PurePosixPath(name), url) for name, url in files)
    return {
        str(path.parent)
        for path, url in paths
        if path.name in _RECORDS and len(path.parts) > 1 and _RECORDS[path.name] <= _keys(url)
    }


def _keys(url: str) -> set[str]:
    with open_binary(url) as stream:
        try:
            record = orjson.loads(stream.read())
        except orjson.JSONDecodeError:
            return set()
    return set(record) if isinstance(record, dict) else set()
