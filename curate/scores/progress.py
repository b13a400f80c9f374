"""How far a run or a store is: share done, rate and time left, counted from its parts and their times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from curate.documents import open_pool, rows_of_all
from curate.documents.located import located
from curate.errors import CurateError
from curate.folders.part_folder import PartFolder

_PAUSE = 10.0
"""Times the usual gap between two parts from which the work stood still."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a folder of parts."""

    rows: int
    """Rows of the pool that are dealt with, those set aside included."""
    of_rows: int | None
    """Estimated; None where the pool cannot be read here."""
    shards: int
    of_shards: int | None
    begun: int
    """Shards of which some parts are there and others missing."""
    failed: Mapping[str, str]
    """Why shards are not done that were given up, by name."""
    unended: Sequence[str]
    """Parts (3/64) of the pool whose jobs have begun and not ended: they are at work, or were killed."""
    rate: float | None
    """Rows a second, while it was at work; None where neither parts nor log tell."""
    finished: bool
    bytes: Mapping[str, int]
    """By folder or file."""

    @property
    def share(self) -> float | None:
        """The share of the rows that is done."""
        if self.finished:
            return 1.0
        return None if not self.of_rows else min(0.999, self.rows / self.of_rows)

    @property
    def seconds_left(self) -> float | None:
        """Estimated at the rate so far."""
        if self.finished or self.of_rows is None or not self.rate:
            return None
        return max(0, self.of_rows - self.rows) / self.rate


def progress_of(folder: PartFolder) -> Progress:
    """Count what a folder holds, and look at its pool for what is missing."""
    parts = folder.all_parts()
    rows, shards = sum(p.end - p.start for p in parts), sum(p.last for p in parts)
    whole = None if folder.is_finished else _whole(folder)
    return Progress(
        rows=rows,
        of_rows=rows if folder.is_finished else whole and whole[0],
        shards=shards,
        of_shards=shards if folder.is_finished else whole and whole[1],
        begun=len({p.shard for p in parts}) - shards,
        failed={
            shard: why
            for line in folder.log.lines()
            for shard, why in line.get("failed", {}).items()
            if not folder.holds(shard)
        },
        unended=[line["part"] for line in folder.log.lines() if "started" in line and "part" in line],
        rate=_rate(folder),
        finished=folder.is_finished,
        bytes=_sizes(folder),
    )


def _whole(folder: PartFolder) -> tuple[int, int] | None:
    """Return the pool's rows, about, and shards: of finished shards as many as were there."""
    addresses = folder.record.pool or folder.record.details.pool
    try:
        pool = open_pool([located(folder, a) for a in addresses])
    except (CurateError, OSError):
        return None
    ends = {p.shard: p.end for p in folder.all_parts() if p.last}
    rest = rows_of_all([s for s in pool.shards if s.name not in ends])
    return round(sum(ends.get(s.name, 0) for s in pool.shards) + rest), len(pool.shards)


def _rate(folder: PartFolder) -> float | None:
    """Return rows a second from when parts were written; what lies between two sessions does not count."""
    times = {file.name: file.modified for file in folder.folder.files()}
    rows_by_file: dict[str, int] = {}
    for part in folder.all_parts():
        name = f"{folder.ROWS}/{part.path.name}"
        rows_by_file[name] = rows_by_file.get(name, 0) + part.end - part.start
    written = sorted((times[name], rows) for name, rows in rows_by_file.items() if name in times)
    gaps = [(after - before, rows) for (before, _), (after, rows) in pairwise(written)]
    if len(gaps) < 2 or not (usual := median(gap for gap, _ in gaps)):
        return _rate_of_session(folder, written)
    counted = [(gap, rows) for gap, rows in gaps if gap <= _PAUSE * usual]
    return sum(rows for _, rows in counted) / sum(gap for gap, _ in counted)


def _rate_of_session(folder: PartFolder, written: Sequence[tuple[float, int]]) -> float | None:
    """Return rows a second since the session began that wrote the last part, its preparation included."""
    begun = next((line["started"] for line in reversed(folder.log.lines()) if "started" in line), None)
    if begun is None or not written or written[-1][0] <= begun:
        return None
    return sum(rows for time, rows in written if time > begun) / (written[-1][0] - begun)


def _sizes(folder: PartFolder) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for file in folder.folder.files():
        name = file.name.partition("/")[0]
        sizes[name] = sizes.get(name, 0) + file.size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
