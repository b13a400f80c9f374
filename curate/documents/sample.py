"""A seeded sample of a pool's documents, spread over its shards."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import starmap

from curate.documents import formats
from curate.documents.amounts import rows_of_each
from curate.documents.formats.contract import Format
from curate.documents.pool import Pool
from curate.documents.records import DocumentMaker, useful_columns
from curate.documents.rows import with_partitions
from curate.documents.shards import DAMAGED, Shard
from curate.errors import CurateError, SettingsError
from curate.fields import Fields
from curate.schema import Document, Skipped

_SHARDS = 256
_STREAMED_SHARDS = 8
_STREAMED_BYTES = 256 << 20
_MOST_BYTES = 1 << 30


@dataclass
class _Draw:
    """The draw from one shard so far."""

    order: int
    shard: Shard
    rng_seed: str
    weight: float = 0.0
    quota: int = 0
    size: int = 0
    """Rows to draw from it."""
    documents: list[Document] | None = None
    skipped: list[Skipped] = field(default_factory=list)
    exhausted: bool = False
    most_bytes: int | None = None
    """Of its beginning, which stands for all of it; None: it is read whole."""

    @property
    def format(self) -> Format:
        return formats.get(self.shard.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Documents of a pool, and what was looked at for them in vain."""

    documents: list[Document]
    skipped: list[Skipped]


def sample_rows(pool: Pool, count: int, seed: int, fields: Fields) -> list[Document]:
    """Draw documents as `draw_sample` does, and return those alone."""
    return draw_sample(pool, count, seed, fields).documents


def draw_sample(pool: Pool, count: int, seed: int, fields: Fields) -> Sample:
    """Draw `count` documents without replacement, sorted by (shard order, row); all if there are fewer.

    Each shard gives a share in proportion to its rows (exact for Parquet and Arrow, estimated from the first
    256 KiB of lines). What is read:

    - Parquet: only the row groups drawn from, one per 64 rows wanted. Groups are drawn at random; rows of one
      group come together more often than in a plain sample.
    - Arrow: only the record batches with a row drawn (in an object store an Arrow stream is read whole).
    - Lines, of JSON or csv: an exact row number means counting the lines before it, so a chosen shard is streamed
      once and sampled evenly along its whole length, decoding only the rows drawn. When these shards together
      exceed 256 MiB, a seeded choice of them stands for all: at least eight, or as many as fit into 256 MiB. Where
      these exceed 1 GiB, no more is read of each than its even share of that: its beginning stands for all of it.
    - Text files that are a document each: only those drawn.

    Of more than 256 other shards a seeded choice of 256 is looked into. Rows that are no documents are replaced by
    others. The same pool, count, seed and fields give the same sample.
    """
    if count < 1:
        raise SettingsError(f"The sample has {count} documents; expected at least 1.")
    draws = [_Draw(order=i, shard=s, rng_seed=f"{seed}:{s.name}") for i, s in enumerate(pool.shards)]
    rng = random.Random(f"{seed}:shards")
    active = _within_budget(_weighted(draws, rng), rng)
    _bound_bytes(active, draws)
    _set_quotas(active, count, rng)
    for draw in active:
        # A tenth more than needed: most pools have few rows to set aside, and a second look costs a second
        # pass.
        draw.size = draw.quota + draw.quota // 10 + 4 if draw.quota else 0
    while True:
        for draw in active:
            if draw.documents is None:
                _look(draw, fields)
        if sum(len(d.documents or ()) for d in active) >= count:
            return _sample_of(active, count)
        if all(d.exhausted for d in active):
            if len(active) == len(draws):
                return _sample_of(active, count)
            active = draws
        missing = count - sum(len(d.documents or ()) for d in active)
        for draw in _with_more(active, missing, rng):
            draw.size, draw.documents = 2 * max(draw.size, 16), None


def estimated_size(pool: Pool, seed: int) -> int:
    """Return how many rows a pool has: as exact, and as many shards opened for it, as in `sample_rows`."""
    draws = [_Draw(order=i, shard=s, rng_seed="") for i, s in enumerate(pool.shards)]
    weighted = _weighted(draws, random.Random(f"{seed}:shards"))
    unopened = [d for d in weighted if d.format.rows_per_shard is not None]
    opened = [d for d in weighted if d.format.rows_per_shard is None]
    total = sum(d.weight for d in weighted)
    if not unopened and opened:  # otherwise those that were opened have the others' weight
        total *= len(draws) / len(opened)
    return round(total)


def _weighted(draws: list[_Draw], rng: random.Random) -> list[_Draw]:
    """Weigh shards by their rows: all whose number needs no opening, and a seeded choice that stands for the others."""
    unopened = [d for d in draws if d.format.rows_per_shard is not None]
    others = [d for d in draws if d.format.rows_per_shard is None]
    opened = others if len(others) <= _SHARDS else rng.sample(others, _SHARDS)
    weighted = [*unopened, *opened]
    for draw, rows in zip(weighted, rows_of_each([d.shard for d in weighted]), strict=True):
        draw.weight = rows
    if unopened:
        for draw in opened:
            draw.weight *= len(others) / len(opened)
    return sorted(weighted, key=lambda d: d.order)


def _with_more(draws: list[_Draw], missing: int, rng: random.Random) -> list[_Draw]:
    """Choose the shards to draw more from: all that may have more, but of one-row files only as many as needed."""
    more = [d for d in draws if not d.exhausted]
    small = [d for d in more if d.format.rows_per_shard is not None]
    enough = rng.sample(small, min(len(small), missing + missing // 10 + 4))
    return [*(d for d in more if d.format.rows_per_shard is None), *enough]


def _within_budget(draws: list[_Draw], rng: random.Random) -> list[_Draw]:
    """Leave out streamed shards beyond the budget; the others take over their weight."""
    streamed = [d for d in draws if d.format.streamed]
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
    orders = {d.order for d in kept}
    return [d for d in draws if not d.format.streamed or d.order in orders]


def _bound_bytes(active: list[_Draw], draws: list[_Draw]) -> None:
    """Bound what is read of streamed shards where they are very large."""
    streamed = [d for d in active if d.format.streamed]
    if sum(d.shard.size or 0 for d in streamed) > _MOST_BYTES:
        for draw in draws:
            draw.most_bytes = _MOST_BYTES // len(streamed)


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


def _look(draw: _Draw, fields: Fields) -> None:
    """Draw `size` rows of a shard, in a seeded order, and keep those that are documents."""
    draw.documents = []
    try:
        if draw.size:
            _draw_rows(draw, useful_columns(draw.shard, fields), fields)
        elif not draw.weight and draw.shard.size:  # bytes, and no row: is it damaged?
            draw.format.columns(draw.shard)
    except CurateError as error:
        row, draw.exhausted = getattr(error, "row", 0), True
        draw.skipped = [Skipped(shard=draw.shard.name, row=row, reason=DAMAGED, detail=error.message)]


def _draw_rows(draw: _Draw, columns: list[str] | None, fields: Fields) -> None:
    rng = random.Random(draw.rng_seed)
    drawn, draw.exhausted = draw.format.draw(draw.shard, draw.size, rng, columns, draw.most_bytes)
    candidates = list(starmap(DocumentMaker(draw.shard.name, fields), with_partitions(draw.shard, drawn)))
    draw.documents = [d for d in candidates if isinstance(d, Document)]
    draw.skipped = [d for d in candidates if isinstance(d, Skipped)]
    rng.shuffle(draw.documents)


def _sample_of(draws: Sequence[_Draw], count: int) -> Sample:
    return Sample(documents=_picked(draws, count), skipped=[s for d in draws for s in d.skipped])


def _picked(draws: Sequence[_Draw], count: int) -> list[Document]:
    """Take each shard's quota; fill up from shards that have more, one document each in turn."""
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
