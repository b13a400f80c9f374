"""Print for the command line: results to stdout, progress and notes to stderr."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from curate.amounts import duration
from curate.errors import CurateError
from curate.secrets import without_secrets
from curate.visible import escaped, visible

T = TypeVar("T")


class Terminal(Console):
    """A console that prints text as it is: no markup, no emoji (`c4:train:17`), control characters shown."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)


stdout, stderr = Terminal(), Terminal(stderr=True)
if not stdout.is_terminal and "COLUMNS" not in os.environ:
    stdout.width = 160  # a pipe has no width of its own; rich's guess of 80 would fold every cell


def print_error(error: CurateError) -> None:
    stderr.print(Text("error:", "bold red"), error.message, soft_wrap=True)
    if error.hint:
        stderr.print(Text("try:  ", "bold"), error.hint, soft_wrap=True)


def print_alarm(message: str) -> None:
    """Print a warning in a red box on stderr, for what makes a result worthless."""
    from rich.panel import Panel

    stderr.print(Panel(message, title="WARNING", border_style="bold red", style="bold"))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, for programs."""
    sys.stdout.write(escaped(json.dumps(value, ensure_ascii=False, indent=2, default=str)) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table for people; numbers to the right, floats with four significant digits."""
    table = Table(title=title, title_justify="left", header_style="bold")
    rows = [list(r) for r in rows]
    for i, column in enumerate(columns):
        numeric = any(isinstance(r[i], _NUMBER) for r in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for r in rows:
        table.add_row(*(format_cell(v) for v in r))
    stdout.print(table)


_NUMBER = int | float | Decimal
"""Sums of integers are decimals in SQL."""
_STAY = ("score", "doc_id")
"""Columns that are left out last."""


SHOWN = {"score": "score", "n_tokens": "tokens", "shard": "shard", "row": "row", "preview": "text"}
"""What commands show of a run's best rows: columns, each with its heading."""


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the rows of a query, a line each, in the terminal's width: long text is cut, and inner columns left out.

    The score and the document's name stay. A single row that does not fit has a line per column. What is not shown is
    said.
    """
    from curate.cli._clipping import LEAST, cut, one_line, shown_columns, with_gaps

    names = [one_line(c) for c in columns]
    cells = [[one_line(format_cell(v)) for v in r] for r in rows]
    widths = [max(cell_len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    shown, most = shown_columns(widths, stdout.width, [names.index(n) for n in _STAY if n in names])
    if len(cells) == 1 and (len(shown) < len(names) or most < max(widths)):
        room = max(LEAST, stdout.width - max(map(cell_len, names)) - 7)
        print_table(("column", "value"), [(n, cut(v, room)) for n, v in zip(names, cells[0], strict=True)])
        return
    table = Table(header_style="bold")
    columns_and_gaps = with_gaps(shown, len(names))
    for i in columns_and_gaps:
        numeric = i is not None and any(isinstance(r[i], _NUMBER) for r in rows)
        name = "…" if i is None else cut(names[i], most)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for line in cells:
        table.add_row(*("…" if i is None else cut(line[i], most) for i in columns_and_gaps))
    stdout.print(table)
    if len(shown) < len(names):
        stdout.print(f"{len(shown)} of {len(names)} columns shown; name some, or --json and --csv show all")


class Plan(Protocol):
    """An estimate: a dataclass that says its totals in a sentence."""

    @property
    def sentence(self) -> str: ...


def print_plan(plan: Plan, rows: Iterable[tuple[str, Any]], *, as_json: bool) -> None:
    """Print an estimate's sentence, then its figures; as JSON, all of them as they are."""
    if as_json:
        print_json(asdict(plan) | {"sentence": plan.sentence})  # pyright: ignore[reportArgumentType]
        return
    stdout.print(plan.sentence, style="bold", soft_wrap=True)
    print_table(("estimate", ""), rows)


def format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, _NUMBER):
        return f"{value:,}"
    return str(value)


@contextmanager
def loading() -> Iterator[None]:
    """Turn a spinner where libraries load, which takes seconds before a command has anything to tell."""
    if stderr.is_terminal and not stderr.is_dumb_terminal and "torch" not in sys.modules:
        with stderr.status("loading"):
            yield
    else:
        yield


class RichReporter:
    """Draws stages as progress bars with rate and time left on stderr; notes and warnings above them.

    Where stderr is no terminal (a log file, a batch job), it prints a line now and then instead.
    """

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None, table_column=Column(max_width=40)),  # gives way to figures on narrow screens
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
            TextColumn("left", table_column=Column(min_width=4, no_wrap=True)),
            TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
            console=stderr,
            transient=False,
        )

    def __enter__(self) -> "RichReporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    @contextmanager
    def stage(
        self, name: str, *, total: float | None = None, unit: str = "documents", grows: str = ""
    ) -> Iterator["_RichTask | _LoggedTask"]:
        if stderr.is_terminal and not stderr.is_dumb_terminal:
            self._progress.start()  # only now: without a stage there is nothing to draw
            task = _RichTask(self._progress, name, total, unit)
        else:
            task = _LoggedTask(name, total, unit)
        try:
            yield task
        finally:
            task.close()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Show that a small part is measured for a plan, which has nothing to tell until all of it is."""
        with self.stage("measuring", total=1, unit="samples") as task:
            yield
            task.advance(1)

    def note(self, message: str) -> None:
        self._progress.console.print(without_secrets(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        self._progress.console.print(Text("warning:", "bold yellow"), without_secrets(message), soft_wrap=True)


def planned(make: Callable[..., T], *asked: Any, **how: Any) -> T:
    """Make a command's plan, and show that the small part is measured which it rests on."""
    with RichReporter() as reporter, reporter.measuring():
        return make(*asked, **how, reporter=reporter)


class _LoggedTask:
    """A line of progress now and then, and one at the end of a stage that took a while."""

    EVERY, SHORT = 15.0, 2.0

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done, self._start = 0.0, time.monotonic()
        self._said = self._start
        self._before: tuple[float, float] | None = None
        """When the first amount came, and how much: of a run that goes on it was there already."""

    def advance(self, amount: float) -> None:
        self._done += amount
        now = time.monotonic()
        self._before = self._before or (now, self._done)
        if now - self._said >= self.EVERY:
            self._say(now)

    def set_total(self, total: float | None) -> None:
        self._total = total

    def close(self) -> None:
        now = time.monotonic()
        if now - self._start >= min(self.SHORT, self.EVERY):
            self._say(now, ended=True)

    def _say(self, now: float, *, ended: bool = False) -> None:
        self._said = now
        left = (self._total or 0) - self._done
        fits = left >= 0 if not ended else left == 0  # a total may be an estimate, and too low or too high
        whole = f"/{self._total:,.0f}" if fits and self._total else ""
        line = f"{self._name}: {self._done:,.0f}{whole} {self._unit} in {duration(now - self._start)}"
        if (rate := self._rate(now)) and self._total != 1:  # of one thing there is no pace
            line += f", {rate:,.0f} {self._unit}/s" if rate >= 10 else f", {rate:.2g} {self._unit}/s"
            if fits and left:
                line += f", about {duration(left / rate)} left"
        stderr.print(line, soft_wrap=True)

    def _rate(self, now: float) -> float:
        since, before = self._before or (now, 0.0)
        if self._done == before:
            since, before = self._start, 0.0
        return (self._done - before) / (now - since) if now > since else 0.0


class _RichTask:
    def __init__(self, progress: Progress, name: str, total: float | None, unit: str) -> None:
        self._progress, self._unit = progress, unit
        self._id = progress.add_task(name, total=total, state="")

    def advance(self, amount: float) -> None:
        self._progress.advance(self._id, amount)
        task = self._progress.tasks[self._progress.task_ids.index(self._id)]
        rate = f"{task.speed:,.0f}/s" if task.speed and task.total != 1 else ""
        done = f"{task.completed:,.0f}"
        whole = f"{done}/{task.total:,.0f}" if task.total and task.total >= task.completed else done
        self._progress.update(self._id, state=f"{whole} {self._unit} {rate}")

    def set_total(self, total: float | None) -> None:
        self._progress.update(self._id, total=total)

    def close(self) -> None:
        task = self._progress.tasks[self._progress.task_ids.index(self._id)]
        self._progress.update(self._id, total=task.completed or 1, completed=task.completed or 1)
        self._progress.stop_task(self._id)
