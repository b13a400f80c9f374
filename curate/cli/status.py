"""`curate status`: list the runs and their progress, or tell all about one."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from curate.folders.part_folder import PartFolder
    from curate.scores.progress import Progress


@click.command(short_help="List the runs, or tell all about one: settings, share done, time left.")
@click.argument("run", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(run: str | None, as_json: bool) -> None:
    """List the runs under runs/, the newest first; of one RUN (or store) tell settings, progress and sizes.

    Of a folder of `curate validate` or `curate verify`: how far it is, its settings, and what it found.

    \b
    curate status
    curate status runs/x
    curate status runs/x --json

    Of one that is not finished it also says how long the rest will take, and the command that goes on with it.
    """
    from curate.cli._output import print_alarm, print_json, stderr
    from curate.cli._runs import ROOT
    from curate.proof.progress import is_proof
    from curate.scores.arithmetic import arithmetic_warning
    from curate.scores.run import list_runs

    if run and is_proof(run):
        _tell_proof(run, as_json)
        return
    folders: list[PartFolder] = [_opened(run)] if run else [*list_runs(ROOT)]
    states = [_state(folder) for folder in folders]
    if as_json:
        print_json([{**s, **_more(f)} for s, f in zip(states, folders, strict=True)] if run else states)
        return
    if not states:
        stderr.print(
            f"There is no run under {ROOT}/; `curate score --target FILE --pool FOLDER` makes one.",
            markup=False,
            soft_wrap=True,
        )
        return
    if run:
        _print_one(folders[0], states[0])
    else:
        _print_list(states)
    for folder in folders:
        if warning := arithmetic_warning(folder.record.details):
            print_alarm(f"{folder.address}: {warning}")


def _tell_proof(path: str, as_json: bool) -> None:
    """Tell how far a validation or a verification is."""
    from dataclasses import asdict

    from curate.cli._output import print_json, print_table, stdout
    from curate.folders.record import leaves
    from curate.proof.progress import proof_progress

    progress = proof_progress(path)
    again = shlex.join(["curate", progress.command, "--continue", path])
    if as_json:
        print_json([asdict(progress) | {"continue": None if progress.finished else again}])
        return
    done = "finished" if progress.finished else "not finished"
    if progress.trainings is not None and not progress.finished:
        done += f", {progress.trainings} of {progress.of_trainings} trainings done"
    stdout.print(f"{path} (curate {progress.command}): {done}.", style="bold", soft_wrap=True)
    if progress.sentence:
        stdout.print(progress.sentence, soft_wrap=True)
    print_table(("setting", "value"), [(name, _shown(value)) for name, value in leaves(progress.settings).items()])
    if not progress.finished:
        stdout.print(f"go on by: {again}", soft_wrap=True)


def _opened(path: str) -> "PartFolder":
    from curate.folders.local import open_folder
    from curate.scores.run import Run

    if open_folder(path).exists("store.json"):
        from curate.stores.store import Store

        return Store.open(path)
    return Run.open(path)


def _state(folder: "PartFolder") -> dict[str, Any]:
    """Return the progress of a run, counted from its parts."""
    from curate.scores.counts import count

    parts, counted = folder.all_parts(), count(folder)
    often_first = sorted(counted["skipped"].items(), key=lambda item: -item[1])
    return {
        "run": folder.address,
        "method": folder.record.method,
        "model": folder.record.model,
        "target": folder.record.settings.get("target"),
        "pool": folder.record.settings.get("pool"),
        "finished": folder.is_finished,
        "shards": sum(p.last for p in parts),
        "parts": len(parts),
        "documents": counted["documents"],
        "tokens": counted["tokens"],
        "skipped": dict(often_first),
        "arithmetic": folder.record.json["details"].get("arithmetic"),
        "narrowed": folder.record.json["details"].get("narrowed"),
        "totals": folder.totals,
    }


def _more(folder: "PartFolder") -> dict[str, Any]:
    """Return what is told of one folder alone: share done, time left, sizes, settings, the command that goes on."""
    from curate.scores.progress import progress_of

    progress = progress_of(folder)
    changed, _ = _settings(folder)
    return {
        "share": progress.share,
        "rows_per_second": progress.rate,
        "seconds_left": progress.seconds_left,
        "shards_begun": progress.begun,
        "shards_failed": progress.failed,
        "parts_unended": progress.unended,
        "bytes": progress.bytes,
        "settings": folder.record.settings,
        "changed_settings": changed,
        "continue": None if progress.finished else _going_on(folder),
    }


def _print_list(states: list[dict[str, Any]]) -> None:
    from curate.cli._output import print_table

    rows = [
        (
            state["run"],
            state["method"],
            str(state["model"]).rstrip("/").split("/")[-1],  # the whole of it is in --json
            "yes" if state["finished"] else "no",
            state["shards"],
            state["documents"],
            state["tokens"],
            sum(state["skipped"].values()),
        )
        for state in states
    ]
    print_table(("run", "method", "model", "done", "shards", "documents", "tokens", "skipped"), rows)


def _print_one(folder: "PartFolder", state: Mapping[str, Any]) -> None:
    from curate.amounts import counted, size
    from curate.cli._output import print_table, stdout
    from curate.scores.narrowing import narrowed_note
    from curate.scores.progress import progress_of

    progress = progress_of(folder)
    stdout.print(_headline(folder, progress), style="bold", soft_wrap=True)
    stdout.print(
        f"{counted(state['documents'], 'document')}, {counted(state['tokens'], 'token')};"
        f" {size(sum(progress.bytes.values()))} on disk"
        f" ({', '.join(f'{name} {size(b)}' for name, b in list(progress.bytes.items())[:4])})",
        soft_wrap=True,
    )
    if note := narrowed_note(folder.record):
        stdout.print(f"scored are {note}", soft_wrap=True)
    _print_shards(progress)
    if state["skipped"]:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in state["skipped"].items())
        stdout.print(f"rows set aside: {reasons}", soft_wrap=True)
    changed, others = _settings(folder)
    print_table(("setting", "value", "default"), [(n, _shown(v), _shown(d)) for n, (v, d) in changed.items()])
    if usual := ", ".join(f"{n} {_shown(v)}" for n, v in others.items() if v not in (None, [], "")):
        stdout.print(f"As by default: {usual}.", soft_wrap=True, style="dim")
    if not progress.finished:
        stdout.print(f"go on by: {_going_on(folder)}", soft_wrap=True)


def _print_shards(progress: "Progress") -> None:
    """Say of an unfinished run which shards are done, begun, untouched and failed, and which jobs have not ended."""
    from curate.cli._output import stdout

    if progress.finished:
        return
    if progress.of_shards is not None:
        untouched = progress.of_shards - progress.shards - progress.begun
        stdout.print(f"shards: {progress.shards:,} done, {progress.begun:,} begun, {untouched:,} untouched")
    for shard, why in progress.failed.items():
        stdout.print(f"failed: {shard}: {why}", markup=False, soft_wrap=True)
    if progress.unended:
        stdout.print(f"parts at work, or killed: {', '.join(progress.unended)}", soft_wrap=True)


def _headline(folder: "PartFolder", progress: "Progress") -> str:
    from curate.amounts import counted, duration, rounded

    if progress.finished:
        shards = counted(progress.shards, "shard")
        return f"{folder.address}: finished, {counted(progress.rows, 'row')} of {shards}."
    if progress.share is None:
        return f"{folder.address}: not finished, {progress.rows:,} rows so far; its pool cannot be read from here."
    done = f"{progress.share:.0%} done ({progress.rows:,} of about {rounded(progress.of_rows or 0)} rows,"
    left = "time left not known yet"
    if progress.seconds_left is not None:
        left = f"about {duration(progress.seconds_left)} left at {progress.rate:,.3g} rows a second"
    return f"{folder.address}: {done} {progress.shards:,} of {progress.of_shards:,} shards); {left}."


def _going_on(folder: "PartFolder") -> str:
    from curate.pipeline.continuing import of_record

    command, _ = of_record(folder.record, folder.record.settings)
    return shlex.join(["curate", command, "--continue", folder.address])


def _settings(folder: "PartFolder") -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Return the settings that are not as by default, each with its default, and the others."""
    from curate.folders.record import leaves
    from curate.pipeline.continuing import defaults

    recorded, usual = leaves(folder.record.settings), leaves(defaults(folder.record))
    names = [*sorted(recorded, key=lambda n: ("." in n, n))]
    changed = {n: (recorded[n], usual.get(n)) for n in names if recorded[n] != usual.get(n)}
    return changed, {n: recorded[n] for n in names if n not in changed}


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
