"""Work on spans by actors of a Ray cluster that is there, or of a local one: an actor for each device holds the proxy.

Actors read rows, encode, work and write parts into the run's folder; all machines must see it, and the pool, at the
same path. Spans are handed out, and tried again, by `Crew`: Ray restarts nothing by itself. What comes back are counts.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from curate.errors import CurateError, SettingsError
from curate.executors.children import Failure
from curate.executors.contract import Executor, PartWork, Resources, SpanRows, UnfinishedShard, Work
from curate.executors.crew import (
    Crew,
    Died,
    Done,
    Merged,
    Merging,
    Message,
    Order,
    Read,
    Ready,
    encoded,
    finished,
    merged,
    read,
)
from curate.executors.helpful import most_worth
from curate.executors.jobs import Job, JobCrew, JobDone, done
from curate.executors.kinds import kind_here
from curate.executors.ledger import keeping
from curate.executors.reading import Reader, SpanStart
from curate.folders.folder import Folder
from curate.folders.local_folder import LocalFolder
from curate.folders.part_folder import PartFolder
from curate.jobs import Doer, Foreman, JobWork
from curate.progress import Reporter
from curate.threads import of_one_of_several

try:  # by name: this module is called ray, too, and types that may be missing decide nothing
    ray: Any = import_module("ray")
    ray_exceptions: Any = import_module("ray.exceptions")
except ImportError:
    raise SettingsError(
        "The executor 'ray' needs Ray, which is not installed.", hint="Install it: pip install 'curate[ray]'."
    ) from None


def make(resources: Resources) -> Executor:
    """Return the executor; how many actors are worth it, the cluster's resources say."""
    is_cuda = resources.device in ("auto", "cuda") and torch.cuda.is_available()
    return Ray(workers=resources.workers, most=most_worth(resources), is_cuda=is_cuda)


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The executor that works in actors of Ray."""

    workers: int | None
    """None: one per device of the cluster, or per core."""
    most: int | None = None
    """How many the work is worth where `workers` is None."""
    is_cuda: bool = False
    """Whether actors have a CUDA device each, as this process has, or none."""
    is_here: bool = False

    def described(self) -> Mapping[str, int | str]:
        return {"executor": "ray", "workers": self.workers or "auto"}

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in any order; see `Executor.run` and `Crew`."""
        with keeping(work, shards, folder, reporter) as ledger:
            if shards:
                order = _Order(work, type(folder), _for_all(folder.folder), os.getcwd(), self.is_cuda)
                with _connected(), _Actors.started(order, self._number(reporter)) as actors:
                    Crew(team=actors, ledger=ledger).do_all(shards)
                folder.refresh()
        return ledger.work

    @contextmanager
    def hired(self, work: JobWork, count: int, reporter: Reporter) -> Iterator[Foreman]:
        """Yield what has jobs done in any order; see `Executor.hired` and `JobCrew`."""
        order = _JobOrder(work, os.getcwd(), self.is_cuda)
        with _connected():
            count = min(self._number(reporter), count)
            with _Actors.started(order, count, kind=_JobActor) as actors:
                yield JobCrew(team=actors, reporter=reporter).do_all

    def _number(self, reporter: Reporter) -> int:
        what = "GPU" if self.is_cuda else "CPU"
        there = int(ray.cluster_resources().get(what, 0))
        number = self.workers or max(1, min(there, self.most or there))
        if number > there:
            reporter.warn(f"Ray has {there} {what}(s) for {number} workers: work waits for those that are lacking.")
        return number


def _for_all(folder: Folder) -> Folder:
    """Return a folder as other machines find it."""
    return LocalFolder(folder.root.absolute()) if folder.is_here else folder


@dataclass(frozen=True)
class _Order:
    work: PartWork
    kind: type[PartFolder]
    folder: Folder
    working_folder: str
    """Relative addresses are looked up from it."""
    is_cuda: bool


class _Actor:
    """Runs in each actor: opens the work, then reads every span whose start arrives, writes its part, and merges files.

    Two calls run at a time: one reads or encodes while the other computes.
    """

    def __init__(self, order: _Order) -> None:
        _settle(order)
        self._order = order
        self._reader, self._read = Reader(), dict[Order, SpanRows]()
        self._reading, self._encoding, self._computing = threading.Lock(), threading.Lock(), threading.Lock()

    def open(self) -> Ready | Failure:
        """Load what the work needs, and return the actor's kind."""
        try:
            self._opened, self._folder = self._order.work.open(), self._order.kind.within(self._order.folder)
            return Ready(kind_here())
        except BaseException as error:
            return Failure.of(error)

    def read(self, start: SpanStart) -> Read | Done | Failure:
        """Read a span's rows, which `do` works on."""
        try:
            with self._reading:
                span_rows, message = read(self._reader, start)
            if span_rows is not None:
                self._read[start.order] = span_rows
            return message
        except BaseException as error:
            return Failure.of(error)

    def do(self, order: Order) -> Done | Failure:
        """Write the part of a span that was read."""
        try:
            with self._encoding:
                chunk = encoded(self._opened, self._read.pop(order))
            with self._computing:
                return finished(self._folder, self._opened, chunk)
        except BaseException as error:
            return Failure.of(error)

    def merge(self, task: Merging) -> Merged | Failure:
        """Merge files."""
        try:
            return merged(self._folder, task)
        except BaseException as error:
            return Failure.of(error)


@dataclass(frozen=True)
class _JobOrder:
    work: JobWork
    working_folder: str
    is_cuda: bool


class _JobActor:
    """Runs in each actor: opens the work, then does every job that arrives."""

    def __init__(self, order: _JobOrder) -> None:
        _settle(order)
        self._work = order.work

    def open(self) -> Ready | Failure:
        """Load what the jobs share, and return the actor's kind."""
        try:
            self._do: Doer = self._work.open()
            return Ready(kind_here())
        except BaseException as error:
            return Failure.of(error)

    def do(self, job: Job) -> JobDone | Failure:
        """Do a job."""
        try:
            return done(self._do, job)
        except BaseException as error:
            return Failure.of(error)


def _settle(order: _Order | _JobOrder) -> None:
    """Have an actor see the files and devices that this process sees."""
    with suppress(OSError):
        os.chdir(order.working_folder)
    if not order.is_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a machine that has some, too: all actors compute alike


@dataclass(frozen=True, kw_only=True)
class _Actors:
    """Actors, as workers of a crew."""

    kind: type
    order: Any
    """The order, as an object of Ray's store."""
    options: Mapping[str, Any]
    actors: list[Any] = field(default_factory=list)
    pending: dict[Any, Any] = field(default_factory=dict)
    """The actor of every call that has not returned."""
    taken: set[Order] = field(default_factory=set)
    """Spans that are being read to be worked on."""

    @classmethod
    @contextmanager
    def started(cls, order: _Order | _JobOrder, number: int, kind: type = _Actor) -> Iterator["_Actors"]:
        """Start so many actors; none outlives the block."""
        # Ray says one thread for each CPU that an actor asks for; it is said here, so that nothing else decides it.
        threads = {name: str(of_one_of_several()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        options = {
            "num_cpus": 1,
            "num_gpus": int(order.is_cuda),
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,
            "runtime_env": {"env_vars": {**threads, "TOKENIZERS_PARALLELISM": "false"}},
        }
        team = cls(kind=kind, order=ray.put(order), options=options)
        try:
            for _ in range(number):
                team._start()
            yield team
        finally:
            for actor in team.actors:
                ray.kill(actor)

    def replace(self, worker: Any) -> None:
        self._drop(worker)
        self._start()

    def send(self, worker: Any, task: SpanStart | Merging | Job) -> None:
        match task:
            case SpanStart():
                call = worker.read
                if task.is_taken:
                    self.taken.add(task.order)
            case Merging():
                call = worker.merge
            case _:
                call = worker.do
        self.pending[call.remote(task)] = worker

    def hear(self) -> list[tuple[Any, Message]]:
        ray.wait([*self.pending], num_returns=1)  # and whatever else has come: waiting costs more the more there are
        calls, _ = ray.wait([*self.pending], num_returns=len(self.pending), timeout=0)
        # An actor that has died fails all of its calls: the first drops the others.
        return [(self.pending[call], self._message(call)) for call in calls if call in self.pending]

    def _start(self) -> None:
        actor = ray.remote(self.kind).options(**self.options).remote(self.order)
        self.actors.append(actor)
        self.pending[actor.open.remote()] = actor

    def _message(self, call: Any) -> Message:
        actor = self.pending.pop(call)
        try:
            message = ray.get(call)
        except ray_exceptions.RayTaskError:
            raise  # a result that cannot travel: no other actor would do better
        except ray_exceptions.RayError as error:
            self._drop(actor)
            reason = str(error).strip().splitlines()[0].rstrip(".:")
            return Died(CurateError(f"An actor of Ray died ({type(error).__name__}: {reason}).", hint=_HINT))
        if isinstance(message, Failure):
            message.throw()
        if isinstance(message, Read) and message.span.order in self.taken:
            self.taken.remove(message.span.order)
            self.pending[actor.do.remote(message.span.order)] = actor
        return message

    def _drop(self, actor: Any) -> None:
        if actor in self.actors:
            self.actors.remove(actor)
            ray.kill(actor)
        for call in [c for c, a in self.pending.items() if a == actor]:
            del self.pending[call]


_HINT = "Repeat the command: finished parts are kept. Ray's logs say what ended it; `ray status` what is left."


@contextmanager
def _connected() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS or this machine has, or start a local one, which ends with the block.

    Ray's handler of SIGTERM, which exits with 15 and would stay, holds no longer than that; the exit code is 143.
    """
    if ray.is_initialized():  # whoever did it ends it
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        ray.shutdown()  # leaves a cluster that was there before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
