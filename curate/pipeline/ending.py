"""The end of a pass over a pool: what was set aside is said, and nothing to show for it is a failure."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import polars as pl

from curate.documents import DAMAGED, Fields, Pool, documents
from curate.errors import CurateError
from curate.executors.contract import UnfinishedShard, Work
from curate.folders.part_folder import PartFolder
from curate.progress import Reporter
from curate.schema import Skipped
from curate.scores.counts import count

_NAMED = 5


def log(folder: PartFolder, work: Work, described: Mapping[str, Any], **seconds: float) -> None:
    """Write what a session did, where, and how long its stages took into a folder's log."""
    rounded = {stage: round(value, 3) for stage, value in seconds.items()}
    folder.log.end({"seconds": rounded, **described, **work.told()})


def totals_of(folder: PartFolder, pool: Pool, *, strict: bool, reporter: Reporter) -> dict[str, Any]:
    """Count what a pass has written, and warn of shards that were damaged.

    Raises CurateError where a row of the pool is missing or counted twice, where not one document is left, and with
    `strict` where a shard was damaged; parts stay.
    """
    folder.refresh()
    totals = count(folder)
    _refuse_lost(folder, pool, totals)
    if any(shard.choice is not None for shard in pool.shards):
        totals["passed_over"] = sum(p.end - p.start for p in folder.all_parts()) - _counted(totals)
    damaged = (
        folder.skipped()
        .filter(pl.col("reason") == DAMAGED)
        .select("shard", "detail")
        .collect(engine="streaming")
        .rows()
    )
    for shard, detail in damaged[:_NAMED]:
        reporter.warn(f"{shard}: damaged, what could be read of it is kept: {detail}")
    if (more := len(damaged) - _NAMED) > 0:
        reporter.warn(f"{more:,} more shards are damaged; the view skipped of `curate sql` names them.")
    if not totals["documents"]:
        raise _nothing(folder, totals["skipped"])
    if damaged and strict:
        raise CurateError(
            f"{len(damaged)} shard(s) could not be read to the end; all others are done. {damaged[0][1]}",
            hint="Mend or remove the shard and begin anew in another folder (--out), or go on without --strict.",
        )
    return totals


def is_to_finish(
    folder: PartFolder,
    job: str | None,
    unfinished: Callable[[], Sequence[UnfinishedShard]],
    command: str,
    reporter: Reporter,
) -> bool:
    """Return whether a process that has done its work is to finish the folder: as the only job, or the last of several.

    The last warns where parts are missing that others were to make.
    """
    if not folder.is_last():
        reporter.note(f"this job is done; others are at work on {folder.address}, and the last of them finishes it.")
        return False
    if job is None:
        return True
    folder.refresh()
    if shards := unfinished():
        reporter.warn(
            f"{len(shards)} of {shards[0].of} shards of {folder.address} have parts missing, and no other job is at"
            f" work on it now. `curate status {folder.address}` tells more; `curate {command} --continue"
            f" {folder.address}` does the rest, if no job does."
        )
    return not shards


def warn_of_mixed(folder: PartFolder, reporter: Reporter) -> None:
    """Warn where parts were made on several kinds of devices, by other libraries or with more threads."""
    kinds = kinds_of(folder)
    if len(kinds) > 1:
        reporter.warn(
            f"the parts of {folder.address} were made by several kinds of processes ({'; '.join(kinds)}): their scores"
            " differ in rounding from those of one kind."
        )


def kinds_of(folder: PartFolder) -> list[str]:
    """Return the kinds of the processes that made a folder's parts, as far as its log tells."""
    return sorted({kind for line in folder.log.lines() if line.get("parts") for kind in line.get("kinds", ())})


def _refuse_lost(folder: PartFolder, pool: Pool, totals: Mapping[str, Any]) -> None:
    """Raise CurateError unless the parts cover every shard to its end, and hold as many rows as were counted.

    Of shards with a choice of rows, only chosen ones may be there, and rows at which reading ended.
    """
    lacking = [s.name for s in pool.shards if not folder.holds(s.name)]
    parts = folder.all_parts()
    choices = {s.name: s.choice for s in pool.shards}
    # Blank lines of a shard are no rows.
    most = sum(p.end - p.start if (c := choices.get(p.shard)) is None else len(c.rows(p.start, p.end)) for p in parts)
    most += 0 if None in choices.values() else totals["skipped"].get(DAMAGED, 0)
    counted = _counted(totals)
    if lacking or counted > most:
        some = f"{len(lacking)} shard(s) have parts missing, {lacking[0]} first" if lacking else "rows are there twice"
        raise CurateError(
            f"{folder.address}: {some} ({counted:,} rows counted, {most:,} read).",
            hint="Repeat the command: it makes what is missing. Did another process remove files of this folder?",
        )


def _counted(totals: Mapping[str, Any]) -> int:
    return totals["documents"] + sum(totals["skipped"].values())


def nothing_usable(pool: Pool, columns: Fields) -> CurateError:
    """Return the error of a pool of which a sample has no document, with the first row and why it is none."""
    first = None
    for shard in pool.shards:
        with suppress(CurateError):
            first = first or next(documents(shard, columns), None)
    shown = f" The first is {first.shard}, row {first.row}: {first.detail}" if isinstance(first, Skipped) else ""
    return CurateError(
        f"A sample of the pool ({', '.join(pool.address)}) holds no row that can be used.{shown}",
        hint="Name the columns that hold the content (--text-column …), or mend the rows.",
    )


def _nothing(folder: PartFolder, reasons: dict[str, int]) -> CurateError:
    if not reasons and folder.record.details.narrowed is not None:
        return CurateError("None of the pool's documents was chosen.", hint="Give a larger --sample, or --top.")
    if not reasons:
        return CurateError("The pool holds no document.", hint="Is --pool the right folder?")
    row = folder.skipped().head(1).collect().row(0, named=True)
    counts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    return CurateError(
        f"Not one of the pool's {sum(reasons.values()):,} rows can be used: {counts}. "
        f"The first is {row['shard']}, row {row['row']}: {row['detail'] or row['reason']}",
        hint="Name the columns that hold the content (--text-column …), or mend the rows, and delete"
        f" {folder.address}.",
    )
