"""`curate merge`: one run of several, each of another slice of a pool."""

import shlex
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from curate.pipeline.merge import MergePlan


@click.command(short_help="Make one run of several, each of another slice of a pool.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN RUN...")
@click.option("--out", type=click.Path(), help="The merged run's folder.  [required]")
@click.option("--dry-run", is_flag=True, help="Check that the runs can be one, say what it will hold, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its totals as JSON.")
def command(runs: tuple[str, ...], out: str | None, dry_run: bool, as_json: bool) -> None:
    """Make one run of several that scored slices of a pool alike, so that ranks and shares are over all of it.

    \b
    curate score --target val.jsonl --pool pile/0 --method ekfac --out runs/0
    curate score --fit-from runs/0 --pool pile/1 --out runs/1        # on another machine, or another day
    curate merge runs/0 runs/1 --out runs/all
    curate select runs/all --top 5%

    The runs have to agree on method and settings, proxy, target and fits (--fit-from), and no shard may be in two of
    them. The result is a run like any other, with the bytes that one scoring of the whole pool would have; the runs
    stay as they are. A merge that was stopped goes on when it is repeated.
    """
    from curate.cli._output import RichReporter, print_json, stderr, stdout
    from curate.pipeline import merge

    if dry_run:
        _print_plan(merge.plan(runs), as_json)
        return
    if out is None:
        raise click.UsageError("--out is missing: the folder of the merged run.")
    with RichReporter() as reporter:
        merged = merge.run(runs, out, reporter=reporter)
    totals = merged.totals or {}
    if as_json:
        print_json({"run": merged.address, "runs": merged.record.json["details"]["merged"], **totals})
        return
    stdout.print(f"{totals['documents']:,} documents of {len(runs)} runs in {merged.address}", soft_wrap=True)
    path = shlex.quote(merged.address)
    stderr.print(f"next: curate report {path}   or   curate select {path} --top 5%", soft_wrap=True, style="dim")


def _print_plan(plan: "MergePlan", as_json: bool) -> None:
    from curate.cli._output import print_json, print_table, stdout

    if as_json:
        print_json(plan.record())
        return
    rows = [(run.address, (run.totals or {})["documents"], (run.totals or {})["tokens"]) for run in plan.runs]
    print_table(("run", "documents", "tokens"), [*rows, ("(all)", plan.totals["documents"], plan.totals["tokens"])])
    stdout.print(f"{len(plan.pool.shards):,} shards; dry run: nothing written", soft_wrap=True)
