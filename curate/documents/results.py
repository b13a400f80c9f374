"""Tell what `curate` wrote below a pool's folder, which is no part of the pool: runs, stores, proxies, selections."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import orjson

from curate.documents.files import local_path, open_binary

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


def records_above(files: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (name, url) of the records in the folders of local files below an address, matched by a pattern or not."""
    seen: set[Path] = set()
    for name, url in files:
        inner, folder = PurePosixPath(name).parent, Path(url).parent
        while inner.parts and folder not in seen:
            seen.add(folder)
            yield from ((str(inner / r), str(folder / r)) for r in _RECORDS if (folder / r).is_file())
            inner, folder = inner.parent, folder.parent


def result_of(url: str) -> Path | None:
    """Return the folder of results without documents that a local file lies in; None where it lies in none."""
    path = local_path(url)
    above = path.absolute().parents if path is not None else ()
    records = [name for name in _RECORDS if name != "manifest.json"]  # of a selection, which is a pool
    return next((f for f in above for r in records if (f / r).is_file() and _RECORDS[r] <= _keys(str(f / r))), None)


def _keys(url: str) -> set[str]:
    with open_binary(url) as stream:
        try:
            record = orjson.loads(stream.read())
        except orjson.JSONDecodeError:
            return set()
    return set(record) if isinstance(record, dict) else set()
