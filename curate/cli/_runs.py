"""Open the run of a command: the named one, or the latest."""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.cli._output import stderr

if TYPE_CHECKING:
    from curate.scores.run import Run

ROOT = Path("runs")


def chosen_run(path: str | Path | None) -> "Run":
    """Open the run at `path`, or the latest under runs/, and print which to stderr."""
    from curate.scores.run import Run, latest_run

    if path is not None:
        return Run.open(path)
    run = latest_run(ROOT)
    stderr.print(f"run: {run.address}", style="dim", soft_wrap=True, markup=False)
    return run
