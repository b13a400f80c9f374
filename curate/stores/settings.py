"""Settings of an index: everything that decides a store's bytes but the pool, which may grow."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from curate.errors import SettingsError
from curate.gradients.shapes import DIM, RANK
from curate.proxies.settings import PassSettings
from curate.settings import Count, build, least, option, settings

METHOD = "trackstar"
"""The method whose projection, second moment and norms a store keeps."""


@settings
class IndexSettings(PassSettings):
    """One gradient store. All but the pool must be the same to continue it."""

    dim: Annotated[Count, least(1)] = option(default=DIM, help="Projection dimensions per side and layer.")
    rank: Annotated[Count, least(0)] = option(
        default=RANK, help="Rank of each layer's sketch, a low-rank approximation; 0: whole."
    )
    storage: Literal["float32", "float16", "int8"] = option(default="float16", help="Type of the numbers on disk.")

    def __post_init__(self) -> None:
        if not self.pool:
            raise SettingsError("An index needs a pool.", hint="Use curate index --pool FOLDER.")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings of a store's record: all but the pool."""
        return {name: value for name, value in asdict(self).items() if name != "pool"}

    @property
    def projection(self) -> dict[str, int]:
        """The settings of a method that scores by these sketches."""
        return {"dim": self.dim, "rank": self.rank, "seed": self.seed}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], pool: tuple[str, ...]) -> "IndexSettings":
        """Return the settings that a store's record holds, with the addresses that its pool is read from."""
        names = {f.name for f in fields(cls)}
        values = {name: value for name, value in record.items() if name in names}
        return build(cls, values | {"pool": pool}, owner="The record of a store")


def default_store(settings: IndexSettings) -> Path:
    """Return the default folder of a store: `stores/<pool>`; of a pattern, the folder that it is in."""
    path = Path(settings.pool[0].rstrip("/"))
    while any(c in path.name for c in "*?["):
        path = path.parent
    stem = path.name.split(".")[0] or "pool"
    return Path("stores") / stem
