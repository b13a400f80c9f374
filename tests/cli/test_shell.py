"""The SQL shell as a person meets it, on a terminal of its own."""

import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.selection.conftest import make_pool, make_run


class Shell:
    """`curate sql` on a pseudo-terminal."""

    def __init__(self, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            home = {"HOME": str(folder), "TERM": "dumb", "COLUMNS": "100"}
            os.execve(
                sys.executable, [sys.executable, "-m", "curate", "sql", "runs/x"], {**os.environ, **PATHS, **home}
            )
        self.seen, self.read = "", 0

    def until(self, text: str, seconds: float = 60) -> str:
        """Read until a text comes; return all from the end of the last one, however many came at once, to its end."""
        end, start = time.monotonic() + seconds, self.read
        while text not in self.seen[start:]:
            if time.monotonic() > end or not select.select([self.fd], [], [], end - time.monotonic())[0]:
                pytest.fail(f"{text!r} did not come: {self.seen[start:]}")
            try:
                self.seen += os.read(self.fd, 65536).decode()
            except OSError:
                pytest.fail(f"the shell ended: {self.seen[start:]}")
        self.read = self.seen.index(text, start) + len(text)
        return self.seen[start : self.read]

    def interrupted(self) -> str:
        """Press Ctrl-C once; return all that came up to the prompt."""
        self.send("\x03")
        return self.until("curate> ", 30)

    def send(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def status(self) -> int:
        """Wait for its end; return the exit code."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with suppress(OSError):
                if select.select([self.fd], [], [], 0.05)[0]:
                    os.read(self.fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        pytest.fail("the shell did not end")


PATHS = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    make_pool(tmp_path / "pool")
    make_run(tmp_path / "runs" / "x", tmp_path / "pool").close()
    shell = Shell(tmp_path)
    shell.until("curate> ")
    yield shell
    with suppress(OSError):
        os.close(shell.fd)


def test_control_c_cancels_a_statement_and_gives_up_a_half_typed_one(shell: Shell) -> None:
    shell.send("SELECT count(*) FROM range(100000000000) a, range(1000000) b;\n")
    time.sleep(1)
    assert "cancelled" in shell.interrupted()
    shell.send("SELECT 40 +\n")  # a statement of two lines, the first of which is given up
    shell.until("...> ")
    shell.interrupted()
    shell.send("SELECT 42 AS answer;\n")
    assert "42" in shell.until("curate> ")


def test_a_statement_goes_over_lines_and_control_d_leaves(shell: Shell) -> None:
    shell.send("SELECT 40 +\n")
    shell.until("...> ")
    shell.send("2 AS answer;\n")
    assert "42" in shell.until("curate> ")
    shell.send("\x04")
    assert shell.status() == 0


@pytest.mark.parametrize("word", ["exit", *(pytest.param(w, marks=pytest.mark.slow) for w in ("quit;", ".exit"))])
def test_help_explains_and_a_word_leaves(shell: Shell, word: str) -> None:
    shell.send("help\n")
    assert "semicolon" in shell.until("curate> ")
    shell.send("tables\n")
    assert "candidates" in shell.until("curate> ")
    shell.send(f"{word}\n")
    assert shell.status() == 0
