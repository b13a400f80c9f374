"""The interactive SQL shell: statements end with a semicolon, errors do not end it."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from curate.cli._interrupting import waking
from curate.cli._output import print_error, stderr, stdout
from curate.errors import CurateError, nearest

if TYPE_CHECKING:
    from curate.scores.session import Session

_HELP = """\
SQL that ends with a semicolon, on one line or several, is run:
    SELECT source, count(*), avg(score) FROM scores GROUP BY source;
tables          the views
schema [VIEW]   their columns
help            this
exit, quit      leave (also Ctrl-D)
Ctrl-C cancels a statement. A dot before a word (.help) is fine, too."""
_CANCELLED = "\x03"
_LEAVE, _WORDS = ("exit", "quit"), ("tables", "schema", "help")


def run_shell(session: "Session", show: Callable[[str], None]) -> bool:
    """Read statements from stdin until it ends; `show` runs and prints one. Return whether all of them worked."""
    from curate import __version__

    interactive = sys.stdin.isatty()
    if interactive:
        stdout.print(
            f"curate {__version__}: SQL over {', '.join(n for n, _ in session.runs)}. End a statement with a semicolon;"
            " help for help, exit to leave.",
            soft_wrap=True,
        )
    save = _history() if interactive else None
    pending, worked = "", True
    try:
        while (line := _read("   ...> " if pending.strip() else "curate> ", interactive)) is not None:
            if line == _CANCELLED:
                pending = ""
                continue
            word = line.strip().removeprefix(".").rstrip("; ").casefold()
            if not pending.strip() and (line.strip().startswith(".") or word.split(" ")[0] in (*_LEAVE, *_WORDS)):
                if word in _LEAVE:
                    break
                worked &= _guarded(lambda word=word: _dot(session, word, show))
                continue
            pending += line + "\n"
            statements, pending = split_statements(pending)
            for statement in statements:
                worked &= _guarded(lambda statement=statement: show(statement))
        if pending.strip() and (line is not None or not interactive):
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
            with waking():
                return input(prompt)
        return line.rstrip("\n") if (line := sys.stdin.readline()) else None
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        if not interactive:
            raise
        print()
        return _CANCELLED


def _guarded(action: Callable[[], None]) -> bool:
    try:
        action()
    except CurateError as error:
        print_error(error)
        return False
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        stderr.print("cancelled")
        return False
    return True


def _dot(session: "Session", line: str, show: Callable[[str], None]) -> None:
    from curate.scores.views import quoted

    word, *names = line.split() or [""]
    if word == "tables":
        views = [*session.views, *([n for n, _ in session.runs] if len(session.runs) > 1 else [])]
        stdout.print("  ".join(views))
    elif word == "schema":
        for name in names or [v for v in session.views if v != "documents"]:
            stdout.print(name, style="bold")
            show(f"SELECT column_name, column_type FROM (DESCRIBE {quoted(name)})")
    elif word == "help":
        stdout.print(_HELP)
    else:
        raise CurateError(f"There is no command .{word}.", hint=nearest(word, [*_WORDS, *_LEAVE]))


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
