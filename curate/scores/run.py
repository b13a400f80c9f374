"""The run directory: one method's scores of one pool, and all that is needed to make them again.

run.json            settings and fingerprints (both must match to continue), and details (versions …)
scores/S-P.parquet  part P of shard S; its footer says which rows it covers
skipped/S-P.parquet rows of the same stretch that were set aside; absent when there are none
finished.json       totals; there once every shard has reached its end
shards.json         the pool's shards as they were, for a later run that takes over parts of unchanged ones
target/ …           whatever later runs reuse
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from curate.atomic import atomic_write, remove_leftovers, write_text
from curate.errors import CurateError, SettingsError
from curate.schema import SCORE_FIELDS, SKIPPED_SCHEMA
from curate.scores.lock import NAME as LOCK_NAME
from curate.scores.lock import Lock
from curate.scores.parts import Part, metadata_of, part_name, read_part, write_table
from curate.scores.record import FORMAT, canonical, differences
from curate.scores.unify import File

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Part", "Run", "atomic_write", "latest_run", "list_runs"]

RECORD = "run.json"
FINISHED = "finished.json"


class Run:
    """A run on disk. `start` one to write it (one process at a time), `open` one to read it."""

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
        """Create a run, or continue one that was asked for with the same settings and fingerprints.

        Removes what a killed process left half written. Raises SettingsError naming every setting that
        differs from the run that is there, and CurateError if another process is writing it. `details` are
        not compared: on continuing, those of the first start stay. A run without any part holds nothing
        to protect, such as after a start that failed: other settings take its place.
        """
        path = Path(path)
        _refuse_foreign(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = Lock(path)
        remove_leftovers(path)
        run = cls(path, _read_record(path), lock) if (path / RECORD).exists() else None
        if run is not None:
            run.refuse_other(settings, fingerprints)
        if run is None or run._differences(settings, fingerprints):
            record = {
                "format": FORMAT,
                "settings": dict(settings),
                "fingerprints": dict(fingerprints),
                "details": dict(details or {}),
            }
            text = canonical(record)
            write_text(path / RECORD, text)
            run = cls(path, json.loads(text), lock)
        for folder in ("scores", "skipped"):
            (path / folder).mkdir(exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a run for reading. Raises CurateError saying what is missing when `path` is not a run."""
        path = Path(path)
        if not path.is_dir():
            raise CurateError(f"{path}: no such folder", hint=_how_to_find(path))
        if not (path / RECORD).exists():
            raise CurateError(f"{path}: not a run (it holds no {RECORD})", hint=_how_to_find(path))
        return cls(path, _read_record(path))

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
        """Put more into run.json's details (what was only known later: coverage, totals of a sample …)."""
        record = {**self.record, "details": {**self.details, **details}}
        text = canonical(record)
        write_text(self.path / RECORD, text)
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

    def all_parts(self) -> list[Part]:
        """Every part of the run in pool order."""
        return sorted((p for parts in self._by_shard().values() for p in parts), key=lambda p: p.order)

    def write_part(
        self,
        *,
        shard: str,
        shard_index: int,
        index: int,
        start: int,
        end: int,
        last: bool,
        scores: pa.Table,
        skipped: pa.Table,
    ) -> Part:
        """Write one part: its skipped rows first, then its scores, so that one with scores is whole."""
        name = part_name(shard_index, index)
        part = Part(
            shard=shard,
            shard_index=shard_index,
            index=index,
            start=start,
            end=end,
            last=last,
            path=self.path / "scores" / name,
            schema=scores.schema.remove_metadata(),
        )
        aside = self.path / "skipped" / name
        if skipped.num_rows:
            write_table(skipped, aside, metadata_of(part))
        else:
            aside.unlink(missing_ok=True)
        write_table(scores, part.path, metadata_of(part))
        if self._parts is not None:
            others = [p for p in self._parts.get(shard, []) if p.index != index]
            self._parts[shard] = sorted([*others, part], key=lambda p: p.order)
        return part

    def adopt(self, part: Part, shard_index: int) -> Part:
        """Write another run's part as one of this run, whose pool has the same shard in another place, maybe."""
        aside = part.path.parent.parent / "skipped" / part.path.name
        return self.write_part(
            shard=part.shard,
            shard_index=shard_index,
            index=part.index,
            start=part.start,
            end=part.end,
            last=part.last,
            scores=pq.read_table(part.path),
            skipped=pq.read_table(aside) if aside.exists() else SKIPPED_SCHEMA.empty_table(),
        )

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
        """What `finish` was given; None while the run is unfinished."""
        return json.loads((self.path / FINISHED).read_text(encoding="utf-8")) if self.is_finished else None

    def scores(self) -> "pl.LazyFrame":
        """Every scored document in pool order, lazily; columns that differ between parts are unified."""
        from curate.scores.frames import scan

        return scan(self.scores_files(), empty=pa.schema(SCORE_FIELDS))

    def skipped(self) -> "pl.LazyFrame":
        """Every row that was set aside, with its reason, in pool order, lazily."""
        from curate.scores.frames import scan

        return scan(self.skipped_files(), empty=SKIPPED_SCHEMA)

    def scores_files(self) -> list[File]:
        """The files in scores/ in pool order, each with its columns."""
        return [(p.path, p.schema) for p in self.all_parts()]

    def skipped_files(self) -> list[File]:
        """The files in skipped/ of whole parts; a file whose part has no scores yet is not counted."""
        there = {p.name for p in (self.path / "skipped").glob("[0-9]*.parquet")}
        names = [p.path.name for p in self.all_parts() if p.path.name in there]
        return [(self.path / "skipped" / name, SKIPPED_SCHEMA) for name in names]

    def close(self) -> None:
        """Let another process write the run."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _by_shard(self) -> dict[str, list[Part]]:
        if self._parts is None:
            self._parts = {}
            found = (read_part(p) for p in (self.path / "scores").glob("[0-9]*.parquet"))
            for part in sorted(found, key=lambda p: p.order):
                self._parts.setdefault(part.shard, []).append(part)
        return self._parts

    def refuse_other(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
        """Raise SettingsError naming every setting, and every given fingerprint, that differs.

        A run without any part refuses nothing."""
        lines = self._differences(settings, fingerprints)
        if lines and _has_parts(self.path):
            self.close()
            grown = all(line.startswith("pool") for line in lines)
            raise SettingsError(
                f"{self.path} was started differently:\n  " + "\n  ".join(lines),
                hint="Give another folder with --out, or the same settings to continue this run."
                + (f" If the pool has grown, --fit-from {self.path} scores its new shards alone." if grown else ""),
            )

    def _differences(self, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
        known = {k: v for k, v in self.fingerprints.items() if k in fingerprints}
        changed = differences(known, fingerprints, asked="now it is")
        return [*differences(self.settings, settings), *(f"{line} (its content has changed)" for line in changed)]


def list_runs(root: Path | str = "runs") -> list[Run]:
    """Every run directly under `root`, newest first by the time its run.json was written."""
    return [Run.open(p.parent) for p in sorted(Path(root).glob(f"*/{RECORD}"), key=_age, reverse=True)]


def latest_run(root: Path | str = "runs") -> Run:
    """The newest run under `root` that holds scores, else the newest.

    Raises CurateError saying what to do when there is none."""
    records = list(Path(root).glob(f"*/{RECORD}"))
    records = [r for r in records if _has_parts(r.parent)] or records
    if not records:
        raise CurateError(
            f"no run under {root}/",
            hint="Make one with `curate score --target FILE --pool FOLDER`, or give the run's folder.",
        )
    return Run.open(max(records, key=_age).parent)


def _has_parts(path: Path) -> bool:
    return next((path / "scores").glob("[0-9]*.parquet"), None) is not None


def _age(record: Path) -> tuple[int, str]:
    return record.stat().st_mtime_ns, str(record)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CurateError(f"{path / RECORD}: cannot be read as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        seen = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise CurateError(
            f"{path / RECORD}: format {seen!r}, this version of curate reads format {FORMAT}",
            hint="Read it with the version that wrote it, or score again into another folder.",
        )
    missing = [key for key in ("settings", "fingerprints", "details") if key not in record]
    if missing:
        raise CurateError(f"{path / RECORD}: lacks {', '.join(missing)}; it is not a run's record")
    return record


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise CurateError(f"{path} is a file, not a folder", hint="Give another folder with --out.")
    if not path.exists() or (path / RECORD).exists():
        return
    foreign = sorted(p.name for p in path.iterdir() if p.name != LOCK_NAME and not p.name.endswith(".tmp"))
    if foreign:
        raise CurateError(
            f"{path} is not empty and not a run (it holds {', '.join(foreign[:3])})",
            hint="Give another folder with --out, or empty this one.",
        )


def _how_to_find(path: Path) -> str:
    if list(path.glob(f"*/{RECORD}")):
        inside = max(path.glob(f"*/{RECORD}"), key=_age).parent
        return f"It holds runs; the newest is {inside}."
    return "Give the folder that `curate score` wrote, or none for the latest run under runs/."
