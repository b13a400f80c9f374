"""One pass over a store's sketches: every part once, by a thread per core, in blocks that fit into a cache."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from curate.folders.parts import Part
from curate.stores.storage import Codes
from curate.stores.store import Store
from curate.threads import all_threads

# A task of several blocks costs less than handing each to a thread.
TASK = 1024
# Parts that are worked on at once, so that no thread waits for the end of one.
AHEAD = 8


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Open a pool with a thread per core in which torch works by itself: blocks are independent, products are small."""
    previous_count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(all_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(previous_count)  # MKL's threads are one number for the whole process


def stream(
    store: Store, work: Callable[[Codes], Tensor], parts: Sequence[Part] | None = None
) -> Iterator[tuple[Part, Tensor]]:
    """Yield every part with the results of `work` for its documents, one row each, in order.

    `work` gets a few rows of codes at a time (its attribute `rows`, or else the storage's) and may be called by several
    threads at once. Its result for a row must depend on that row alone.
    """
    rows = getattr(work, "rows", store.storage.rows)
    with threads() as pool:
        pending: deque[tuple[Part, list[Future[Tensor]]]] = deque()
        for part in store.all_parts() if parts is None else parts:
            codes = store.codes(part)
            starts = range(0, max(1, len(codes)), TASK)
            tasks = [pool.submit(_blocks, work, codes[i : i + TASK], rows) for i in starts]
            pending.append((part, tasks))
            if len(pending) > AHEAD:
                yield _gathered(pending.popleft())
        while pending:
            yield _gathered(pending.popleft())


def _blocks(work: Callable[[Codes], Tensor], codes: Codes, rows: int) -> Tensor:
    return torch.cat([work(codes[i : i + rows]) for i in range(0, max(1, len(codes)), rows)])


def _gathered(pending: tuple[Part, list[Future[Tensor]]]) -> tuple[Part, Tensor]:
    part, tasks = pending
    return part, torch.cat([t.result() for t in tasks])
