"""How many threads torch computes with.

Threads share every small product of a model, and wait for each other after each: by spinning, since a thread that has
gone to sleep is slow to wake. A small model's products are over before a second thread has helped, and where another
process runs on the cores, spinning threads wait for one that does not get to run. So a small model has one thread; a
large one all cores, which sleep while they wait. Whoever sets OMP_NUM_THREADS or MKL_NUM_THREADS decides himself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Parameters from which on a second thread is worth while on a CPU.
LARGE = 5_000_000


@cache
def all_threads() -> int:
    """Return how many threads torch had before this module chose."""
    import torch  # imported here: work without a model starts without it

    return torch.get_num_threads()


def choose(parameters: int) -> None:
    """Set torch's threads to what a model of this size is worth; what is left to the user stays."""
    import torch  # imported here: work without a model starts without it

    most = all_threads()  # looked up before it changes
    if not _given():
        torch.set_num_threads(most if parameters >= LARGE else 1)


def be_one_of_several() -> None:
    """Set torch's threads for a process that shares the cores with others like it: one, whatever the model."""
    import torch  # imported here: work without a model starts without it

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not _given():
        torch.set_num_threads(1)
        all_threads.cache_clear()
        all_threads()


def of_one_of_several() -> int:
    """Return the threads that a process has which shares the cores with others like it: this one's where given."""
    if not _given():
        return 1
    import torch  # imported here: work without a model starts without it

    return torch.get_num_threads()


@contextmanager
def as_one_of_several() -> Iterator[None]:
    """Compute in a block with the threads of a process that shares the cores with others like it: to the same bits."""
    import torch  # imported here: work without a model starts without it

    before = torch.get_num_threads()
    torch.set_num_threads(of_one_of_several())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _given() -> bool:
    return any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
