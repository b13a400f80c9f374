"""The settings of a scoring run, which decide its bytes."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from curate import methods
from curate.errors import SettingsError
from curate.fields import Fields
from curate.proxies.settings import PassSettings
from curate.settings import Count, Flag, Portion, Share, Words, build, least, option, settings


@settings
class NarrowingSettings:
    """Which of the pool's documents are scored, where not all of them are."""

    sample: Portion | None = option(
        default=None,
        help="Score a seeded sample, spread over all shards: a share (5%), or about that number (20000) of documents.",
        metavar="N|SHARE",
        shown="all documents",
    )
    only: str | None = option(
        default=None,
        help="Score only documents that another run of this pool has scored, its best by --top.",
        metavar="RUN",
    )
    top: Portion | None = option(
        default=None,
        help="Of --only RUN: its best by `score`, or of every group where it has several: a share of the pool, or a"
        " number (of each group).",
        metavar="N|SHARE",
        shown="all that it scored",
    )
    group: Words = option(
        default=(), help="Group of --only RUN (or column) whose best are scored; repeatable.", metavar="NAME"
    )

    @property
    def narrows(self) -> bool:
        """Whether some of the pool's documents are left out."""
        return self.sample is not None or self.only is not None

    def refuse_conflicts(self) -> None:
        """Raise SettingsError for settings that do not go together."""
        if self.sample is not None and self.only is not None:
            raise SettingsError(
                "sample and only both say which documents are scored.",
                hint="Give --sample, or --only RUN --top N for fewer of its best.",
            )
        if self.only is None and (self.top is not None or self.group):
            raise SettingsError(
                f"{'top' if self.top is not None else 'group'} says which documents of another run are scored.",
                hint="Name the run: --only RUN. `curate select` takes --top of a run that is done.",
            )
        if self.group and self.top is None:
            raise SettingsError("group is given without top.", hint="Say how many of each group's best: --top 20%.")


NARROWING: dict[str, Any] = {"sample": None, "only": None, "top": None, "group": ()}
"""The settings of a run that scores every document."""


@settings
class ScoreSettings(PassSettings, NarrowingSettings):
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
        help="Fit nothing: take a run's settings, curvature, directions, and its scores of unchanged shards."
        " Another --target is grouped by its own --group-by.",
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
    holdout: Share = option(
        default=0.0, help="Share of every group's rows that scoring never sees: 30%, 0.3.", shown="none"
    )
    against: Words = option(default=(), help="Control set, whose mean gradient is subtracted; repeatable.")
    check: Annotated[Count, least(0)] | None = option(
        default=None,
        help="Retrainings of the proxy, each without a random 5 % of some documents of the pool, against what their"
        " scores predict; 0: none.",
        shown="3 for magic, else none",
    )
    per_token: Flag = option(
        default=False,
        help="Write every token's own score, that of predicting it, too (SQL view `tokens`); no gradient norms then. It"
        " costs nothing for one target group, and as much as scoring once more for each further one.",
    )
    target_fields: Fields | None = option(
        default=None, help="In the target, where it differs.", prefix="target-", suffix="-column", shown="the pool's"
    )

    def __post_init__(self) -> None:
        if self.holdout == 1:
            raise SettingsError("holdout is the whole target; scoring needs rows, too.", hint="Hold out 30%, say.")
        if self.store and self.fit_from:
            raise SettingsError("A store has its own fits.", hint="Give --store or --fit-from, not both.")
        if self.store and self.narrows:
            raise SettingsError(
                "A store is scored whole: it takes seconds.", hint="Leave --sample and --only out, or --store."
            )
        if self.check and self.store:
            raise SettingsError(
                "check retrains on documents of the pool, and a store is scored without them.",
                hint="Leave --check out, and measure the run with `curate validate`.",
            )
        if not self.fit_from and (not self.target or not (self.pool or self.store)):
            raise SettingsError(
                "A run needs a target, and a pool or a store.", hint="curate score --target FILE --pool FOLDER"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for run.json."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
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
        own = dict(record.get("method_settings", {}))
        if own.get("refine") == "none":  # an older version's defaults of what was not done ask for nothing
            own = {n: v for n, v in own.items() if n not in methods.REFINEMENT}
        known = {n: v for n, v in record.items() if n in names}
        return build(cls, known | {"method_settings": own}, owner="The record of a run")


def background_fingerprint(pool: str, settings: PassSettings) -> str:
    """Name the background sample that settings draw from a pool of this fingerprint."""
    return f"{pool}:{settings.background}:{settings.seed}:{settings.fields}"


def default_out(settings: ScoreSettings) -> Path:
    """Return where a run goes when no folder is given: `runs/<target>-<method>`.

    With `-<refine>` where refined, and with `-sample` or `-only` where not all documents are scored.
    """
    stem = Path(settings.target[0].rstrip("/")).name.split(".")[0] or "target"
    refined = settings.method_settings.get("refine", "none")
    narrowed = "-sample" if settings.sample is not None else "-only" if settings.only is not None else ""
    return Path("runs") / f"{stem}-{settings.method}{'' if refined == 'none' else f'-{refined}'}{narrowed}"
