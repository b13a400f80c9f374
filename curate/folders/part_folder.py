"""A folder of parts: the base of runs and of gradient stores.

RECORD              settings and fingerprints (both must match to continue), and details (versions …)
ROWS/S-P.parquet    part P of shard S; its footer says which rows it covers
skipped/S-P.parquet rows of the same stretch that were set aside; absent when there are none
finished.json       totals; there once every shard has reached its end
"""

import json
import time
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import remove_leftovers, write_text
from curate.folders.lock import NAME as LOCK_NAME
from curate.folders.lock import Lock
from curate.folders.parts import Part, Span, metadata_of, read_part, write_table
from curate.folders.record import FORMAT, canonical, differences
from curate.folders.unify import File
from curate.schema import SKIPPED_SCHEMA

if TYPE_CHECKING:
    import polars as pl

FINISHED = "finished.json"


class PartFolder(ABC):
    """Parts on disk. `start` a folder to write it (one process at a time), `open` one to read it."""

    KIND: ClassVar[str]
    """What messages call it."""
    RECORD: ClassVar[str]
    ROWS: ClassVar[str]
    """The folder of the parts' tables."""
    WHICH: ClassVar[str]
    """What to give where a folder is none of the kind."""

    def __init__(self, path: Path, record: dict[str, Any], lock: Lock | None = None) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._parts: dict[str, list[Part]] | None = None

    @classmethod
    def start(
        cls,
        path: Path | str,
        *,
        settings: Mapping[str, Any],
        fingerprints: Mapping[str, str],
        details: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create a folder, or continue one that was asked for with the same settings and fingerprints.

        Removes what a killed process left half written. Raises SettingsError naming every setting that
        differs from what is there, and CurateError if another process is writing it. `details` are
        not compared: on continuing, those of the first start stay. A folder without any part holds nothing
        to protect, such as after a start that failed: other settings take its place.
        """
        path = Path(path)
        cls._refuse_foreign(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = Lock(path)
        remove_leftovers(path)
        found = cls(path, cls._read_record(path), lock) if (path / cls.RECORD).exists() else None
        if found is not None:
            found.refuse_other(settings, fingerprints)
        if found is None or found._differences(settings, fingerprints):
            record = {
                "format": FORMAT,
                "settings": dict(settings),
                "fingerprints": dict(fingerprints),
                "details": dict(details or {}),
            }
            text = canonical(record)
            write_text(path / cls.RECORD, text)
            found = cls(path, json.loads(text), lock)
        for folder in (cls.ROWS, "skipped"):
            (path / folder).mkdir(exist_ok=True)
        return found

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a folder for reading. Raises CurateError saying what is missing when `path` is none of the kind."""
        path = Path(path)
        if not path.is_dir():
            raise CurateError(f"{path}: no such folder", hint=cls._how_to_find(path))
        if not (path / cls.RECORD).exists():
            raise CurateError(f"{path}: not a {cls.KIND} (it holds no {cls.RECORD})", hint=cls._how_to_find(path))
        return cls(path, cls._read_record(path))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        return self.record["settings"]

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.record["fingerprints"]

    @property
    def details(self) -> dict[str, Any]:
        return self.record["details"]

    def add_details(self, **details: Any) -> None:
        """Put more into the record's details (what was only known later: coverage, totals of a sample …)."""
        record = {**self.record, "details": {**self.details, **details}}
        text = canonical(record)
        write_text(self.path / self.RECORD, text)
        self.record = json.loads(text)

    def parts(self, shard: str) -> list[Part]:
        """The finished parts of a shard from its first row on, in order, without a gap."""
        found = self._by_shard().get(shard, [])
        whole: list[Part] = []
        for part in found:
            if part.index != len(whole) or part.start != (whole[-1].end if whole else 0):
                break
            whole.append(part)
        return whole

    def holds(self, shard: str) -> bool:
        """Whether all of a shard's parts are there."""
        parts = self.parts(shard)
        return bool(parts) and parts[-1].last

    def all_parts(self) -> list[Part]:
        """Every part in pool order."""
        return sorted((p for parts in self._by_shard().values() for p in parts), key=lambda p: p.order)

    def write_part(self, span: Span, rows: pa.Table, skipped: pa.Table) -> Part:
        """Write one part: its skipped rows first, then its table, so that one with a table is whole."""
        name = f"{span.name}.parquet"
        schema = rows.schema.remove_metadata()
        part = Part(**span.as_dict(), path=self.path / self.ROWS / name, schema=schema)
        aside = self.path / "skipped" / name
        if skipped.num_rows:
            write_table(skipped, aside, metadata_of(span))
        else:
            aside.unlink(missing_ok=True)
        write_table(rows, part.path, metadata_of(span))
        if self._parts is not None:
            others = [p for p in self._parts.get(span.shard, []) if p.index != span.index]
            self._parts[span.shard] = sorted([*others, part], key=lambda p: p.order)
        return part

    def refresh(self) -> None:
        """Look again which parts there are: another process has written some."""
        self._parts = None

    def log(self, line: Mapping[str, Any]) -> None:
        """Append what a session did; times live here and nowhere else, so that equal folders have equal bytes."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"ended": round(time.time()), **line}) + "\n")

    def finish(self, totals: Mapping[str, Any]) -> None:
        """Mark that every shard has reached its end, with totals (documents, tokens, skipped by reason).

        Lets go of the lock."""
        write_text(self.path / FINISHED, canonical(totals))
        self.close()

    @property
    def is_finished(self) -> bool:
        return (self.path / FINISHED).exists()

    @property
    def totals(self) -> dict[str, Any] | None:
        """What `finish` was given; None while the work is unfinished."""
        return json.loads((self.path / FINISHED).read_text(encoding="utf-8")) if self.is_finished else None

    def table(self, empty: pa.Schema) -> "pl.LazyFrame":
        """Every row of the parts in pool order, lazily; columns that differ between parts are unified."""
        from curate.folders.frames import scan

        return scan(self.rows_files(), empty=empty)

    def skipped(self) -> "pl.LazyFrame":
        """Every row that was set aside, with its reason, in pool order, lazily."""
        from curate.folders.frames import scan

        return scan(self.skipped_files(), empty=SKIPPED_SCHEMA)

    def rows_files(self) -> list[File]:
        """The parts' tables in pool order, each with its columns."""
        return [(p.path, p.schema) for p in self.all_parts()]

    def skipped_files(self) -> list[File]:
        """The files in skipped/ of whole parts; a file whose part has no table yet is not counted."""
        there = {p.name for p in (self.path / "skipped").glob("[0-9]*.parquet")}
        names = [p.path.name for p in self.all_parts() if p.path.name in there]
        return [(self.path / "skipped" / name, SKIPPED_SCHEMA) for name in names]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from writing what lies beside the parts of a folder that is open for reading."""
        lock = Lock(self.path)
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Let another process write the folder."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @classmethod
    def has_parts(cls, path: Path) -> bool:
        """Whether a folder holds any part."""
        return next((path / cls.ROWS).glob("[0-9]*.parquet"), None) is not None

    @classmethod
    def newest(cls, root: Path) -> Path | None:
        """The folder directly under `root` whose record was written last."""
        records = list(root.glob(f"*/{cls.RECORD}"))
        return max(records, key=age).parent if records else None

    def refuse_other(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
        """Raise SettingsError naming every setting, and every given fingerprint, that differs.

        A folder without any part refuses nothing."""
        lines = self._differences(settings, fingerprints)
        if lines and self.has_parts(self.path):
            self.close()
            grown = all(line.startswith("pool") for line in lines) and not self.settings.get("store")
            raise SettingsError(
                f"{self.path} was started differently:\n  " + "\n  ".join(lines),
                hint=f"Give another folder with --out, or the same settings to continue this {self.KIND}."
                + (f" If the pool has grown, --fit-from {self.path} scores its new shards alone." if grown else ""),
            )

    def _by_shard(self) -> dict[str, list[Part]]:
        if self._parts is None:
            self._parts = {}
            found = (read_part(p) for p in (self.path / self.ROWS).glob("[0-9]*.parquet"))
            for part in sorted(found, key=lambda p: p.order):
                self._parts.setdefault(part.shard, []).append(part)
        return self._parts

    def _differences(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
        known = {k: v for k, v in self.fingerprints.items() if k in fingerprints}
        what = f"the {self.KIND} has"
        changed = differences(known, fingerprints, had=what, asked="now it is")
        lines = differences(self.settings, settings, had=what)
        return [*lines, *(f"{line} (its content has changed)" for line in changed)]

    @classmethod
    def _read_record(cls, path: Path) -> dict[str, Any]:
        where = path / cls.RECORD
        try:
            record = json.loads(where.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CurateError(f"{where}: cannot be read as JSON ({error})") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            seen = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise CurateError(
                f"{where}: format {seen!r}, this version of curate reads format {FORMAT}",
                hint=f"Read it with the version that wrote it, or make the {cls.KIND} again in another folder.",
            )
        missing = [key for key in ("settings", "fingerprints", "details") if key not in record]
        if missing:
            raise CurateError(f"{where}: lacks {', '.join(missing)}; it is not a {cls.KIND}'s record")
        return record

    @classmethod
    def _refuse_foreign(cls, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise CurateError(f"{path} is a file, not a folder", hint="Give another folder with --out.")
        if not path.exists() or (path / cls.RECORD).exists():
            return
        foreign = sorted(p.name for p in path.iterdir() if p.name != LOCK_NAME and not p.name.endswith(".tmp"))
        if foreign:
            raise CurateError(
                f"{path} is not empty and not a {cls.KIND} (it holds {', '.join(foreign[:3])})",
                hint="Give another folder with --out, or empty this one.",
            )

    @classmethod
    def _how_to_find(cls, path: Path) -> str:
        if inside := cls.newest(path):
            return f"It holds {cls.KIND}s; the newest is {inside}."
        return cls.WHICH


def age(record: Path) -> tuple[int, str]:
    """A key that sorts records by the time they were written."""
    return record.stat().st_mtime_ns, str(record)
