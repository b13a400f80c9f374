"""A folder of parts: the base of runs and of gradient stores.

RECORD              settings and fingerprints (both must match to continue), and details (versions …)
ROWS/S-P.parquet    part P of shard S; its footer says which rows it covers; see `merging` for files of several parts
skipped/S-P.parquet rows of the same stretch that were set aside; absent when there are none
marks/S.json        while a large shard is read: places from which reading may be taken up again
finished.json       totals; there once every shard has reached its end
log.jsonl           a line per session; see `log`
"""

import re
import time
from abc import ABC
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from curate.errors import CurateError, SettingsError
from curate.folders.folder import Claim, Folder, put_json, put_text, read_json
from curate.folders.local import open_folder, refuse_url
from curate.folders.log import Log
from curate.folders.merging import merge, merge_all
from curate.folders.parts import Part, Span, metadata_of, put_table, read_parts
from curate.folders.record import RunRecord, decisive, differences, without_consequences
from curate.folders.unify import File
from curate.schema import SKIPPED_SCHEMA

if TYPE_CHECKING:
    import polars as pl

FINISHED, MARKS = "finished.json", "marks"
_PART = re.compile(r"[0-9][^/]*\.parquet")


class PartFolder(ABC):
    """Parts on disk. `start` a folder to write it (one process at a time, or jobs of it), `open` one to read it."""

    KIND: ClassVar[str]
    """The word for it in messages."""
    RECORD: ClassVar[str]
    ROWS: ClassVar[str]
    """The folder of the parts' tables."""
    MERGES: ClassVar[bool] = False
    """Whether parts are merged into files of many; nothing else may go by the names of their files then."""
    WHICH: ClassVar[str]
    """The hint where a folder is not of this kind."""
    MAY_HOLD: ClassVar[frozenset[str]] = frozenset()
    """What may lie in its folder before it does."""
    """Whether it may lie in an object store."""

    def __init__(self, folder: Folder, record: RunRecord, claim: Claim | None = None) -> None:
        self.folder = folder
        self.record = record
        self._claim = claim
        self._parts: dict[str, list[Part]] | None = None
        self.log = Log(folder)

    @property
    def address(self) -> str:
        """Its address, as a user gives it."""
        return self.folder.address

    @property
    def path(self) -> Path:
        """Its path on this machine. Raises SettingsError for one in an object store, where none will do."""
        if not self.folder.is_here:
            refuse_url(self.address, f"The {self.KIND}")
        return self.folder.root

    @classmethod
    def start(
        cls,
        path: Path | str,
        *,
        settings: Mapping[str, Any],
        fingerprints: Mapping[str, str],
        details: Mapping[str, Any] | None = None,
        job: str | None = None,
    ) -> Self:
        """Create a folder, or continue one of the same settings and fingerprints.

        Removes a killed process's half-written files. Raises SettingsError naming every setting that differs, and
        CurateError while another process is writing. `details` are not compared: on continuing, those of the first
        start stay. Other settings replace a folder without any part, as a failed start leaves it. `job`: the name of
        one of several jobs that write the folder at the same time.
        """
        folder = open_folder(path)
        cls.refuse_foreign(path)
        claim = cls._claim_of(folder, shared=job is not None)
        folder = claim.guard(folder)
        started = cls(folder, cls._read_record(folder), claim) if folder.exists(cls.RECORD) else None
        if started is not None:
            started.refuse_other(settings, fingerprints)
        if started is None or started._differences(settings, fingerprints):
            if started is not None:  # a start that left no part
                started.log.remove()
            started = cls(folder, RunRecord.make(settings, fingerprints, details or {}), claim)
            put_text(folder, cls.RECORD, started.record.text)
        if job is not None:
            started.log = Log(folder, job)
            claim.share()
        return started

    @classmethod
    def _claim_of(cls, folder: Folder, *, shared: bool) -> Claim:
        """Claim a folder; beside others only once one of them has written the record."""
        while True:
            claim = folder.claim(shared=shared)
            if claim.is_sole or folder.exists(cls.RECORD):
                return claim
            claim.release()
            time.sleep(0.05)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a folder for reading. Raises CurateError where `path` is not of this kind.

        Worker processes of the one that started the folder open it this way, too, and write parts into it.
        """
        return cls.within(open_folder(path))

    @classmethod
    def within(cls, folder: Folder) -> Self:
        """Open a folder for reading, or, where it is guarded by a claim, for writing parts; see `open`."""
        if not folder.exists(cls.RECORD):
            is_folder = folder.exists() and not (folder.is_here and folder.root.is_file())
            problem = f"not a {cls.KIND} (it holds no {cls.RECORD})" if is_folder else "no such folder"
            raise CurateError(f"{folder.address}: {problem}.", hint=cls._how_to_find(folder))
        return cls(folder, cls._read_record(folder))

    @property
    def name(self) -> str:
        return self.path.resolve().name if self.folder.is_here else self.address.rpartition("/")[2]

    def add_details(self, **details: Any) -> None:
        """Add to the record's details (coverage, totals of a sample …)."""
        record = self.record.with_details(details)
        if record != self.record:  # one job writes them, in its turn; the others have the same to say
            self.record = record
            put_text(self.folder, self.RECORD, record.text)

    @contextmanager
    def preparing(self, on_wait: Callable[[], object]) -> Iterator[None]:
        """Have one of several jobs at a time do what is done once for all; `on_wait` is called where another is at it.

        Once a job has come to the block's end, others find everything kept and need not wait for each other.
        """
        if not self.log.is_shared:
            yield
            return
        with ExitStack() as stack:
            if not self.log.is_prepared:
                stack.enter_context(self.folder.turn("prepare", on_wait))
            self.record = self._read_record(self.folder)
            self.refresh()
            yield
            self.log.prepared()

    def is_last(self) -> bool:
        """Return whether no other job is at work on the folder, and keep others out if so; if not, release the claim.

        A folder that is not shared has no other.
        """
        return self._claim is None or self._claim.become_sole()

    def parts(self, shard: str) -> list[Part]:
        """Return the finished parts of a shard from its first row on, in order, without a gap."""
        gapless: list[Part] = []
        for part in self._by_shard().get(shard, []):
            if part.index != len(gapless) or part.start != (gapless[-1].end if gapless else 0):
                break
            gapless.append(part)
        return gapless

    def holds(self, shard: str) -> bool:
        """Return whether all of a shard's parts are there."""
        parts = self.parts(shard)
        return bool(parts) and parts[-1].last

    def all_parts(self) -> list[Part]:
        """Return every part in pool order."""
        return sorted((p for parts in self._by_shard().values() for p in parts), key=lambda p: p.order)

    def refresh(self) -> None:
        """Read the parts again: other processes have written some since."""
        self._parts = None

    def write_part(self, span: Span, table: pa.Table, skipped: pa.Table) -> Part:
        """Write one part: its skipped rows first, then its table, so that one with a table is whole."""
        name, aside = f"{self.ROWS}/{span.name}.parquet", f"skipped/{span.name}.parquet"
        if skipped.num_rows:
            put_table(self.folder, aside, skipped, metadata_of(span))
        else:
            self.folder.remove(aside)
        put_table(self.folder, name, table, metadata_of(span))
        part = Part(**span.as_dict(), path=self.folder.local(name), schema=table.schema.remove_metadata())
        self._remember(part)
        return part

    def _remember(self, part: Part) -> None:
        if self._parts is not None:
            shard_parts = self._parts.setdefault(part.shard, [])
            place = bisect_left(shard_parts, part.index, key=lambda p: p.index)
            is_there = place < len(shard_parts) and shard_parts[place].index == part.index
            shard_parts[place : place + is_there] = [part]

    def merge(self, names: Sequence[str]) -> None:
        """Merge the files that `merging` puts together; several processes may merge some each."""
        files = self.folder.locals([f"{self.ROWS}/{name}" for name in names])
        for merged in merge(self.folder, self.ROWS, [part for path in files for part in read_parts(path)]):
            if self._parts is not None:
                for part in read_parts(self.folder.local(merged)):
                    self._remember(part)

    def finish(self, totals: Mapping[str, Any]) -> None:
        """Mark that every shard has reached its end, with totals (documents, tokens, skipped by reason).

        Releases the claim."""
        self.folder.sweep()
        self.folder.remove(MARKS)
        if self.MERGES:
            self._merge_all()
        self.log.gather()
        put_json(self.folder, FINISHED, totals)
        self.close()

    @property
    def is_finished(self) -> bool:
        return self.folder.exists(FINISHED)

    @property
    def totals(self) -> dict[str, Any] | None:
        """The totals that `finish` was given; None while the work is unfinished."""
        return read_json(self.folder, FINISHED) if self.is_finished else None

    def table(self, empty: pa.Schema) -> "pl.LazyFrame":
        """Return every row of the parts in pool order, lazily; columns that differ between parts are unified."""
        from curate.folders.frames import scan

        return scan(self.rows_files(), empty=empty)

    def skipped(self) -> "pl.LazyFrame":
        """Return every row that was set aside, with its reason, in pool order, lazily."""
        from curate.folders.frames import scan

        return scan(self.skipped_files(), empty=SKIPPED_SCHEMA)

    def rows_files(self) -> list[File]:
        """Return the parts' files in pool order, each with its columns."""
        return list({p.path: (p.path, p.schema) for p in self.all_parts()}.values())

    def skipped_files(self) -> list[File]:
        """Return the files in skipped/ of whole parts; a file whose part has no table yet does not count."""
        written = set(_parts_in(self.folder, "skipped"))
        names = [name for path, _ in self.rows_files() if (name := f"skipped/{path.name}") in written]
        return [(path, SKIPPED_SCHEMA) for path in self.folder.locals(names)]

    def close(self) -> None:
        """Release the claim, so that another process may write."""
        if self._claim:
            self._claim.release()
            self._claim = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @classmethod
    def has_parts(cls, path: Path | str) -> bool:
        """Return whether a folder holds any part."""
        return bool(_parts_in(open_folder(path), cls.ROWS))

    @classmethod
    def newest_first(cls, root: Path | str) -> list[Path]:
        """Return the folders of this kind directly under `root` on this machine, by the time of their records."""
        folder = open_folder(root)
        children = [folder.child(name.rstrip("/")) for name in folder.list() if name.endswith("/")]
        folders = [child for child in children if child.exists(cls.RECORD)]
        by_age = sorted(folders, key=lambda child: (child.modified(cls.RECORD), child.address), reverse=True)
        return [child.root for child in by_age]

    def refuse_other(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
        """Raise SettingsError naming every setting, and every given fingerprint, that differs.

        A folder without any part refuses nothing."""
        lines = self._differences(settings, fingerprints)
        has_others = self._claim is not None and not self._claim.is_sole
        if lines and (has_others or self.has_parts(self.address)):
            self.close()
            grown = all(line.startswith("pool") for line in lines) and not self.record.store
            raise SettingsError(
                f"{self.address} was started with other settings:\n  " + "\n  ".join(lines),
                hint=f"Give another folder with --out, or the same settings to continue this {self.KIND}."
                + (f" If the pool has grown, --fit-from {self.address} scores its new shards alone." if grown else ""),
            )

    def _by_shard(self) -> dict[str, list[Part]]:
        if self._parts is None:
            self._parts = {}
            for part in sorted(_first_of_each(self._read_parts()), key=lambda p: p.order):
                self._parts.setdefault(part.shard, []).append(part)
        return self._parts

    def _read_parts(self) -> list[Part]:
        """Read every file's footer; again where another process has merged some meanwhile."""
        while True:
            names = _parts_in(self.folder, self.ROWS)
            try:
                return [part for path in self.folder.locals(names) for part in read_parts(path)]
            except (CurateError, FileNotFoundError):
                if set(names) <= set(_parts_in(self.folder, self.ROWS)):
                    raise

    def _merge_all(self) -> None:
        """Merge all parts, and remove what a merging that was stopped has left behind."""
        self.refresh()
        merge_all(self.folder, self.ROWS, self.all_parts())
        self.refresh()
        names = {path.name for path, _ in self.rows_files()}
        for prefix in (self.ROWS, "skipped"):
            for name in _parts_in(self.folder, prefix):
                if name.removeprefix(f"{prefix}/") not in names:
                    self.folder.remove(name)

    def _differences(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
        recorded = {k: v for k, v in self.record.json["fingerprints"].items() if k in fingerprints}
        had = f"the {self.KIND} has"
        changed = differences(recorded, fingerprints, had=had, asked="now it is")
        lines = differences(decisive(self.record.settings), decisive(settings), had=had)
        lines, changed = without_consequences(lines, changed)
        return [*lines, *(f"{line} (its content has changed)" for line in changed)]

    @classmethod
    def _read_record(cls, folder: Folder) -> RunRecord:
        where = f"{folder.address}/{cls.RECORD}"
        try:
            text = folder.read(cls.RECORD)
        except OSError as error:
            raise CurateError(f"{where}: cannot be read ({error}).") from error
        return RunRecord.read(text, where=where, kind=cls.KIND)

    @classmethod
    def refuse_foreign(cls, path: Path | str) -> None:
        """Raise CurateError for a file, and for a folder that holds something else."""
        folder = open_folder(path)
        foreign = [name for name in folder.list() if name not in cls.MAY_HOLD]
        if foreign and not folder.exists(cls.RECORD):
            listed = ", ".join(name.rstrip("/") for name in foreign[:3])
            raise CurateError(
                f"{folder.address} is not empty and not a {cls.KIND} (it holds {listed}).",
                hint="Give another folder with --out, or empty this one.",
            )

    @classmethod
    def _how_to_find(cls, folder: Folder) -> str:
        if folder.is_here and folder.root.is_dir() and (inside := cls.newest_first(folder.address)):
            return f"It holds {cls.KIND}s; the newest is {inside[0]}."
        return cls.WHICH


def _first_of_each(parts: Iterable[Part]) -> Iterable[Part]:
    """Return every part once: of one that is there twice, that in a file of several."""
    return {part.order: part for part in sorted(parts, key=lambda p: p.place is not None)}.values()


def _parts_in(folder: Folder, prefix: str) -> list[str]:
    return [name for name in folder.list(prefix) if _PART.fullmatch(name.removeprefix(f"{prefix}/"))]
