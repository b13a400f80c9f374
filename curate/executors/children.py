"""Processes of our own: they start with threads and a device that they are told, and end with whoever started them."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from curate import threads
from curate.errors import CurateError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True, eq=False)
class Child:
    """A process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def receive(self) -> Any:
        """Return what it sends next. Raises the error that it failed with, or CurateError where it has ended."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(message, _Failure):
            message.error.add_note(message.told)
            raise message.error
        return message

    def send(self, message: object) -> None:
        """Send something; raises as `receive` where the process has failed or ended."""
        try:
            self.pipe.send(message)
        except OSError:
            while True:  # what it sent before it ended comes first
                self.receive()

    def _ended(self) -> CurateError:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lack = " (often for lack of memory)" if code == -signal.SIGKILL else "; what it printed says why"
        return CurateError(
            f"A worker process {how}{lack}.",
            hint="What was finished is kept: give the command again. Fewer workers, smaller batches take less memory.",
        )


def heard(children: Sequence[Child], timeout: float | None = None) -> list[tuple[Child, Any]]:
    """Wait until some process says something, and return who said what; raises as `Child.receive`."""
    speaking = wait([child.pipe for child in children], timeout)
    return [(child, child.receive()) for child in children if child.pipe in speaking]


@dataclass(frozen=True)
class _Failure:
    error: BaseException
    told: str


@contextmanager
def started(
    work: Callable[..., None], orders: Sequence[Any], *, devices: Sequence[str | None] | None = None
) -> Iterator[list[Child]]:
    """Start a process per order, which calls `work(order, pipe)`; none outlives the block, nor this process.

    At the block's end whatever they do is cut short: they have to have said by then that they are done. `devices` are
    the CUDA devices that the processes see, one each; None: all of them.
    """
    context = multiprocessing.get_context("spawn")
    children: list[Child] = []
    try:
        with _uninterrupted():
            for order, device in zip(orders, devices or [None] * len(orders), strict=True):
                pipe, far_end = context.Pipe()
                process = context.Process(target=_run, args=(work, order, far_end, device), daemon=True)
                process.start()
                far_end.close()
                children.append(Child(process=process, pipe=pipe))
        yield children
    finally:
        for child in children:
            child.process.terminate()
            child.process.join()
            child.pipe.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the block's end, and keep it for good from processes that start there.

    It reaches all processes of a terminal; this one is to end the others, none of them half started.
    """
    came: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    resource_tracker.ensure_running()  # which would unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit this
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if in_main else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


def _run(work: Callable[..., None], order: Any, pipe: Connection, device: str | None) -> None:
    """Be a child: told what it computes on, silent about what its parent has said, ended with it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ[_VISIBLE] = device  # before CUDA looks; whichever it is, its name here is that of the parent's
    threads.be_one_of_several()
    warnings.simplefilter("ignore")
    try:
        work(order, pipe)
        pipe.poll(None)  # until it is ended: whoever ends before has failed
    except BaseException as error:
        with suppress(OSError):  # nobody is there any more
            pipe.send(_Failure(_sendable(error), traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _sendable(error: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def cuda_devices(device: str, count: int) -> list[str | None]:
    """Return which CUDA device each of some processes sees: all in turn where `device` names none, else no choice."""
    if device not in ("auto", "cuda"):
        return [None] * count
    there = torch.cuda.device_count()
    given = os.environ.get(_VISIBLE)
    names = given.split(",")[:there] if given else [str(i) for i in range(there)]
    return [names[i % there] if there > 1 else None for i in range(count)]
