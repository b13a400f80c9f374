"""Disturb every long command of `curate`, and see that nothing is lost: `python -m tests.faults --help`."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.faults.commands import COMMANDS
from tests.faults.faults import Fault, Laboratory, Outcome, drawn
from tests.faults.kinds import KINDS
from tests.faults.processes import adopt_orphans, import_everything

_INSIDE = "CURATE_FAULTS_MAY_MOUNT"
_QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
console = Console(width=140)


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--faults", default=200, show_default=True, help="How many.")
@click.option("--commands", help=f"Some of {', '.join(COMMANDS)}. [default: all]")
@click.option("--kinds", help=f"Some of {', '.join(KINDS)}. [default: all]")
@click.option("--only", type=int, multiple=True, help="Repeat the fault of this number; the rest as it was then.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep here what failures leave.")
def main(
    seed: int, faults: int, commands: str | None, kinds: str | None, only: tuple[int, ...], keep: Path | None
) -> None:
    """Inject faults drawn from a seed into real commands, let them go on, and compare bytes with undisturbed runs."""
    names = [name for name in chosen(commands, list(COMMANDS)) if is_installed(name)]
    wanted = [kind for kind in chosen(kinds, list(KINDS)) if may_mount() or kind != "disk full"]
    if not may_mount():
        console.print("left out: disk full (no file system can be mounted here)")
    plan = list(islice(drawn(seed, names, wanted), max(faults, *(n + 1 for n in only), 0)))
    plan = [fault for fault in plan if not only or fault.number in only]
    folder = Path(tempfile.mkdtemp(prefix="faults-")) if keep is None else keep.absolute()
    import_everything()
    adopt_orphans()
    try:
        outcomes = suffer_all(Laboratory(folder=folder), plan)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    console.print(table_of(outcomes))
    failed = [o for o in outcomes if o.failures]
    for o in failed:
        options = "".join(f" --{k} '{v}'" for k, v in (("commands", commands), ("kinds", kinds)) if v)
        console.print(f"[red]{o.fault.command}, {o.fault.kind}[/]: {'; '.join(o.failures)}", highlight=False)
        console.print(f"  again: python -m tests.faults --seed {seed}{options} --only {o.fault.number} --keep DIR")
    console.print(f"{len(outcomes)} faults, {len(failed)} failures")
    sys.exit(bool(failed))


def suffer_all(laboratory: Laboratory, plan: list[Fault]) -> list[Outcome]:
    """Run the commands undisturbed, then with every fault."""
    laboratory.folder.mkdir(parents=True, exist_ok=True)
    laboratory.prepare(runs=any(COMMANDS[fault.command].needs_runs for fault in plan))
    references, outcomes = {}, []
    for fault in plan:
        if fault.command not in references:
            reference = references[fault.command] = laboratory.undisturbed(COMMANDS[fault.command])
            console.print(f"{fault.command}: undisturbed {reference.seconds:.1f} s, {len(reference.contents)} files")
        outcome = laboratory.suffer(fault, references[fault.command])
        outcomes.append(outcome)
        console.print(
            f"{fault.number:4d} {fault.command}, {fault.kind}: {verdict(outcome)} ({outcome.seconds:.1f} s)",
            highlight=False,
        )
    return outcomes


def verdict(outcome: Outcome) -> str:
    if outcome.failures:
        return f"FAILED: {'; '.join(outcome.failures)}"
    return "ended" if outcome.ended else "resumed" if outcome.resumed else "refused"


def table_of(outcomes: list[Outcome]) -> Table:
    """Return a row per command and kind."""
    table = Table("command", "kind", *("faults", "ended by itself", "resumed", "told of a damaged shard"), "lost")
    for name in ("doubled", "bytes equal", "failed"):
        table.add_column(name)
    by_pair: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_pair[outcome.fault.command, outcome.fault.kind].append(outcome)
    order = [(c, k) for c in COMMANDS for k in KINDS if (c, k) in by_pair]
    for pair in order:
        table.add_row(*pair, *counts(by_pair[pair]))
    table.add_section()
    table.add_row("all", "", *counts(outcomes))
    return table


def counts(outcomes: list[Outcome]) -> list[str]:
    resumed = sum(o.resumed and not o.ended for o in outcomes)
    rows = (sum(o.lost for o in outcomes), sum(o.doubled for o in outcomes))
    told, equal, failed = (sum(bool(getattr(o, name)) for o in outcomes) for name in ("refused", "equal", "failures"))
    return [str(n) for n in (len(outcomes), sum(o.ended for o in outcomes), resumed, told, *rows, equal, failed)]


def chosen(names: str | None, known: list[str]) -> list[str]:
    asked = known if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in known]:
        raise click.UsageError(f"{unknown[0]!r} is none of {', '.join(known)}.")
    return asked


def is_installed(name: str) -> bool:
    missing = COMMANDS[name].missing
    if missing:
        console.print(f"left out: {name} ({missing} is not installed)")
    return missing is None


def may_mount() -> bool:
    return os.environ.get(_INSIDE) == "1"


def enter_namespace() -> None:
    """Start this program again where it may mount file systems that nobody else sees, if that can be had."""
    if _INSIDE in os.environ:
        return
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    trial = [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    can = shutil.which("unshare") is not None and subprocess.run(trial, capture_output=True).returncode == 0
    os.environ.update(_QUIET, **{_INSIDE: str(int(can))})
    program = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    os.execvp((unshare if can else program)[0], [*unshare, *program] if can else program)


if __name__ == "__main__":
    enter_namespace()
    main()
