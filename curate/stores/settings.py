"""Settings of an index: everything that decides a store's bytes but the pool, which may grow."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from curate import methods
from curate.errors import SettingsError
from curate.fields import Fields
from curate.gradients.shapes import DIM, RANK
from curate.proxies.settings import PassSettings
from curate.settings import Count, build, changed, least, option, settings

UNSAID = {"method": methods.DEFAULT_OF_STORES, "method_settings": {}, "dim": None, "rank": None}
"""Settings that a record leaves out where they are these."""


@settings
class IndexSettings(PassSettings):
    """One gradient store. All but the pool must be the same to continue it."""

    method: Annotated[str, BeforeValidator(methods.spelled)] = option(
        default=methods.DEFAULT_OF_STORES,
        help="trackstar (cosine scores from its stores, too) or less. `--method NAME --help` shows its own options.",
    )
    method_settings: dict[str, Any] = option(
        factory=dict, help="A setting of the method; repeatable.", flags=("--set", "-s"), metavar="NAME=VALUE"
    )
    dim: Annotated[Count, least(1)] | None = option(
        default=None,
        help="Projection dimensions per side and layer; of less, numbers of a feature per checkpoint.",
        shown=f"{DIM}, of less 8192",
    )
    rank: Annotated[Count, least(0)] | None = option(
        default=None,
        help="Rank of each layer's sketch of trackstar, a low-rank approximation; 0: whole.",
        shown=f"{RANK}",
    )
    storage: Literal["float32", "float16", "int8"] = option(default="float16", help="Type of the numbers on disk.")

    def __post_init__(self) -> None:
        if not self.pool:
            raise SettingsError("An index needs a pool.", hint="Use curate index --pool FOLDER.")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings of a store's record: all but the pool and what it leaves unsaid."""
        values = {name: value for name, value in asdict(self).items() if name != "pool"}
        return {name: value for name, value in values.items() if name not in UNSAID or value != UNSAID[name]}

    @property
    def projection(self) -> dict[str, Any]:
        """The settings, of all methods that score from it, by which a store's sketches are made.

        Raises SettingsError where no store is indexed for the method.
        """
        values = asdict(self) | self.method_settings
        names = (f.name for f in fields(methods.store_of(self.method).Settings))
        return {name: values[name] for name in names if values.get(name) is not None}

    def resolved(self) -> "IndexSettings":
        """Return settings in which all that the method decides is said. Raises SettingsError."""
        here = {f.name for f in fields(self)}
        shared = {name: value for name in ("dim", "rank", "seed") if (value := getattr(self, name)) is not None}
        kind = methods.store_of(self.method)
        if "seed" not in {f.name for f in fields(kind.Settings)}:
            del shared["seed"]
        owner = f"A store of {self.method!r}"
        theirs = asdict(build(kind.Settings, shared | self.method_settings, owner=owner, prefix=f"{owner}: "))
        return changed(
            self,
            background=self.background or methods.background_of(self.method),
            method_settings={name: value for name, value in theirs.items() if name not in here},
            **{name: value for name, value in theirs.items() if name in here},
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "IndexSettings":
        """Build from names and values side by side; names that are no field here are the method's settings."""
        names = {f.name for part in (cls, Fields) for f in fields(part)}
        others = {n.replace("-", "_"): v for n, v in values.items() if n.replace("-", "_") not in names}
        here = {n: v for n, v in values.items() if n.replace("-", "_") in names}
        if others:
            here["method_settings"] = {**(here.get("method_settings") or {}), **others}
        return build(cls, here, owner="An index")

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
