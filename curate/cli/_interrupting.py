"""Ctrl-C where Python alone would miss it: in the shell's line, and while DuckDB works."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_AGAIN = 0.05  # seconds between two wakings


def stopping(connection: "duckdb.DuckDBPyConnection") -> AbstractContextManager[None]:
    """Stop the connection's statement as soon as Ctrl-C is pressed.

    DuckDB itself looks for signals only between pieces of work of the main thread, and misses them where that waits
    for the threads that work.
    """
    return _on_control_c(lambda _: connection.interrupt())


def waking() -> AbstractContextManager[None]:
    """Wake a line that is being read when Ctrl-C is pressed.

    Python's readline sees a signal only while it waits for a key; one that comes between the prompt and that is seen
    with the next key. A change of the window's size, which readline takes at any time, ends the waiting.
    """
    return _on_control_c(_wake)


def _wake(is_over: Event) -> None:
    while not is_over.wait(_AGAIN):
        signal.pthread_kill(main_thread().ident or 0, signal.SIGWINCH)


@contextmanager
def _on_control_c(action: Callable[[Event], None]) -> Iterator[None]:
    """Call `action` in a thread of its own when Ctrl-C is pressed; the event says that the block is over."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before, is_over = signal.set_wakeup_fd(writing, warn_on_full_buffer=False), Event()

    def watch() -> None:
        while received := os.read(reading, 1):
            if received[0] == signal.SIGINT:
                action(is_over)

    watcher = Thread(target=watch, name="interrupting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # ends the watcher
        watcher.join()
        os.close(reading)
