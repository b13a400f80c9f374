"""An executor's finished work: reported as it happens, added up, and checked at the end."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from curate.documents import rows_of_all
from curate.errors import CurateError
from curate.executors.contract import PartWork, Span, UnfinishedShard, Unreadable, Work
from curate.folders.merging import Sequel
from curate.folders.part_folder import PartFolder
from curate.progress import Reporter, Task


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Count finished parts, and shards that could not be read."""

    task: Task
    reporter: Reporter
    work: Work = field(default_factory=Work)
    unreadable: dict[str, CurateError] = field(default_factory=dict)
    """The error, by the shard's name."""
    folder: PartFolder
    sequel: Sequel | None
    """None where another process merges."""
    to_merge: deque[list[str]] = field(default_factory=deque)
    """Names of files that are to become one each. What is left at the end is merged as the folder is finished."""

    def finish(self, span: Span, work: Work) -> None:
        """Count a part that was written."""
        self.work.add(work)
        self.expect(span)
        self.task.advance(span.end - span.start)

    def expect(self, span: Span) -> None:
        """Put down what is to be merged now that a span has its part."""
        if self.sequel is not None:
            self.to_merge.extend(self.sequel.add(span))

    def merge(self) -> None:
        """Merge here all that is to be merged."""
        while self.to_merge:
            self.folder.merge(self.to_merge.popleft())

    def give_up(self, shard: Unreadable) -> None:
        """Record a shard that cannot be read to its end, once."""
        if shard.shard not in self.unreadable:
            self.unreadable[shard.shard] = shard.error
            self.reporter.warn(f"{shard.shard}: {shard.error.message}")


@contextmanager
def keeping(
    work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter
) -> Iterator[Ledger]:
    """Yield a ledger for work on a folder. Raises CurateError at the end where shards could not be read."""
    by_name = {s.shard.name: s for s in shards}
    present = [
        (p.end - p.start, p.shard in by_name)
        for p in folder.all_parts()
        if p.shard not in by_name or by_name[p.shard].takes(p.span)
    ]
    total = sum(rows for rows, is_counted in present if not is_counted)
    for portion in {s.portion for s in shards}:
        total += portion * rows_of_all([s.shard for s in shards if s.portion == portion])
    with reporter.stage(work.stage, total=total) as task:
        task.advance(sum(rows for rows, _ in present))
        sequel = Sequel() if folder.MERGES and not folder.log.is_shared else None
        ledger = Ledger(task=task, reporter=reporter, folder=folder, sequel=sequel)
        for part in folder.all_parts():
            ledger.expect(part)
        yield ledger
    if ledger.unreadable:
        error = next(iter(ledger.unreadable.values()))
        failed = {shard: error.message for shard, error in ledger.unreadable.items()}
        folder.log.end({"failed": failed, **ledger.work.told()})
        raise CurateError(
            f"{len(ledger.unreadable)} shard(s) could not be read to the end; all others are done. {error.message}",
            hint=error.hint or work.hint,
        )
