"""Work on spans one after another in this process, and read and encode the next ones meanwhile."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from curate.executors.ahead import ahead
from curate.executors.contract import Executor, PartWork, Resources, UnfinishedShard, Unreadable, Work, write_part
from curate.executors.kinds import kind_here
from curate.executors.ledger import keeping
from curate.executors.reading import read_all
from curate.folders.part_folder import PartFolder
from curate.jobs import Foreman, JobWork, in_order
from curate.progress import Reporter


def make(resources: Resources) -> Executor:
    """Return the executor, which takes one worker whatever is given."""
    return Local()


@dataclass(frozen=True)
class Local:
    """The executor that works in this process."""

    is_here: bool = True

    def described(self) -> Mapping[str, int | str]:
        return {"executor": "local", "workers": 1}

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in order; see `Executor.run`."""
        opened = work.open()
        with keeping(work, shards, folder, reporter) as ledger:
            ledger.work.kinds.add(kind_here())
            for chunk in ahead(read_all(shards, opened.encode)):
                if isinstance(chunk, Unreadable):
                    ledger.give_up(chunk)
                else:
                    ledger.finish(chunk.span, write_part(folder, opened, chunk))
                    ledger.merge()
        return ledger.work

    @contextmanager
    def hired(self, work: JobWork, count: int, reporter: Reporter) -> Iterator[Foreman]:
        """Yield what does jobs in order; see `Executor.hired`."""
        yield in_order(work.open())
