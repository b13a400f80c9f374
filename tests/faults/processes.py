"""Real processes of the command line, forked from one that has imported everything, so that each starts at once."""

import atexit
import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TypeVar

import curate

T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_CHILD_SUBREAPER, _DROP_FROM_BOUNDING_SET = 36, 24
_CAPABILITIES_VERSION = 0x20080522
_OVERRIDE, _READ_SEARCH = 1, 2
_NOT_IMPORTED = ("curate.__main__", "curate.executors.ray")
PATIENCE = 600.0
_PAUSE = 0.002


def import_everything() -> None:
    """Import what the commands import: a fork of this process starts without waiting for it."""
    for name in (
        *("transformers.models.llama.modeling_llama", "transformers.trainer", "peft", "datasets", "faiss", "bm25s"),
        *("matplotlib.pyplot", "pyarrow.dataset", "safetensors.torch", "duckdb"),
        *(m.name for m in walk_packages(curate.__path__, "curate.") if m.name not in _NOT_IMPORTED),
    ):
        import_module(name)
    assert threading.active_count() == 1, "a fork of this process would lack its threads"


def adopt_orphans() -> None:
    """Be the parent of processes whose parent ends, so that none is out of sight."""
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Job:
    """A running command of `curate`, and all that it has started."""

    pid: int
    errors: Path
    code: int | None = None
    """Its exit status, negative for a signal; None while it runs."""

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Wait for its end, at most so long."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        return self.code

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the process, or to its group as a terminal does."""
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)

    def workers(self) -> list[int]:
        """Return the processes that it has started, but for Python's resource tracker."""
        return [c for c in children_of(self.pid) if b"resource_tracker" not in command_line(c)]

    @property
    def told(self) -> str:
        return self.errors.read_text(errors="replace")


def start(arguments: Sequence[str], folder: Path, printed: Path) -> Job:
    """Run `curate` with arguments in a folder; what it prints goes into `printed.out` and `printed.err`."""
    sys.stdout.flush()
    errors = printed.with_suffix(".err")
    errors.touch()
    if pid := os.fork():
        os.setpgid(pid, pid)  # here, too: a signal to the group may come at once
        return Job(pid=pid, errors=errors)
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for descriptor, path in ((0, Path(os.devnull)), (1, printed.with_suffix(".out")), (2, errors)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        _respect_modes()
        code = _run(arguments)
    finally:
        os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run the command line as `python -m curate` does, to the end of an interpreter."""
    from curate.cli import main

    sys.argv = ["curate", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else int(code is not None)


def _respect_modes() -> None:
    """Let root, too, be kept from files by their modes; what it starts as well."""
    for capability in (_OVERRIDE, _READ_SEARCH):
        _LIBC.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _LIBC.capget(header, sets) == 0:
        for i in range(3):  # effective, permitted, inheritable
            sets[i] &= ~(1 << _OVERRIDE | 1 << _READ_SEARCH)
        _LIBC.capset(header, sets)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process, any of its threads, has started."""
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(c) for c in task.read_text().split()]
        except OSError:
            continue
    return children


def descendants_of(pid: int) -> list[int]:
    children = children_of(pid)
    return children + [d for child in children for d in descendants_of(child)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def actors() -> list[int]:
    """Return the actors of Ray among this process's descendants."""
    return [p for p in descendants_of(os.getpid()) if b"ray::_Actor" in command_line(p)]


def await_end_of_all(seconds: float = 30) -> list[str]:
    """Wait until this process has no child left; kill and name those that stay."""
    deadline = time.monotonic() + seconds
    while _reap() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    left = [p for p in descendants_of(os.getpid()) if command_line(p)]
    names = [command_line(p).replace(b"\0", b" ").decode(errors="replace")[:80] for p in left]
    for p in left:
        os.kill(p, signal.SIGKILL)
    while _reap():
        time.sleep(_PAUSE)
    return names


def forked(work: Callable[[], T]) -> T:
    """Return what `work` returns in a fork, so that threads which it starts are none of this process."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        with os.fdopen(writing, "wb") as pipe:
            try:
                pickle.dump(work(), pipe)
                pipe.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return pickle.loads(answer)


def _reap() -> bool:
    """Collect children that have ended; return whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
