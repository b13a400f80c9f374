"""How many rows shards have, about: a few are opened, at the same time, and sizes tell of the others."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from curate.documents import formats
from curate.documents.files import compression_of
from curate.documents.rows import estimated_rows
from curate.documents.shards import Shard

PROBES = 64
"""Shards of one format and compression that are opened to tell how many rows all of them have."""
_THREADS = 16  # an object store takes tens of milliseconds to open a file, however many are opened meanwhile


def rows_of_each(shards: Sequence[Shard]) -> list[float]:
    """Return what `estimated_rows` returns for every shard, several opened at the same time."""
    if len(shards) < 2:
        return [estimated_rows(shard) for shard in shards]
    with ThreadPoolExecutor(min(_THREADS, len(shards)), "probe") as pool:
        return list(pool.map(estimated_rows, shards))


def rows_of_all(shards: Sequence[Shard]) -> float:
    """Return how many rows shards have together.

    As exact as `estimated_rows` for up to PROBES shards of a kind; of more, PROBES evenly chosen ones tell the rows per
    byte of all.
    """
    kinds: dict[tuple[str, str | None], list[Shard]] = {}
    for shard in shards:
        kinds.setdefault((shard.format, compression_of(shard.url)), []).append(shard)
    return sum(_rows_of_kind(alike) for alike in kinds.values())


def _rows_of_kind(shards: Sequence[Shard]) -> float:
    same = formats.get(shards[0].format).rows_per_shard
    if same is not None:
        return float(same * len(shards))
    probed = [shards[i * len(shards) // PROBES] for i in range(PROBES)] if len(shards) > PROBES else shards
    probed_rows = sum(rows_of_each(probed))
    return probed_rows * _amount(shards) / max(_amount(probed), 1)


def _amount(shards: Sequence[Shard]) -> int:
    """Return the bytes of shards; where the file system tells no sizes, their number."""
    return sum(1 if shard.size is None else shard.size for shard in shards)
