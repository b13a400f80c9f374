"""`curate status`: list the runs and their progress."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from curate.scores.run import Run


@click.command()
@click.argument("run", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(run: str | None, as_json: bool) -> None:
    """Show runs and their progress: of RUN alone, or of all under runs/, the newest first.

    \b
    curate status
    curate status runs/x --json
    """
    from curate.cli._output import print_alarm, print_json, print_table, stderr
    from curate.cli._runs import ROOT
    from curate.scores.arithmetic import arithmetic_warning
    from curate.scores.run import Run, list_runs

    runs = [Run.open(run)] if run else list_runs(ROOT)
    states = [progress(r) for r in runs]
    if as_json:
        print_json(states)
        return
    if not states:
        stderr.print(
            f"There is no run under {ROOT}/; `curate score --target FILE --pool FOLDER` makes one.", markup=False
        )
        return
    rows = [
        (
            state["run"],
            state["method"],
            str(state["model"]).rstrip("/").split("/")[-1],  # the whole of it is in --json
            "yes" if state["finished"] else "no",
            state["shards"],
            state["documents"],
            state["tokens"],
            "\n".join(f"{n:,} {reason}" for reason, n in state["skipped"].items())
            if run
            else sum(state["skipped"].values()),
        )
        for state in states
    ]
    print_table(("run", "method", "model", "done", "shards", "documents", "tokens", "skipped"), rows)
    for r in runs:
        if warning := arithmetic_warning(r.record.details):
            print_alarm(f"{r.path}: {warning}")


def progress(run: "Run") -> dict[str, Any]:
    """Return the progress of a run, counted from its parts."""
    from curate.scores.counts import count

    parts, counted = run.all_parts(), count(run)
    often_first = sorted(counted["skipped"].items(), key=lambda item: -item[1])
    return {
        "run": str(run.path),
        "method": run.record.method,
        "model": run.record.model,
        "target": run.record.settings.get("target"),
        "pool": run.record.settings.get("pool"),
        "finished": run.is_finished,
        "shards": sum(p.last for p in parts),
        "parts": len(parts),
        "documents": counted["documents"],
        "tokens": counted["tokens"],
        "skipped": dict(often_first),
        "arithmetic": run.record.json["details"].get("arithmetic"),
        "totals": run.totals,
    }
