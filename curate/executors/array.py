"""Work on one share of a pool, beside other jobs that take the other shares: Slurm's and Kubernetes' array jobs."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from curate.errors import SettingsError
from curate.executors import local, processes
from curate.executors.contract import Executor, PartWork, Resources, Share, UnfinishedShard, Work
from curate.executors.helpful import helpful_workers
from curate.folders.part_folder import PartFolder
from curate.jobs import Foreman, JobWork
from curate.progress import Reporter

_PART = re.compile(r"(?:(\d+)/)?(\d+)")
_INDEX = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")


def make(resources: Resources) -> Executor:
    """Return the executor, which works as this process or processes do."""
    assert resources.share is not None  # as `share_of` gives it
    workers = resources.workers or helpful_workers(resources)
    inner = (local if workers == 1 else processes).make(replace(resources, workers=workers))
    return Array(share=resources.share, inner=inner)


def share_of(part: str | None) -> Share:
    """Return the share that `part` names: I/N from 1/N to N/N, N with the job's number from its scheduler's variables,
    or None with all of it from Slurm's. Raises SettingsError.
    """
    match = _PART.fullmatch(part.strip()) if part is not None else None
    if part is not None and match is None:
        raise SettingsError(f"part is {part!r}; expected I/N, such as 3/64, or N.")
    number = match[1] if match else None
    count = int(match[2]) if match else _slurm_count()
    share = Share(number=int(number) if number else _index() % max(1, count) + 1, count=count)
    if not 1 <= share.number <= count:
        raise SettingsError(f"part is {part}; expected 1/{count} to {count}/{count}.")
    return share


def _index() -> int:
    """Return the job's number among its array: any N that follow each other take every share once."""
    for name in _INDEX:
        if (value := os.environ.get(name, "")).isdigit():
            return int(value) // (_slurm("STEP") or 1)
    raise SettingsError(
        f"None of the variables {' and '.join(_INDEX)} says which job this is.",
        hint="Give --part 3/64, say: the third of 64 jobs.",
    )


def _slurm_count() -> int:
    count, least, most, step = (_slurm(name) for name in ("COUNT", "MIN", "MAX", "STEP"))
    if count is None or least is None or most is None or (most - least) // (step or 1) + 1 != count:
        raise SettingsError(
            "Slurm's variables do not say how many jobs share the pool.",
            hint="Give --part 64 (the number of jobs; variables say which this is), or --part 3/64.",
        )
    return count


def _slurm(name: str) -> int | None:
    value = os.environ.get(f"SLURM_ARRAY_TASK_{name}", "")
    return int(value) if value.isdigit() else None


@dataclass(frozen=True, kw_only=True)
class Array:
    """The executor of one of several jobs that write one folder at the same time."""

    share: Share
    inner: Executor

    @property
    def is_here(self) -> bool:
        return self.inner.is_here

    def described(self) -> Mapping[str, int | str]:
        return {**self.inner.described(), "executor": "array", "part": self.share.part}

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the share's missing parts; see `Executor.run`."""
        return self.inner.run(work, [s for shard in shards for s in self._mine(shard)], folder, reporter)

    def hired(self, work: JobWork, count: int, reporter: Reporter) -> AbstractContextManager[Foreman]:
        """Yield what has all jobs done by this job's workers: they have no shares.

        So the job whose turn it is fits alone, and the others wait for it.
        """
        return self.inner.hired(work, count, reporter)

    def _mine(self, shard: UnfinishedShard) -> list[UnfinishedShard]:
        if not self.share.is_of_shards(shard.of):
            return [replace(shard, share=self.share)]
        return [shard] if self.share.takes(shard.number) else []
