"""Measure the share of the target's package in a selection, against chance."""

from dataclasses import dataclass
from pathlib import Path

from curate.documents import Fields, documents, open_pool
from curate.errors import CurateError
from curate.quickstart.pool import LibraryPool
from curate.schema import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrichment:
    """Documents of the target's package among those selected."""

    selected: int
    in_package: int
    base_rate: float
    """Their share of the pool: what a selection by chance holds."""

    @property
    def share(self) -> float:
        return self.in_package / self.selected

    @property
    def ratio(self) -> float:
        return self.share / self.base_rate


def measure_enrichment(selection: Path, built: LibraryPool) -> Enrichment:
    """Read a selection's rows and count those of the target's package. Raises CurateError for an empty one."""
    rows = [d for shard in open_pool(selection).shards for d in documents(shard, Fields()) if isinstance(d, Document)]
    if not rows:
        raise CurateError(f"{selection} holds no documents; expected at least one.")
    num_of_package = sum(d.metadata.get("source") == built.package for d in rows)
    return Enrichment(selected=len(rows), in_package=num_of_package, base_rate=built.base_rate)
