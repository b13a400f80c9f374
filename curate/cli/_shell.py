"""The interactive SQL shell: statements end with a semicolon, errors do not end it."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from curate.cli._output import print_error, stdout
from curate.errors import CurateError

if TYPE_CHECKING:
    from curate.scores.session import Session

_HELP = """\
.tables          the views
.schema [VIEW]   their columns
.help            this
.quit            leave (also Ctrl-D)
Anything else is SQL; end it with a semicolon."""


def run_shell(session: "Session", show: Callable[[str], None]) -> bool:
    """Read statements from stdin until it ends; `show` runs and prints one. Return whether all of them worked."""
    from curate import __version__

    interactive = sys.stdin.isatty()
    if interactive:
        stdout.print(f"curate {__version__}, SQL over {', '.join(n for n, _ in session.runs)}; .help for help")
    save = _history() if interactive else None
    pending, worked = "", True
    try:
        while (line := _read("   ...> " if pending.strip() else "curate> ", interactive)) is not None:
            if not pending.strip() and line.strip().startswith("."):
                if line.split()[0] in (".quit", ".exit"):
                    break
                worked &= _guarded(lambda line=line: _dot(session, line, show))
                continue
            pending += line + "\n"
            statements, pending = split_statements(pending)
            for statement in statements:
                worked &= _guarded(lambda statement=statement: show(statement))
        if pending.strip():
            worked &= _guarded(lambda: show(pending))
    finally:
        if save:
            save()
    return worked


def split_statements(text: str) -> tuple[list[str], str]:
    """Return the complete statements of `text`, and the rest; semicolons in strings and comments do not count."""
    import duckdb

    try:
        statements = [s.query.strip() for s in duckdb.extract_statements(text)]
    except duckdb.Error:
        # Not parsed (yet): whole once it ends with a semicolon, and then its error is for the user to see.
        return ([text], "") if text.rstrip().endswith(";") else ([], text)
    if text.rstrip().endswith(";"):
        return [s for s in statements if s], ""
    return [s for s in statements[:-1] if s], statements[-1] + "\n" if statements else ""


def _read(prompt: str, interactive: bool) -> str | None:
    try:
        if interactive:
            return input(prompt)
        return line.rstrip("\n") if (line := sys.stdin.readline()) else None
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return ""


def _guarded(action: Callable[[], None]) -> bool:
    try:
        action()
    except CurateError as error:
        print_error(error)
        return False
    except KeyboardInterrupt:
        print()
    return True


def _dot(session: "Session", line: str, show: Callable[[str], None]) -> None:
    from curate.scores.views import quoted

    word, *rest = line.split()
    if word == ".tables":
        names = [*session.views, *([n for n, _ in session.runs] if len(session.runs) > 1 else [])]
        stdout.print("  ".join(names), markup=False)
    elif word == ".schema":
        for name in rest or [v for v in session.views if v != "documents"]:
            stdout.print(name, style="bold", markup=False)
            show(f"SELECT column_name, column_type FROM (DESCRIBE {quoted(name)})")
    else:
        stdout.print(_HELP, markup=False)


def _history() -> Callable[[], None] | None:
    try:
        import readline
    except ImportError:  # not on every platform; the shell works without history
        return None
    path = Path.home() / ".curate_history"
    with suppress(OSError):  # no history yet
        readline.read_history_file(path)
    readline.set_history_length(1000)

    def save() -> None:
        with suppress(OSError):  # a home that cannot be written must not end the shell with an error
            readline.write_history_file(path)

    return save
