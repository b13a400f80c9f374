"""Work on spans one after another in this process, and read and encode the next ones meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.executors.contract import Executor, PartWork, UnfinishedShard, Unreadable, Work
from curate.executors.ledger import keeping
from curate.executors.reading import ahead, read_all
from curate.folders.part_folder import PartFolder
from curate.progress import Reporter


def make(workers: int, device: str) -> Executor:
    """Return the executor, which ignores both arguments."""
    return Local()


@dataclass(frozen=True)
class Local:
    """The executor that works in this process."""

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in order; see `Executor.run`."""
        opened = work.open()
        with keeping(work, shards, folder, reporter) as ledger:
            for chunk in ahead(read_all(shards, opened.encode)):
                if isinstance(chunk, Unreadable):
                    ledger.give_up(chunk)
                    continue
                tables = opened(chunk)
                folder.write_part(chunk.span, *tables)
                ledger.finish(chunk.span, Work.of(tables.rows))
        return ledger.work
