"""Hand spans out to workers as they get free; what a worker that died had in hand is tried again elsewhere."""

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from curate.errors import CurateError
from curate.executors.contract import Chunk, OpenWork, Span, SpanRows, Unreadable, Work, write_part
from curate.executors.ledger import Ledger
from curate.folders.part_folder import PartFolder

# One is worked on and one encoded: no worker waits for the reader, and memory stays bounded.
IN_FLIGHT = 2
ATTEMPTS = 3

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True)
class Ready:
    """A worker has loaded what it needs."""

    kind: str


@dataclass(frozen=True)
class Done:
    """A span's part is written, or its rows could not be encoded."""

    span: Span
    work: Work | None = None
    error: CurateError | None = None


@dataclass(frozen=True)
class Died:
    """A worker is gone, and what it had in hand with it."""

    error: CurateError


Message = Ready | Done | Died


class Team(Protocol[W]):
    """Workers of one kind: processes, actors."""

    def replace(self, worker: W) -> None:
        """Start another worker where this one has died; it says when it is ready."""
        ...

    def send(self, worker: W, span_rows: SpanRows) -> None:
        """Give a span to a worker. One that is gone is heard of by `hear`."""
        ...

    def hear(self, timeout: float | None = None) -> list[tuple[W, Message]]:
        """Wait for messages, each with its sender. Raises the error that work failed with."""
        ...


@dataclass(frozen=True, kw_only=True)
class Crew(Generic[W]):
    """Workers, and the spans that each has in hand.

    An error that the work raises ends all: it would be raised again. A worker that dies (killed, out of memory, its
    machine gone) is replaced, and its spans are tried again: each alone on its worker, so that the one to blame is
    found out. After ATTEMPTS deaths a span's shard is given up and the others go on.
    """

    team: Team[W]
    ledger: Ledger
    in_hand: dict[W, list[SpanRows]] = field(default_factory=dict)
    """By worker, once it is ready."""
    attempts: Counter[Span] = field(default_factory=Counter)
    """Deaths of workers, by the spans that they had in hand."""
    again: deque[SpanRows] = field(default_factory=deque)
    failed_starts: list[CurateError] = field(default_factory=list)
    """Since a worker has last got ready."""

    def do_all(self, spans: Iterable[SpanRows | Unreadable]) -> None:
        """Have every span worked on."""
        for span_rows in spans:
            if isinstance(span_rows, Unreadable):
                self.ledger.give_up(span_rows)
            else:
                self._give(span_rows)
                self._give_again()
        while self.again or any(self.in_hand.values()):
            self._give_again()
            if any(self.in_hand.values()):
                self._listen()

    def _give_again(self) -> None:
        while self.again:
            self._give(self.again.popleft())

    def _give(self, span_rows: SpanRows) -> None:
        """Send a span to the worker with the fewest in hand, once one has room."""
        self._listen(timeout=0)
        while not (free := [w for w in self.in_hand if self._has_room(w, span_rows.span)]):
            self._listen()
        if span_rows.span.shard not in self.ledger.unreadable:
            worker = min(free, key=lambda w: len(self.in_hand[w]))
            self.in_hand[worker].append(span_rows)
            self.team.send(worker, span_rows)

    def _has_room(self, worker: W, span: Span) -> bool:
        in_hand = [s.span for s in self.in_hand[worker]]
        if self.attempts[span] or any(self.attempts[s] for s in in_hand):
            return not in_hand
        return len(in_hand) < IN_FLIGHT

    def _listen(self, timeout: float | None = None) -> None:
        """Receive messages, waiting for the first. Raises the error of work that failed."""
        for worker, message in self.team.hear(timeout):
            match message:
                case Ready(kind=kind):
                    self.ledger.work.kinds.add(kind)
                    self.in_hand[worker] = []
                    self.failed_starts.clear()
                case Done(span=span, work=work, error=error):
                    self.in_hand[worker] = [s for s in self.in_hand[worker] if s.span != span]
                    if work is not None:
                        self.ledger.finish(span, work)
                    elif error is not None:
                        self.ledger.give_up(Unreadable(shard=span.shard, error=error))
                case Died(error=error):
                    self._replace(worker, error)

    def _replace(self, worker: W, error: CurateError) -> None:
        if worker not in self.in_hand:
            self.failed_starts.append(error)
            if len(self.failed_starts) == ATTEMPTS:
                raise error
        spans = self.in_hand.pop(worker, [])
        self.ledger.reporter.warn(f"{error.message} Another takes its place.")
        for span_rows in spans:
            span = span_rows.span
            self.attempts[span] += 1
            if self.attempts[span] < ATTEMPTS:
                self.again.append(span_rows)
            else:
                self.ledger.give_up(Unreadable(shard=span.shard, error=_fatal(span, error)))
        self.team.replace(worker)


def encoded(opened: OpenWork, span_rows: SpanRows) -> Chunk | Done:
    """Return a span's chunk; where its rows cannot be encoded, the message that says so."""
    try:
        return opened.encode(span_rows)
    except CurateError as error:
        return Done(span_rows.span, error=error)


def finished(folder: PartFolder, opened: OpenWork, chunk: Chunk | Done) -> Done:
    """Work on a chunk, write its part and return the message that says so."""
    return chunk if isinstance(chunk, Done) else Done(chunk.span, write_part(folder, opened, chunk))


def _fatal(span: Span, error: CurateError) -> CurateError:
    return CurateError(
        f"{ATTEMPTS} workers died on rows {span.start:,} to {span.end - 1:,}. {error.message}", hint=error.hint
    )
