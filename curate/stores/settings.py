"""What an index is asked for: all that decides a store's bytes but the pool, which may grow."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.documents import Fields
from curate.errors import SettingsError
from curate.gradients.shapes import DIM, RANK, check_shape
from curate.settings import DEFAULT_MODEL, ScoreSettings
from curate.stores.storage import DTYPES

DEFAULT_BACKGROUND = 2048


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """One gradient store. All but the pool must be the same to continue it."""

    pool: tuple[str, ...]
    """Addresses of the documents."""
    model: str = DEFAULT_MODEL
    revision: str | None = None
    modules: tuple[str, ...] = ()
    dtype: str = "float32"
    device: str = "auto"
    fields: Fields = field(default_factory=Fields)
    context: int | None = None
    long: str = "truncate"
    batch_tokens: int | None = None
    background: int = DEFAULT_BACKGROUND
    """Documents of the pool, as it is when it is first indexed, that the second moment is fitted on."""
    seed: int = 0
    """Of the background sample and of the projections."""
    part_documents: int = 1024
    dim: int = DIM
    """Dimensions per side and layer of a sketch."""
    rank: int = RANK
    """Of the approximation that is kept of each layer of a document's sketch; 0: all of it."""
    storage: str = "float16"
    """Numbers on disk: float32, float16 or int8."""

    def __post_init__(self) -> None:
        check_shape(self.dim, self.rank)
        if self.storage not in DTYPES:
            raise SettingsError(f"storage is {self.storage!r}; expected one of {', '.join(DTYPES)}.")
        self.scoring(target=("(none)",), method="cosine")  # what both are asked for is checked in one place

    def scoring(self, **others: Any) -> ScoreSettings:
        """Return settings of a scoring run that reads documents and takes gradients as this index does."""
        shared = {f.name for f in dataclasses.fields(ScoreSettings)} & {f.name for f in dataclasses.fields(self)}
        own: dict[str, Any] = {name: getattr(self, name) for name in shared}
        return ScoreSettings(**(own | others), method_settings={"dim": self.dim, "rank": self.rank, "seed": self.seed})

    def as_dict(self) -> dict[str, Any]:
        """Return what a store's record holds under `settings`: all but the pool."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "pool"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], pool: tuple[str, ...]) -> "IndexSettings":
        """Return the settings that a store's record holds, with the addresses that its pool is read from."""
        given: dict[str, Any] = {f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record}
        given["modules"] = tuple(given.get("modules") or ())
        given["fields"] = Fields(**given["fields"])
        given["pool"] = pool
        return cls(**given)


def default_store(settings: IndexSettings) -> Path:
    """Return where a store goes when no folder is given: `stores/<pool>`, of a pattern the folder that it is in."""
    path = Path(settings.pool[0].rstrip("/"))
    while any(c in path.name for c in "*?["):
        path = path.parent
    stem = path.name.split(".")[0] or "pool"
    return Path("stores") / stem
