"""A seeded sample of a pool's documents, spread over its shards."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, chain
from typing import TypeVar

from curate.documents.columnar import row_blocks
from curate.documents.files import open_binary
from curate.documents.jsonl import decode
from curate.documents.lines import Truncated, inflated, numbered_lines, split_lines
from curate.documents.pool import Pool
from curate.documents.records import document_of, documents
from curate.documents.shards import Shard
from curate.errors import CurateError, SettingsError
from curate.fields import Fields
from curate.schema import Document

T = TypeVar("T")

_SHARDS = 256
_STREAMED_SHARDS = 8
_STREAMED_BYTES = 256 << 20
_PROBED_BYTES = 1 << 18
_ROWS_PER_BLOCK = 64  # rows wanted of one row group before another is read


@dataclass
class _Draw:
    """What one shard gave so far."""

    order: int
    shard: Shard
    rng_seed: str
    weight: float = 0.0
    quota: int = 0
    asked: int = 0
    documents: list[Document] | None = None
    exhausted: bool = False


def sample_rows(pool: Pool, count: int, seed: int, fields: Fields) -> list[Document]:
    """Draw `count` documents without replacement, sorted by (shard order, row); all if there are fewer.

    Each shard gives a share in proportion to its rows (known for Parquet and Arrow, estimated from the first
    256 KiB of lines of JSON). What is read:

    - Parquet: only the row groups drawn from, one per 64 rows wanted. Groups are drawn at random; rows of one
      group come together more often than in a plain sample.
    - Arrow: only the record batches with a row drawn (in an object store an Arrow stream is read whole).
    - Lines of JSON: an exact row number means counting the lines before it, so a chosen shard is streamed
      once and sampled evenly along its whole length, decoding only the rows drawn. When these shards together
      exceed 256 MiB, a seeded choice of them stands for all: at least eight, or as many as fit into 256 MiB.

    Of more than 256 shards a seeded choice of 256 is looked into. Rows that are no documents are replaced by
    others. The same pool, count, seed and fields give the same sample.
    """
    if count < 1:
        raise SettingsError(f"A sample needs at least one document; got {count}.")
    draws = [_Draw(order=i, shard=s, rng_seed=f"{seed}:{s.name}") for i, s in enumerate(pool.shards)]
    rng = random.Random(f"{seed}:shards")
    looked_into = draws if len(draws) <= _SHARDS else sorted(rng.sample(draws, _SHARDS), key=lambda d: d.order)
    for draw in looked_into:
        draw.weight = estimated_rows(draw.shard)
    active = _within_budget(looked_into, rng)
    _set_quotas(active, count, rng)
    for draw in active:
        # A tenth more than needed: most pools have few rows to set aside, and a second look costs a second
        # pass.
        draw.asked = draw.quota + draw.quota // 10 + 4 if draw.quota else 0
    while True:
        for draw in active:
            if draw.documents is None:
                _look(draw, fields)
        if sum(len(d.documents or ()) for d in active) >= count:
            return _picked(active, count)
        if all(d.exhausted for d in active):
            if len(active) == len(draws):
                return _picked(active, count)
            active = draws
        for draw in active:
            if not draw.exhausted:
                draw.asked, draw.documents = 2 * max(draw.asked, 16), None


def _within_budget(draws: list[_Draw], rng: random.Random) -> list[_Draw]:
    """Leave out streamed shards beyond the budget; those kept take over the weight of those left out."""
    streamed = [d for d in draws if d.shard.format == "jsonl"]
    total = sum(d.shard.size or 0 for d in streamed)
    if total <= _STREAMED_BYTES or len(streamed) <= _STREAMED_SHARDS:
        return draws
    kept, read = [], 0
    for draw in rng.sample(streamed, len(streamed)):
        read += draw.shard.size or 0
        if len(kept) >= _STREAMED_SHARDS and read > _STREAMED_BYTES:
            break
        kept.append(draw)
    scale = sum(d.weight for d in streamed) / max(sum(d.weight for d in kept), 1e-9)
    for draw in kept:
        draw.weight *= scale
    names = {d.order for d in kept}
    return [d for d in draws if d.shard.format != "jsonl" or d.order in names]


def _set_quotas(draws: list[_Draw], count: int, rng: random.Random) -> None:
    """Share `count` out by weight, largest remainders first, equal ones by lot."""
    total = sum(d.weight for d in draws)
    exact = [count * d.weight / total if total else 0.0 for d in draws]
    for draw, share in zip(draws, exact, strict=True):
        draw.quota = math.floor(share)
    left = count - sum(d.quota for d in draws)
    lots = rng.sample(range(len(draws)), len(draws))
    by_remainder = sorted(lots, key=lambda i: round(draws[i].quota - exact[i], 9))
    for i in by_remainder[:left]:
        draws[i].quota += 1


def estimated_rows(shard: Shard) -> float:
    """Return how many rows a shard has: known for Parquet and Arrow, estimated from the first bytes of lines.

    A shard that cannot be opened counts as empty.
    """
    if shard.format != "jsonl":
        try:
            return float(sum(row_blocks(shard)))
        except CurateError:
            return 0.0
    with open_binary(shard.url) as stream:
        head = stream.read(_PROBED_BYTES)
    if not head:
        return 0.0
    lines = sum(1 for _ in split_lines(_readable(head, shard.compression)))
    return max(lines, 1) * max(shard.size or 0, len(head)) / len(head)


def _readable(head: bytes, compression: str | None) -> Iterator[bytes]:
    try:
        yield from inflated(BytesIO(head), compression)
    except Truncated:  # the head is cut on purpose
        return


def _look(draw: _Draw, fields: Fields) -> None:
    """Draw `asked` rows of a shard, in a seeded order, and keep those that are documents."""
    if not draw.asked:
        draw.documents = []
        return
    rng = random.Random(draw.rng_seed)
    found = _draw_lines(draw, rng, fields) if draw.shard.format == "jsonl" else _draw_blocks(draw, rng, fields)
    rng.shuffle(found)
    draw.documents = found


def _draw_lines(draw: _Draw, rng: random.Random, fields: Fields) -> list[Document]:
    """Keep an even sample of lines in one pass (algorithm L, Li 1994)."""
    kept: list[tuple[int, int, bytes]] = []
    size, following, w, seen = draw.asked, 0, 1.0, 0
    for row, number, line in _until_broken(numbered_lines(draw.shard)):
        seen = row + 1
        if row < size:
            kept.append((row, number, line))
            if row + 1 < size:
                continue
        elif row == following:
            kept[rng.randrange(size)] = (row, number, line)
        else:
            continue
        w *= math.exp(math.log(1 - rng.random()) / size)
        following = row + 1 + math.floor(math.log(1 - rng.random()) / math.log1p(-w)) if w < 1 else row + 1
    draw.exhausted = seen <= size
    kept.sort(key=lambda item: item[0])
    made = (document_of(draw.shard.name, row, decode(line, number), fields) for row, number, line in kept)
    return [d for d in made if isinstance(d, Document)]


def _draw_blocks(draw: _Draw, rng: random.Random, fields: Fields) -> list[Document]:
    """Draw row groups until they hold enough, then rows evenly among them."""
    try:
        blocks = row_blocks(draw.shard)
    except CurateError:
        return []
    starts = [0, *accumulate(blocks)]
    draw.exhausted = draw.asked >= starts[-1]
    if draw.exhausted:
        wanted = list(range(starts[-1]))
    else:
        # Blocks come in the order of weighted keys (Efraimidis and Spirakis 2006): larger ones earlier.
        keys = [(-math.log(1 - rng.random()) / n if n else math.inf, i) for i, n in enumerate(blocks)]
        order, room = [], 0
        fewest = math.ceil(draw.asked / _ROWS_PER_BLOCK) if draw.shard.format == "parquet" else len(blocks)
        for _, i in sorted(keys):
            order.append(i)
            room += blocks[i]
            if room >= draw.asked and len(order) >= fewest:
                break
        candidates = list(chain.from_iterable(range(starts[i], starts[i + 1]) for i in sorted(order)))
        wanted = sorted(rng.sample(candidates, draw.asked))
    found = _until_broken(documents(draw.shard, fields, only=wanted))
    return [d for d in found if isinstance(d, Document)]


def _until_broken(items: Iterable[T]) -> Iterator[T]:
    """Yield what a damaged shard still gives: a sample needs no more, and whoever reads the whole pool says so."""
    try:
        yield from items
    except CurateError:
        return


def _picked(draws: list[_Draw], count: int) -> list[Document]:
    """Take each shard's quota, and fill what is missing from shards that have more, one each in turn."""
    taken = {d.order: min(d.quota, len(d.documents or ())) for d in draws}
    missing = count - sum(taken.values())
    while missing > 0:
        more = [d for d in draws if taken[d.order] < len(d.documents or ())]
        if not more:
            break
        for draw in more[:missing]:
            taken[draw.order] += 1
        missing -= min(missing, len(more))
    return [
        document
        for draw in sorted(draws, key=lambda d: d.order)
        for document in sorted((draw.documents or [])[: taken[draw.order]], key=lambda doc: doc.row)
    ]
