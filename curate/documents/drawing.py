"""Draw rows evenly, from a stream in one pass or from blocks of known sizes."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import TypeVar

from curate.documents.shards import DAMAGED, BadRow, Row
from curate.errors import CurateError

T = TypeVar("T")


def draw_from_stream(items: Iterable[T], size: int, rng: random.Random) -> tuple[list[tuple[int, T]], int]:
    """Draw `size` items of a stream, each equally likely, in one pass (algorithm L, Li 1994).

    Returns (place from 0, item) in order, and the number of items.
    """
    kept: list[tuple[int, T]] = []
    following, w, seen = 0, 1.0, 0
    for place, item in enumerate(items):
        seen = place + 1
        if place < size:
            kept.append((place, item))
            if seen < size:
                continue
        elif place == following:
            kept[rng.randrange(size)] = (place, item)
        else:
            continue
        w *= math.exp(math.log(1 - rng.random()) / size)
        following = seen + math.floor(math.log(1 - rng.random()) / math.log1p(-w)) if w < 1 else seen
    return sorted(kept, key=lambda pair: pair[0]), seen


def draw_from_blocks(blocks: Sequence[int], size: int, rng: random.Random, rows_per_block: int | None) -> list[int]:
    """Draw `size` row numbers from blocks of these many rows, sorted; all where there are no more.

    Blocks are drawn first, until they hold enough and there is one for `rows_per_block` rows wanted (None: all are
    drawn); then rows evenly among them.
    """
    starts = [0, *accumulate(blocks)]
    if size >= starts[-1]:
        return list(range(starts[-1]))
    # Blocks come in the order of weighted keys (Efraimidis and Spirakis 2006): larger ones earlier.
    keys = [(-math.log(1 - rng.random()) / n if n else math.inf, i) for i, n in enumerate(blocks)]
    order, room = [], 0
    fewest = math.ceil(size / rows_per_block) if rows_per_block else len(blocks)
    for _, i in sorted(keys):
        order.append(i)
        room += blocks[i]
        if room >= size and len(order) >= fewest:
            break
    candidates = list(chain.from_iterable(range(starts[i], starts[i + 1]) for i in sorted(order)))
    return sorted(rng.sample(candidates, size))


def until_broken(items: Iterable[T], damage: list[CurateError]) -> Iterator[T]:
    """Yield the items before the damage in a shard, of which a sample needs no more; add its error to `damage`."""
    try:
        yield from items
    except CurateError as error:
        damage.append(error)


def with_damage(rows: Iterable[tuple[int, Row]], damage: Sequence[CurateError]) -> Iterator[tuple[int, Row]]:
    """Yield rows, then one for the damage that ended them, at the row reached."""
    yield from rows
    for error in damage:
        yield getattr(error, "row", 0), BadRow(reason=DAMAGED, detail=error.message)
