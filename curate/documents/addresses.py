"""Find the files of an address: a folder, glob, file, `save_to_disk` folder, hub id or store; of one split."""

import errno
import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from curate.documents.files import filesystem, local_path, open_binary
from curate.documents.formats import format_of, get, readable
from curate.documents.hub import hub_url, shown_on
from curate.documents.results import folders_of_results, records_above
from curate.documents.shards import Shard
from curate.documents.sidecars import indices_of_others, without_sidecars
from curate.documents.splits import of_split, several_configurations
from curate.documents.unread import advice
from curate.documents.versions import DELTA_LOG, delta_logs, place_of, present_files, refuse_replaced
from curate.errors import CurateError, nearest
from curate.secrets import name_without_secrets
from curate.visible import visible_path

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/\w[\w.-]*?)(@(?P<revision>[\w./-]+?))?(:(?P<split>[\w.-]+))?")
_WITH_SPLIT = re.compile(r"(?P<folder>.+):(?P<split>[\w.-]+)")
_CARD, _CARD_BYTES = "README.md", 1 << 20
_STORE_DIGESTS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "checksum")
_BRACES = re.compile(r"\{[^{}/]*(,|\.\.)[^{}]*\}")
_MOST_TABLES = 64
"""Folders of a store in which a pattern's files may lie that are asked for the log of a table."""
_WILD = re.compile(r"[*?\[]")
_CACHED = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")
"""What `datasets` keeps of maps and filters beside a dataset that it has made: rows that are in the dataset, too."""
_INDICES = ("_indices_data_files", "_indices_files")
"""Keys by which `datasets` before version 2 saved a choice of rows beside all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One file below an address."""

    name: str
    """Relative to the address's root."""
    url: str
    size: int | None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files at an address."""

    shards: list[Shard]
    ignored: list[str]
    """Names of files that are no shards."""
    other_splits: list[str]
    """Names of shards of other splits than the one that is read."""
    configurations: list[str] = field(default_factory=list)
    """Of the dataset's card, where files of several are read."""


def find_shards(address: str) -> Listing:
    """Return an address's shards, and the names of its other files.

    Of a folder whose files have splits, those of `train` are read, or of the split that the address names
    (`folder:test`). Raises CurateError where no file is readable, naming the files and the readable formats.
    """
    path, split = local_path(address), None
    if (data := shown_on(address)) and not (path and path.exists()):
        raise CurateError(f"{address}: a page of the hub, and no data.", hint=f"Give {data}.")
    if path is None:
        files, split = _stored_files(address)
    elif path.exists() or _WILD.search(address):
        files = _local_files(path)
    elif (named := _WITH_SPLIT.fullmatch(address)) and (folder := local_path(named["folder"])) and folder.is_dir():
        files, split = _local_files(folder), named["split"]
    elif not format_of(address) and (hub := _HUB_ID.fullmatch(address)):
        files, split = _hub_files(address, hub, path), hub["split"]
    else:
        raise CurateError(f"{address}: no such file or folder.", hint=_several(address) or _nearest_sibling(path))
    if not files:
        hint = _several(address) or f"Readable: {readable()}."
        raise CurateError(f"{address}: {_place(address, path)} no files.", hint=hint)
    is_pattern = _WILD.search(address) is not None and not (path and path.exists())
    files, results = _without_results(files, beyond=is_pattern and path is not None)
    if path is None or not path.is_file():  # a file that is named is read, whatever a table's log says of it
        files, earlier = _without_earlier_versions(files, address)
        results += earlier
    shards, ignored = _separate(files, format_of(address))
    indices = indices_of_others(shards, ignored)
    shards, ignored = [s for s in shards if s.name not in indices], sorted([*ignored, *indices])
    ignored += results
    if not shards:
        urls = {f.name: f.url for f in files}
        listed = ", ".join(ignored[:5]) + (f" and {len(ignored) - 5} more" if len(ignored) > 5 else "")
        raise CurateError(
            f"{address}: no readable shard among {len(ignored)} file(s): {listed}.",
            hint=f"{advice(address, {name: urls[name] for name in ignored if name in urls})}Readable: {readable()}.",
        )
    if len(files) == 1 and not split:
        return Listing(shards=shards, ignored=ignored, other_splits=[])
    data = without_sidecars(shards)
    names = {s.name for s in data}
    ignored = sorted([*ignored, *(s.name for s in shards if s.name not in names)])
    configurations: list[str] = []
    if split or not is_pattern:
        card = _card(files)
        configurations = [] if split else several_configurations(card, list(names))
        names = set(of_split(sorted(names), split, card=card, address=address))
    return Listing(
        shards=[s for s in data if s.name in names],
        ignored=ignored,
        other_splits=[s.name for s in data if s.name not in names],
        configurations=configurations,
    )


def _without_results(files: list[ListedFile], *, beyond: bool) -> tuple[list[ListedFile], list[str]]:
    """Return the files outside folders of `curate`'s results, and these folders; all where no other is a shard.

    `beyond`: the files' local folders may hold others that tell, too.
    """
    listed = [(f.name, f.url) for f in files]
    results = folders_of_results(records_above(listed) if beyond else listed)
    others = [f for f in files if results.isdisjoint(map(str, PurePosixPath(f.name).parents))] if results else files
    if not any(_lies_anywhere(format_of(f.name)) for f in others):
        return files, []
    return others, sorted(f"{folder}/" for folder in results)


def _without_earlier_versions(files: list[ListedFile], address: str) -> tuple[list[ListedFile], list[str]]:
    """Return the files but those of tables' logs and of their earlier versions, and what these are, for people."""
    refuse_replaced(((f.name, f.url) for f in files), address)
    places, said = [place_of(f.url) for f in files], []
    outdated = {place for place in places if place.rpartition("/")[0].endswith(f"/{DELTA_LOG}")}
    for table, log in delta_logs(places).items():
        if (present := present_files(log, table)) is None:
            continue
        inside = {p for p in places if p.startswith(f"{table}/") and p.endswith(".parquet")} - outdated
        old = inside - {f"{table}/{name}" for name in present}
        outdated |= old
        if old:
            said.append(f"{len(old)} file{'s' * (len(old) > 1)} of earlier versions of the Delta table {table}")
        lacking = sorted(present - {place.removeprefix(f"{table}/") for place in inside})
        if lacking and f"{table}/".startswith(f"{place_of(address).rstrip('/')}/"):
            raise CurateError(f"{table}/{lacking[0]}: listed in the log of a Delta table, but not there.")
    return [f for f, place in zip(files, places, strict=True) if place not in outdated], said


def lies_here(address: str) -> bool:
    """Return whether a local address leads to a file, a folder, or a match of its pattern."""
    path, named = local_path(address), _WITH_SPLIT.fullmatch(address)
    if path is None:
        return False
    if path.exists() or (named and Path(named["folder"]).is_dir()):
        return True
    return bool(_WILD.search(address)) and next(iter(_local_files(path)), None) is not None


def _card(files: list[ListedFile]) -> str | None:
    """Return the text of a folder's card, where it has one."""
    for file in files:
        if file.name == _CARD:
            with open_binary(file.url) as stream:
                return stream.read(_CARD_BYTES).decode("utf-8", "replace")
    return None


def _place(address: str, path: Path | None) -> str:
    return "the pattern matches" if _WILD.search(address) and not (path and path.exists()) else "the folder holds"


def _several(address: str) -> str | None:
    """Say how several addresses are given, where one has braces or commas for them."""
    if _BRACES.search(address):
        return "Braces are opened by a shell alone: leave out the quotes around them, or give an address for each."
    first, comma, _ = address.partition(",")
    path = local_path(first)
    if comma and (path is None or path.exists()):
        return "Commas separate no addresses. Give them one after the other, each behind its option."
    return None


def _nearest_sibling(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"The folder {str(parent)!r} does not exist either."
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    close = nearest(path.name, names)
    return close if close.startswith("Did") else "A pool is a folder, a glob, a file, a hub dataset id or a url."


def _separate(files: list[ListedFile], named: str | None) -> tuple[list[Shard], list[str]]:
    """Return the shards, and the names of the rest; in a `save_to_disk` folder the shards are what state.json lists.

    `named` is the format that the address itself names, by its suffix.
    """
    states = {str(PurePosixPath(f.name).parent): f for f in files if PurePosixPath(f.name).name == "state.json"}
    described = {str(PurePosixPath(f.name).parent) for f in files if PurePosixPath(f.name).name == "dataset_info.json"}
    saved = {folder: listed for folder, f in states.items() if (listed := _saved_files(f.url)) is not None}
    # A selection is a pool like others, but what it rejected is no part of it.
    manifests = {str(PurePosixPath(f.name).parent) for f in files if PurePosixPath(f.name).name == "manifest.json"}
    shards, ignored = [], []
    for f in files:
        path = PurePosixPath(f.name)
        if path.parent.name == "rejected" and str(path.parent.parent) in manifests:
            ignored.append(f.name)
            continue
        format_name = format_of(f.name)
        listed = saved.get(str(path.parent))
        if listed is not None:
            format_name = "saved" if path.name in listed else None
        elif str(path.parent) in described and _CACHED.fullmatch(path.name):
            format_name = None
        if format_name is not None and (format_name == named or _lies_anywhere(format_name)):
            shards.append(Shard(name=f.name, url=f.url, format=format_name, size=f.size, digest=f.digest))
        else:
            ignored.append(f.name)
    missing = [f"{d}/{n}" for d, names in saved.items() for n in names if not _has(shards, d, n)]
    if missing:
        raise CurateError(f"{missing[0]}: listed in state.json of a saved dataset, but not there.")
    return sorted(shards, key=lambda s: s.name), sorted(ignored)


def _has(shards: list[Shard], folder: str, name: str) -> bool:
    return any(PurePosixPath(s.name) == PurePosixPath(folder) / name for s in shards)


def _saved_files(url: str) -> set[str] | None:
    """Return the data files that a `datasets` state.json lists; None for another state.json."""
    with open_binary(url) as stream:
        try:
            state = orjson.loads(stream.read())
        except orjson.JSONDecodeError:
            return None
    files = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(files, list):
        return None
    if any(state.get(key) for key in _INDICES):  # which of the rows there are, and in what order
        raise CurateError(
            f"{url}: a saved dataset with a list of the rows that it has, which is not read.",
            hint="Write it with these rows alone: datasets.load_from_disk(FOLDER).flatten_indices().save_to_disk(NEW).",
        )
    return {f["filename"] for f in files if isinstance(f, dict) and isinstance(f.get("filename"), str)}


def _hidden(name: str) -> bool:
    """Return whether a file is hidden or a lock of an office program, or lies in a hidden folder or a table's log."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__", "~$")) or part in ("_delta_log", "_temporary") for part in parts)


def _local_files(path: Path) -> list[ListedFile]:
    if path.is_file():
        return [ListedFile(name=path.name, url=str(path), size=path.stat().st_size)]
    if path.is_dir():
        return [_local(p, path) for p in _walk(path) if not _hidden(p.relative_to(path).as_posix())]
    root = _literal_root(path)
    pattern = Path(glob.escape(str(root))) / path.relative_to(root)
    matches = sorted(Path(m) for m in glob.glob(str(pattern), recursive=True))
    files: dict[str, ListedFile] = {}
    for match in matches:
        inside = _walk(match) if match.is_dir() else [match]
        for p in inside:
            if not _hidden(p.relative_to(root).as_posix()):
                files[str(p)] = _local(p, root)
    return list(files.values())


def _literal_root(path: Path) -> Path:
    """Return the folder above a pattern; a folder that exists is no pattern, whatever its name."""
    parts = path.parts
    for i, part in enumerate(parts):
        if _WILD.search(part) and not Path(*parts[: i + 1]).exists():
            return Path(*parts[:i])
    return path.parent


def _local(path: Path, root: Path) -> ListedFile:
    try:
        size = path.stat().st_size
    except OSError as error:
        if not path.is_symlink() or error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise CurateError(
            f"{path}: a link to a file that is not there.", hint="Fetch the file again, or remove the link."
        ) from error
    name, shown = path.relative_to(root).as_posix(), visible_path(str(path))
    if shown != str(path) and _lies_anywhere(format_of(name)):
        raise CurateError(
            f"{shown}: the path is not UTF-8 (\\x.. stands for bytes that are not), so no result could name it.",
            hint="Rename the file or folder, for instance with convmv -f windows-1252 -t utf-8 --notest.",
        )
    return ListedFile(name=visible_path(name), url=str(path), size=size)


def _walk(folder: Path) -> list[Path]:
    files, visited = [], set()
    for parent, folders, names in os.walk(folder, onerror=_unlisted, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # links may lead in circles
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        paths = (Path(parent) / n for n in sorted(names))
        files.extend(p for p in paths if p.is_file() or (p.is_symlink() and _lies_anywhere(format_of(p.name))))
    return files


def _unlisted(error: OSError) -> None:
    """Raise for a folder that cannot be listed; `os.walk` would pass over what lies in it."""
    if not _hidden(PurePosixPath(error.filename).name):
        problem = f"the folder cannot be listed ({error.strerror}), so what lies in it would be left out"
        raise CurateError(
            f"{error.filename}: {problem}.", hint="Allow reading it, or move it out of the pool."
        ) from error


def _lies_anywhere(format_name: str | None) -> bool:
    """Return whether files of a format are shards wherever they lie, not only where an address names them."""
    return format_name is not None and not get(format_name).named_only


def _before_wild(parts: tuple[str, ...]) -> tuple[str, ...]:
    for i, part in enumerate(parts):
        if _WILD.search(part):
            return parts[:i]
    return parts


def _stored_files(address: str) -> tuple[list[ListedFile], str | None]:
    """Return the files of an object store's address, and the split that it names where it is no folder by itself."""
    named = _WITH_SPLIT.fullmatch(address)
    if named is None or "://" not in named["folder"]:
        return _remote_files(address), None
    try:
        files = _remote_files(address)
    except CurateError:  # stores differ in what they say of a folder that is not there
        files = []
    return (files, None) if files else (_remote_files(named["folder"]), named["split"])


def _remote_files(url: str) -> list[ListedFile]:
    if "::" in url:
        raise CurateError(f"{url}: chained addresses are not read.", hint="Give the inner address by itself.")
    fs, path = filesystem(url)
    infos: Any
    try:
        if _WILD.search(path) and not fs.exists(path):
            root = "/".join(_before_wild(tuple(path.split("/"))))
            matches: Any = fs.glob(path, detail=True)
            infos = {inner: info for inner, info in matches.items() if info.get("type") == "file"}
            for folder in (inner for inner, info in matches.items() if info.get("type") == "directory"):
                infos |= fs.find(folder, detail=True)
            infos |= _logs_above(fs, infos)
        elif fs.isfile(path):
            root, infos = path.rsplit("/", 1)[0] if "/" in path else "", {path: fs.info(path)}
        else:
            root, infos = path, fs.find(path, detail=True)
    except FileNotFoundError as error:
        raise CurateError(f"{url}: nothing there.", hint=str(error)) from error
    except CurateError:
        raise
    except Exception as error:  # each backend has its own classes for refused, offline and unknown
        raise CurateError(f"{url}: could not be listed: {type(error).__name__}: {error}") from error
    root = root.rstrip("/")
    files = []
    for inner, info in sorted(infos.items()):
        name = inner.removeprefix(root).lstrip("/")
        is_log = PurePosixPath(name).parent.name == DELTA_LOG  # which tells which of a table's files count
        if info.get("type") == "file" and (is_log or not _hidden(name)):
            digest = next((str(info[k]) for k in _STORE_DIGESTS if info.get(k)), None)
            url_of_file = fs.unstrip_protocol(inner)
            shown = name_without_secrets(name)  # it becomes the shard's name, which every row has
            files.append(ListedFile(name=shown, url=url_of_file, size=info.get("size"), digest=digest))
    return files


def _logs_above(fs: Any, files: Iterable[str]) -> dict[str, Any]:
    """Return the files of the logs of the tables that a store's Parquet files may lie in, which no pattern matches."""
    folders = {
        str(folder): None
        for file in files
        if file.endswith(".parquet")
        for folder in [*PurePosixPath(file).parents][-2::-1]
    }
    logs = (f"{folder}/{DELTA_LOG}" for folder in islice(folders, _MOST_TABLES))
    return {inner: info for log in logs if _is_folder(fs, log) for inner, info in fs.find(log, detail=True).items()}


def _is_folder(fs: Any, path: str) -> bool:
    try:
        return fs.isdir(path)
    except Exception:  # above a bucket or a repository a backend may refuse even to look, each in its own way
        return False


def _hub_files(address: str, match: re.Match[str], path: Path) -> list[ListedFile]:
    try:
        return _remote_files(hub_url(match["repo"], match["revision"]))
    except CurateError as error:
        raise CurateError(
            f"{address}: no such local file or folder, and as a hub dataset id: {error.message}",
            hint=f"{_nearest_sibling(path)} For a hub dataset check its name, the network and your login.",
        ) from error
