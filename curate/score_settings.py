"""The settings of a scoring run, which decide its bytes."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from curate import methods
from curate.errors import SettingsError
from curate.fields import Fields
from curate.proxies.settings import PassSettings
from curate.settings import Flag, Share, Words, build, option, settings


@settings
class ScoreSettings(PassSettings):
    """One scoring run. Everything here is kept in run.json, and all of it must be the same to continue a run."""

    target: Words = option(default=(), help="Validation set: file, folder or address; repeatable.")
    store: str | None = option(
        default=None,
        help="Score from a folder of `curate index` instead of from a pool: it decides pool, model and projection, and"
        " the method where none is given.",
        metavar="STORE",
    )
    fit_from: str | None = option(
        default=None,
        help="Fit nothing: take a run's settings, curvature, directions, and its scores of unchanged shards.",
        metavar="RUN",
    )
    method: Annotated[str, BeforeValidator(methods.spelled)] = option(
        default=methods.DEFAULT,
        help=f"{', '.join(methods.names())}. `--method NAME --help` shows a method's own options.",
    )
    method_settings: dict[str, Any] = option(
        factory=dict, help="A setting of the method; repeatable.", flags=("--set", "-s"), metavar="NAME=VALUE"
    )
    group_by: str | None = option(
        default=None, help="Column of the target: each of its values gets a score column of its own.", metavar="COLUMN"
    )
    aggregate: Literal["mean", "max", "round-robin"] | None = option(
        default=None,
        help="How groups make `score`: their mean, the best of them, or by turns (`curate select` lets each choose).",
        shown="the method's",
    )
    aggregate_rows: Literal["mean", "max"] | None = option(
        default=None, help="How the target's rows make a group's score: their mean, or the best.", shown="the method's"
    )
    holdout: Share = option(default=0.0, help="Share of every group's rows that scoring never sees: 30%, 0.3.")
    against: Words = option(default=(), help="Control set, whose mean gradient is subtracted; repeatable.")
    per_token: Flag = option(default=False, help="Write every token's part of the score, too (SQL view `tokens`).")
    target_fields: Fields | None = option(
        default=None, help="In the target, where it differs.", prefix="target-", suffix="-column", shown="the pool's"
    )

    def __post_init__(self) -> None:
        if self.holdout == 1:
            raise SettingsError("holdout is the whole target; scoring needs rows, too.", hint="Hold out 30%, say.")
        if self.store and self.fit_from:
            raise SettingsError("A store has its own fits.", hint="Give --store or --fit-from, not both.")
        if not self.fit_from and (not self.target or not (self.pool or self.store)):
            raise SettingsError(
                "A run needs a target, and a pool or a store.", hint="curate score --target FILE --pool FOLDER"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for run.json."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ScoreSettings":
        """Build from names and values side by side; names that are no field here are the method's settings."""
        names = {f.name for f in fields(cls)}
        own = {n: v for n, v in values.items() if n.replace("-", "_") in names}
        others = {n.replace("-", "_"): v for n, v in values.items() if n not in own}
        if isinstance(target := own.get("target_fields"), Mapping) and isinstance(pool := own.get("fields"), Mapping):
            own["target_fields"] = {**pool, **target}
        if others:
            own["method_settings"] = {**(own.get("method_settings") or {}), **others}
        return build(cls, own, owner="A run")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ScoreSettings":
        """Return the settings that a run.json holds under `settings`."""
        names = {f.name for f in fields(cls)}
        return build(cls, {n: v for n, v in record.items() if n in names}, owner="The record of a run")


def background_fingerprint(pool: str, settings: PassSettings) -> str:
    """Name the background sample that settings draw from a pool of this fingerprint."""
    return f"{pool}:{settings.background}:{settings.seed}:{settings.fields}"


def default_out(settings: ScoreSettings) -> Path:
    """Return where a run goes when no folder is given: `runs/<target>-<method>`, with `-<refine>` where refined."""
    stem = Path(settings.target[0].rstrip("/")).name.split(".")[0] or "target"
    refined = settings.method_settings.get("refine", "none")
    return Path("runs") / f"{stem}-{settings.method}{'' if refined == 'none' else f'-{refined}'}"
