"""Tell files of a table's earlier versions, which lie beside those of its present one: Delta, Iceberg, Hudi."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow.parquet as pq

from curate.documents.files import local_path, open_binary
from curate.errors import CurateError

DELTA_LOG = "_delta_log"
_COMMIT = re.compile(r"(?P<version>\d{20})\.json")
_CHECKPOINT = re.compile(r"(?P<version>\d{20})\.checkpoint(\.\d{10}\.\d{10})?\.parquet")
_OTHER_CHECKPOINT = re.compile(r"\d{20}\.checkpoint\.[0-9a-f-]{36}\.(json|parquet)")
_ICEBERG = re.compile(r"(.*/)?metadata/v?(?P<version>\d+)(-[0-9a-f-]+)?(\.gz)?\.metadata\.json")
_HUDI = re.compile(r"(?P<file>.*[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d+)_[\d-]+_\d{14,17}\.parquet")
"""A file of a Hudi table: the same file of each version differs in what stands behind its id."""
_EXPORT = "Write its rows as Parquet, and give that: duckdb -c \"COPY (FROM {}('{}')) TO 'rows.parquet'\"."


def place_of(url: str) -> str:
    """Return where a file lies: the absolute path of a local one, another's url."""
    path = local_path(url)
    return os.path.abspath(path) if path is not None else url


def delta_logs(places: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the logs of the Delta tables that files lie in: by a table's folder, the files of its log by name.

    A log above or beside local files is found, one elsewhere only where it is among the files.
    """
    logs: dict[str, dict[str, str]] = {}
    folders: set[str] = set()
    for place in places:
        folder, _, name = place.rpartition("/")
        if "://" in place and folder.endswith(f"/{DELTA_LOG}"):
            logs.setdefault(folder.rpartition("/")[0], {})[name] = place
        while "://" not in place and folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    for folder in sorted(folders):
        if (log := Path(folder, DELTA_LOG)).is_dir():
            logs[folder] = {path.name: str(path) for path in log.iterdir()}
    return logs


def present_files(log: Mapping[str, str], table: str) -> set[str] | None:
    """Return the files of a Delta table as its log has them, relative to its folder; None where there is no log.

    Raises CurateError where they do not hold the table's rows alone, or the log has a form that is not read.
    """
    commits = {m["version"]: url for name, url in log.items() if (m := _COMMIT.fullmatch(name))}
    checkpoints = [(m["version"], url) for name, url in log.items() if (m := _CHECKPOINT.fullmatch(name))]
    if not commits and not checkpoints:
        return None
    hint = _EXPORT.format("delta_scan", table)
    if any(map(_OTHER_CHECKPOINT.fullmatch, log)):
        raise CurateError(
            f"{table}: a Delta table whose log has checkpoints of version 2, which are not read.", hint=hint
        )
    latest = max((version for version, _ in checkpoints), default="")
    present: dict[str, bool] = {}
    """Whether rows of a file were deleted without writing it anew."""
    for url in (url for version, url in checkpoints if version == latest):
        for action in _checkpoint(url):
            present[unquote(action["path"])] = bool(action.get("deletionVector"))
    for _, url in sorted((version, url) for version, url in commits.items() if version > latest):
        for action in _actions(url):
            if isinstance(removed := action.get("remove"), dict):
                present.pop(unquote(removed["path"]), None)
            if isinstance(added := action.get("add"), dict):
                present[unquote(added["path"])] = bool(added.get("deletionVector"))
    if thinned := next((name for name, is_thinned in present.items() if is_thinned), None):
        raise CurateError(
            f"{table}/{thinned}: the Delta table's log tells of rows of this file that are deleted.", hint=hint
        )
    return set(present)


def _checkpoint(url: str) -> list[dict[str, Any]]:
    with open_binary(url) as stream:
        added = pq.ParquetFile(stream).read(["add.path", "add.deletionVector"]).column("add").to_pylist()
    return [action for action in added if action and action.get("path")]


def _actions(url: str) -> list[dict[str, Any]]:
    with open_binary(url) as stream:
        return [orjson.loads(line) for line in stream if line.strip()]


def refuse_replaced(files: Iterable[tuple[str, str]], address: str) -> None:
    """Raise CurateError for tables of Iceberg and Hudi that have files of earlier versions, told by nothing here."""
    iceberg: dict[PurePosixPath, tuple[int, str]] = {}
    hudi: set[str] = set()
    for name, url in files:
        if told := _ICEBERG.fullmatch(name):
            folder = PurePosixPath(name).parent.parent
            iceberg[folder] = max(iceberg.get(folder, (-1, "")), (int(told["version"]), url))
        elif told := _HUDI.fullmatch(name):
            if told["file"] in hudi:
                raise CurateError(
                    f"{address}: {name}: one of several versions of a file of a Hudi table, of which one counts.",
                    hint="Write the table's rows as Parquet by what reads such tables, and give that.",
                )
            hudi.add(told["file"])
    for folder, (_, url) in iceberg.items():
        snapshots = _json(url).get("snapshots") or []
        operations = {str((s.get("summary") or {}).get("operation")) for s in snapshots if isinstance(s, dict)}
        if replaced := sorted(operations - {"append", "None"}):
            table = f"{address.rstrip('/')}/{folder}".removesuffix("/.")
            raise CurateError(
                f"{table}: an Iceberg table with files of earlier versions (its snapshots: {', '.join(replaced)}).",
                hint=_EXPORT.format("iceberg_scan", table),
            )


def _json(url: str) -> dict[str, Any]:
    with open_binary(url) as stream:
        try:
            content = orjson.loads(stream.read())
        except orjson.JSONDecodeError:  # compressed, or another file of this name
            return {}
    return content if isinstance(content, dict) else {}
