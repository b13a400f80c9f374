"""How many workers help."""

import os

from curate import threads
from curate.executors.contract import Resources

# A worker takes some seconds to start; a small proxy scores about this many documents in ten times as long.
ROWS_PER_WORKER = 2_000
SECONDS_PER_WORKER = 30


def helpful_workers(resources: Resources) -> int:
    """Return how many workers a machine is worth to a pool.

    One per CUDA device where there are several. On a CPU one per core, but only for a proxy so small that a second
    thread would not help it: workers of a large one would each have one thread, and a copy of it. In any case no more
    than one for every 2 000 rows, or 30 seconds of work, since each takes some seconds to start.
    """
    if (worth := most_worth(resources)) == 1:
        return 1
    most = _devices(resources.device) or _cores(resources.parameters)
    return max(1, min(most, worth or most))


def most_worth(resources: Resources) -> int | None:
    """Return how many workers there is enough to do for, whatever the machine; None where that is not known."""
    if resources.seconds is not None:
        return max(1, int(resources.seconds / SECONDS_PER_WORKER))
    return None if resources.rows is None else max(1, int(resources.rows / ROWS_PER_WORKER))


def at_once(workers: int, device: str) -> int:
    """Return how many of these workers of this machine make headway at a time: as many as it has cores, or devices."""
    return min(workers, _devices(device) or _cores(None))


def _devices(device: str) -> int:
    """Return how many CUDA devices work is shared among; 0 on a CPU."""
    if device == "cpu":
        return 0
    import torch  # imported here: work without a model starts without it

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 0 if device == "auto" and not torch.backends.mps.is_available() else 1


def _cores(parameters: int | None) -> int:
    if parameters is not None and parameters >= threads.LARGE:
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // threads.of_one_of_several())
