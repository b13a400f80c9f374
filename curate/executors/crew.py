"""Hand spans out to workers as they get free; what a worker that died had in hand is tried again elsewhere.

Workers merge finished parts, too, so that whoever hands out does nothing else.

Workers read by themselves. Each reads a shard of its own; where there are no more, several read one in turns, each span
from the place that the reading of the one before has reached. A plain file is opened there. A compressed one, which
each reads from its beginning once, and a row group are passed over up to there, without decoding lines.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from curate.documents import Mark
from curate.errors import CurateError
from curate.executors.contract import Chunk, OpenWork, Span, SpanRows, UnfinishedShard, Unreadable, Work, write_part
from curate.executors.ledger import Ledger
from curate.executors.reading import Reader, SpanStart
from curate.folders.part_folder import PartFolder

# One is worked on and one read and encoded: no worker waits for its reading, and memory stays bounded.
IN_FLIGHT = 2
ATTEMPTS = 3

W = TypeVar("W", bound=Hashable)
T = TypeVar("T", contravariant=True)
Order = tuple[int, int]
"""A span's place in the pool: the numbers of its shard and of the span."""


@dataclass(frozen=True)
class Ready:
    """A worker has loaded what it needs."""

    kind: str


@dataclass(frozen=True)
class Read:
    """A span's rows have been read, up to its end."""

    span: Span
    end: Mark


@dataclass(frozen=True)
class Done:
    """A span's part is written, or its rows could not be read or encoded."""

    order: Order
    work: Work | None = None
    error: CurateError | None = None


@dataclass(frozen=True)
class Merging:
    """A task: make one file of several."""

    names: list[str]


@dataclass(frozen=True)
class Merged:
    """Files have been merged."""


@dataclass(frozen=True)
class Died:
    """A worker is gone, and what it had in hand with it."""

    error: CurateError


Message = Ready | Read | Done | Merged | Died


class Team(Protocol[W, T]):
    """Workers of one kind (processes, actors), and what they are given: starts of spans, files to merge, jobs."""

    def replace(self, worker: W, /) -> None:
        """Start another worker where this one has died; it says when it is ready."""
        ...

    def send(self, worker: W, task: T, /) -> None:
        """Have a worker do a task. One that is gone is heard of by `hear`."""
        ...

    def hear(self) -> list[tuple[W, Any]]:
        """Wait for messages, each with its sender. Raises the error that work failed with."""
        ...


@dataclass(frozen=True)
class Starts:
    """How workers start: where ATTEMPTS of them have died one after the other before they were ready, all is over."""

    failed: list[CurateError] = field(default_factory=list)
    """Since a worker has last got ready."""

    def succeed(self) -> None:
        self.failed.clear()

    def fail(self, error: CurateError) -> None:
        self.failed.append(error)
        if len(self.failed) == ATTEMPTS:
            raise error


@dataclass(kw_only=True, eq=False)
class Relay(Generic[W]):
    """A shard that workers read in turns."""

    shard: UnfinishedShard
    next: SpanStart
    """What is to be read next, or is being read."""
    is_reading: bool = False
    readers: set[W] = field(default_factory=set)
    """Those that have it open."""


@dataclass
class Task:
    """A span that a worker has in hand."""

    start: SpanStart
    span: Span | None = None
    """Once it is read."""


@dataclass(frozen=True, kw_only=True)
class Crew(Generic[W]):
    """Workers, and the spans that each has in hand.

    An error that the work raises ends all: it would be raised again. A worker that dies (killed, out of memory, its
    machine gone) is replaced, and its spans are tried again: each alone on its worker, so that the one to blame is
    found out. After ATTEMPTS deaths a span's shard is given up and the others go on. What it was merging stays as it
    is until the folder is finished.
    """

    team: Team[W, SpanStart | Merging]
    ledger: Ledger
    in_hand: dict[W, dict[Order, Task]] = field(default_factory=dict)
    """By worker, once it is ready."""
    merging: set[W] = field(default_factory=set)
    """Workers that have files to merge in hand."""
    relays: dict[int, Relay[W]] = field(default_factory=dict)
    """Shards that are not read to their ends yet, by number."""
    attempts: Counter[Order] = field(default_factory=Counter)
    """Deaths of workers, by the spans that they had in hand."""
    again: deque[SpanStart] = field(default_factory=deque)
    starts: Starts = field(default_factory=Starts)

    def do_all(self, shards: Iterable[UnfinishedShard]) -> None:
        """Have every span of the shards worked on."""
        unopened = iter(shards)
        while True:
            self._give_all(unopened)
            # Without a worker nothing was opened yet.
            if self.in_hand and not (self.again or self.relays or self.merging or any(self.in_hand.values())):
                return
            self._listen()

    def _give_all(self, unopened: Iterator[UnfinishedShard]) -> None:
        """Give files to merge, and spans, to workers, those with the most room first, until there is none of either."""
        for worker in self._with_room() if self.ledger.to_merge else ():
            if self.ledger.to_merge and worker not in self.merging:
                self.merging.add(worker)
                self.team.send(worker, Merging(self.ledger.to_merge.popleft()))
        for least in range(IN_FLIGHT, 0, -1):
            for worker in self._with_room(least):
                if (start := self._next(worker, unopened)) is not None:
                    self._give(worker, start)

    def _with_room(self, least: int = 1) -> list[W]:
        """Return the workers that may have so much more in hand, those with the most room first."""
        rooms = {worker: self._room(worker) for worker in self.in_hand}
        return sorted((w for w, room in rooms.items() if room >= least), key=rooms.__getitem__, reverse=True)

    def _next(self, worker: W, unopened: Iterator[UnfinishedShard]) -> SpanStart | None:
        """Return what a worker may read now: what its open shard goes on with, one that nobody reads, or a turn."""
        room = self._room(worker)
        if self.again:
            return self.again.popleft() if room == IN_FLIGHT else None
        if not room:
            return None
        relay = next((r for r in self.relays.values() if worker in r.readers), None)
        relay = relay or next((r for r in self.relays.values() if not r.readers), None) or self._opened(unopened)
        relay = relay or min((r for r in self.relays.values() if not r.is_reading), key=_num_readers, default=None)
        if relay is None or relay.is_reading:
            return None
        relay.is_reading = True
        return relay.next

    def _room(self, worker: W) -> int:
        """Return how much more a worker may have in hand; a span that is tried again is alone."""
        tasks = self.in_hand[worker]
        if any(self.attempts[order] for order in tasks):
            return 0
        return IN_FLIGHT - len(tasks) - (worker in self.merging)

    def _opened(self, unopened: Iterator[UnfinishedShard]) -> Relay[W] | None:
        for shard in unopened:
            try:
                relay = self.relays[shard.number] = Relay(shard=shard, next=shard.first())
                return relay
            except CurateError as error:
                self.ledger.give_up(Unreadable(shard=shard.shard.name, error=error))
        return None

    def _give(self, worker: W, start: SpanStart) -> None:
        self._forget_reader(worker)
        if start.number in self.relays:
            self.relays[start.number].readers.add(worker)
        self.in_hand[worker][start.order] = Task(start)
        self.team.send(worker, start)

    def _forget_reader(self, worker: W) -> None:
        for relay in self.relays.values():
            relay.readers.discard(worker)

    def _listen(self) -> None:
        """Receive messages, waiting for the first. Raises the error of work that failed."""
        for worker, message in self.team.hear():
            match message:
                case Ready(kind=kind):
                    self.ledger.work.kinds.add(kind)
                    self.in_hand[worker] = {}
                    self.starts.succeed()
                case Read(span=span, end=end):
                    self._pass_on(span, end)
                    self.in_hand[worker][span.order].span = span
                    if not self.in_hand[worker][span.order].start.is_taken:
                        del self.in_hand[worker][span.order]
                case Done(order=order, work=work, error=error):
                    task = self.in_hand[worker].pop(order)
                    if work is not None and task.span is not None:
                        self.ledger.finish(task.span, work)
                    elif error is not None:
                        self._give_up(task.start, error)
                case Merged():
                    self.merging.remove(worker)
                case Died(error=error):
                    self._replace(worker, error)

    def _pass_on(self, span: Span, end: Mark) -> None:
        """Let the next span of a shard be read; one that is tried again may lie before."""
        relay = self.relays.get(span.shard_index)
        if relay is not None and relay.next.order == span.order:
            following = relay.shard.behind(span, end)
            if following is None:
                del self.relays[span.shard_index]
            else:
                relay.next, relay.is_reading = following, False

    def _give_up(self, start: SpanStart, error: CurateError) -> None:
        self.relays.pop(start.number, None)
        for other in [s for s in self.again if s.number == start.number]:
            self.again.remove(other)
        self.ledger.give_up(Unreadable(shard=start.shard.name, error=error))

    def _replace(self, worker: W, error: CurateError) -> None:
        if worker not in self.in_hand:
            self.starts.fail(error)
        tasks = self.in_hand.pop(worker, {})
        self.merging.discard(worker)
        self._forget_reader(worker)
        self.ledger.reporter.warn(f"{error.message} Another takes its place.")
        for order, task in tasks.items():
            self.attempts[order] += 1
            if task.start.shard.name in self.ledger.unreadable:
                continue
            if self.attempts[order] < ATTEMPTS:
                self.again.append(task.start)
            else:
                self._give_up(task.start, _fatal(task, error))
        self.team.replace(worker)


def _num_readers(relay: Relay[W]) -> int:
    return len(relay.readers)


def read(reader: Reader, start: SpanStart) -> tuple[SpanRows | None, Read | Done]:
    """Return a span's rows, and the message that they are read; None and the message that says why they cannot be."""
    try:
        span_rows = reader.read(start)
    except CurateError as error:
        return None, Done(start.order, error=error)
    return (span_rows if start.is_taken else None), Read(span_rows.span, span_rows.end)


def encoded(opened: OpenWork, span_rows: SpanRows) -> Chunk | Done:
    """Return a span's chunk; where its rows cannot be encoded, the message that says so."""
    try:
        return opened.encode(span_rows)
    except CurateError as error:
        return Done(span_rows.span.order, error=error)


def finished(folder: PartFolder, opened: OpenWork, chunk: Chunk | Done) -> Done:
    """Work on a chunk, write its part and return the message that says so."""
    return chunk if isinstance(chunk, Done) else Done(chunk.span.order, write_part(folder, opened, chunk))


def merged(folder: PartFolder, task: Merging) -> Merged:
    """Merge files in a worker and return the message that says so."""
    folder.merge(task.names)
    return Merged()


def _fatal(task: Task, error: CurateError) -> CurateError:
    last = "what follows" if task.span is None else f"{task.span.end - 1:,}"
    return CurateError(
        f"{ATTEMPTS} workers died on rows {task.start.row:,} to {last}. {error.message}", hint=error.hint
    )
