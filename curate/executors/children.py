"""Child processes: they start with given threads and device, and end with the process that started them."""

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
from typing import Any, NoReturn

from tqdm import tqdm

from curate import threads
from curate.errors import CurateError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class ChildEnded(CurateError):
    """A process has ended without saying why: it was killed, or left by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Child:
    """A process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection
    device: str | None = None
    """The CUDA device that it sees; None: all of them."""
    computes: bool = True
    """Whether it needs torch, which takes seconds to load."""

    def receive(self) -> Any:
        """Return the next message. Raises the error that the process failed with, or ChildEnded."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(message, Failure):
            message.throw()
        return message

    def send(self, message: object) -> None:
        """Send a message. Raises as `receive` does where the process has failed or ended."""
        try:
            self.pipe.send(message)
        except OSError:
            while True:  # messages from before its end come first
                self.receive()

    def _ended(self) -> "ChildEnded":
        self.process.join()
        code = self.process.exitcode or 0
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        reason = " (often for lack of memory)" if code == -signal.SIGKILL else "; what it printed says why"
        return ChildEnded(
            f"A worker process {end}{reason}.",
            hint="Repeat the command: finished parts are kept. Fewer workers and smaller batches take less memory.",
        )


def ready(children: Sequence[Child], timeout: float | None = None) -> list[Child]:
    """Wait for messages, or ends, and return the children that have one to receive."""
    pipes = set(wait([child.pipe for child in children], timeout))
    return [child for child in children if child.pipe in pipes]


def heard(children: Sequence[Child], timeout: float | None = None) -> list[tuple[Child, Any]]:
    """Wait for messages and return them with their senders. Raises as `Child.receive` does."""
    return [(child, child.receive()) for child in ready(children, timeout)]


@dataclass(frozen=True)
class Failure:
    """An error on its way to another process."""

    error: BaseException
    traceback_text: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return an error that is being handled."""
        return cls(_sendable(error), traceback.format_exc())

    def throw(self) -> NoReturn:
        """Raise the error, with where it came from."""
        self.error.add_note(self.traceback_text)
        raise self.error


@contextmanager
def started(
    work: Callable[..., None],
    orders: Sequence[Any],
    *,
    devices: Sequence[str | None] | None = None,
    computes: bool = True,
) -> Iterator[list[Child]]:
    """Start a process per order, which calls `work(order, pipe)`; none outlives the block or this process.

    The end of the block kills them: wait for their last message before. `devices` are
    the CUDA devices that the processes see, one each; None: all of them. `computes`: they need torch.
    """
    children: list[Child] = []
    try:
        with _uninterrupted():
            for order, device in zip(orders, devices or [None] * len(orders), strict=True):
                children.append(_start(work, order, device, computes))
        yield children
    finally:
        for child in children:
            _end(child)


def replace_child(children: list[Child], ended: Child, work: Callable[..., None], order: Any) -> None:
    """Start a process on the device, and in the place, of one of `started` that has ended."""
    _end(ended)
    with _uninterrupted():
        children[children.index(ended)] = _start(work, order, ended.device, ended.computes)


def _start(work: Callable[..., None], order: Any, device: str | None, computes: bool) -> Child:
    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe()
    process = context.Process(target=_run, args=(work, order, far_end, device, computes), daemon=True)
    process.start()
    far_end.close()
    return Child(process=process, pipe=pipe, device=device, computes=computes)


def _end(child: Child) -> None:
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


def _run(work: Callable[..., None], order: Any, pipe: Connection, device: str | None, computes: bool) -> None:
    """Run a child: set its device, silence warnings that its parent gives, end it with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ[_VISIBLE] = device  # before CUDA starts; the name is the parent's
    if computes:
        threads.be_one_of_several()
    warnings.simplefilter("ignore")
    tqdm.set_lock(threading.RLock())  # its own would be left behind as a semaphore when the process is ended
    try:
        work(order, pipe)
        pipe.poll(None)  # until it is terminated: a process that ends before has failed
    except BaseException as error:
        with suppress(OSError):  # the parent is gone
            pipe.send(Failure.of(error))


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
    """Return the CUDA device that each process sees: all in turn where `device` names none, else None."""
    if device not in ("auto", "cuda"):
        return [None] * count
    import torch  # imported here: children that do not compute start without it

    num_devices = torch.cuda.device_count()
    visible = os.environ.get(_VISIBLE)
    names = visible.split(",")[:num_devices] if visible else [str(i) for i in range(num_devices)]
    return [names[i % num_devices] if num_devices > 1 else None for i in range(count)]
