"""One pass over a store's sketches: every part once, by a thread per core, in blocks that a cache holds."""

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
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(all_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # MKL's threads are one number for the whole process


def stream(
    store: Store, work: Callable[[Codes], Tensor], parts: Sequence[Part] | None = None
) -> Iterator[tuple[Part, Tensor]]:
    """Yield every part with what `work` makes of its rows, one row each, in order.

    `work` gets some rows of codes at a time (as many as its own attribute `rows` says, or as suit the storage) and may
    be called by several threads at once. What it gives for a row must depend on that row alone.
    """
    rows = getattr(work, "rows", store.storage.rows)
    with threads() as pool:
        waiting: deque[tuple[Part, list[Future[Tensor]]]] = deque()
        for part in store.all_parts() if parts is None else parts:
            codes = store.codes(part)
            starts = range(0, max(1, len(codes)), TASK)
            tasks = [pool.submit(_blocks, work, codes[i : i + TASK], rows) for i in starts]
            waiting.append((part, tasks))
            if len(waiting) > AHEAD:
                yield _gathered(waiting.popleft())
        while waiting:
            yield _gathered(waiting.popleft())


def _blocks(work: Callable[[Codes], Tensor], codes: Codes, rows: int) -> Tensor:
    return torch.cat([work(codes[i : i + rows]) for i in range(0, max(1, len(codes)), rows)])


def _gathered(item: tuple[Part, list[Future[Tensor]]]) -> tuple[Part, Tensor]:
    part, tasks = item
    return part, torch.cat([t.result() for t in tasks])
