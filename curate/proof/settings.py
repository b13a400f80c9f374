"""The settings of validation and verification, checked as they are built."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from curate import methods
from curate.errors import SettingsError
from curate.folders.folder import Folder, put_json
from curate.folders.local import beside, parent_of
from curate.proxies.settings import DEVICES, Device
from curate.score_settings import ScoreSettings
from curate.settings import Count, Flag, Listed, Number, Share, Words, changed, least, option, settings
from curate.training.recipe import Recipe

if TYPE_CHECKING:
    from curate.scores.run import Run

SETTINGS = "settings.json"
"""In the folder of a validation or a verification: its settings and the working folder in which they were given."""
RANDOM = "random"
"""The arm of random documents."""
TOKEN = "token"


def _spelled(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(methods.spelled(name) for name in names)


@settings
class ValidateSettings:
    """The runs whose methods are judged, and the retrainings that judge them."""

    runs: Words = option(default=(), help="Finished runs over one pool and target.", argument=True, shown="the latest")
    documents: Annotated[Count, least(2)] = option(
        default=1024, help="Documents to train on: a sample of what all runs scored."
    )
    queries: Annotated[Count, least(1)] = option(default=50, help="Rows of the target, each a query of its own.")
    subsets: Annotated[Count, least(3)] = option(
        default=100, help="Retrainings, each without a random share of the documents."
    )
    drop: Annotated[Share, Field(gt=0, lt=1)] = option(
        default=0.01,
        help="Share of the documents, or tokens, to leave out: 1% or 0.01. For claims about algorithms: 50%, several"
        " repeats.",
        shown="1%",
    )
    unit: Literal["document", "token"] = option(
        default="document",
        help="What retrainings leave out. Tokens lose their loss and are still read; QLD of documents stands beside.",
    )
    removals: Annotated[Count, least(0)] = option(
        default=10, help="Queries whose best documents, or tokens, a retraining leaves out (QLD); 0: none."
    )
    repeats: Annotated[Count, least(1)] = option(
        default=1, help="Orders of the documents to average every change over."
    )
    recipe: Recipe = option(factory=Recipe, help="YAML file of the training run.", metavar="FILE")
    magic: Flag = option(default=False, help="Judge MAGIC in the bank's own training, too: a walk back per query.")
    model: str | None = option(default=None, help="Proxy to retrain: a folder or a hub id.", shown="the first run's")
    pool: Words = option(default=(), help="Where the pool is now, if it has moved; repeatable.", shown="the runs'")
    banks: str | None = option(
        default=None, help="Folder of the banks of retrainings.", metavar="FOLDER", shown="banks/ beside the first run"
    )
    device: Device | None = option(default=None, help=f"Where to retrain: {DEVICES}", shown="the first run's")
    batch_tokens: Annotated[Count, least(1)] | None = option(
        default=None, help="Tokens of one micro-batch.", shown="by device"
    )
    resamples: Annotated[Count, least(100)] = option(
        default=1000, help="Resamples of the bootstrap behind the intervals."
    )
    seed: Count = option(
        default=0, help="Seed of the sample, the queries, the subsets and the bootstrap; the recipe has its own."
    )

    def __post_init__(self) -> None:
        if not self.by_token:
            num_dropped(self.documents, self.drop)

    @property
    def by_token(self) -> bool:
        """Whether retrainings leave out tokens, not documents."""
        return self.unit == TOKEN

    def scored_like(self, run: "Run") -> ScoreSettings:
        """Return the settings that a run was scored by, with the pool where it is now."""
        scoring = ScoreSettings.from_record(run.located_settings)
        background = methods.background_of(scoring.method) if run.record.is_rescoring else scoring.background
        return changed(scoring, pool=self.pool or scoring.pool, background=background, store=None)

    def retrained_like(self, scoring: ScoreSettings) -> ScoreSettings:
        """Return a run's settings with the proxy that is retrained: all its weights, in single precision or finer."""
        return changed(
            scoring,
            model=self.model or scoring.model,
            revision=scoring.revision if self.model is None else None,
            modules=(),
            dtype="float64" if scoring.dtype == "float64" else "float32",
            device=self.device or scoring.device,
            batch_tokens=self.batch_tokens,
        )


def default_validate_out(settings: ValidateSettings) -> Path | str:
    """Return where the figures go when no folder is given: `<first run>-validation`."""
    return beside(settings.runs[0], "-validation")


def banks_beside(run: "Run") -> Path | str:
    """Return where banks go when no folder is given: `banks` beside a run."""
    return run.path.parent / "banks" if run.folder.is_here else parent_of(run.address)[0].child("banks").address


@settings
class VerifySettings:
    """A selection, what its training is measured on, and what it is compared with."""

    selection: str = option(help="Folder that `curate select` wrote.", argument=True)
    target: Words = option(default=(), help="Rows that did not score; repeatable.", shown="what the run kept aside")
    pool: Words = option(default=(), help="Where the pool is now, if it has moved; repeatable.", shown="the run's")
    other: Words = option(default=(), help="Text that is not the target's; repeatable.", shown="a sample of the pool")
    other_documents: Annotated[Count, least(1)] = option(
        default=256, help="Documents of other text drawn from the pool; no arm trains on them."
    )
    seeds: Annotated[Count, least(1)] = option(
        default=3, help="Trainings per arm, each with its own order and random documents."
    )
    recipe: Recipe = option(factory=Recipe, help="YAML file of the training run.", metavar="FILE")
    tokens: Annotated[Count, least(1)] | None = option(
        default=None,
        help="Tokens every arm trains on: 2M.",
        shown="the selection's, up to four times for 30 steps",
    )
    sweep: Annotated[tuple[Annotated[Share, Field(gt=0)], ...], Listed] = option(
        default=(), help="Shares of the run's ranking to train on, too: 1%,5%,20%."
    )
    baselines: Annotated[Words, AfterValidator(_spelled)] = option(
        default=("bm25", "embedding"), help="Method to compare with; repeatable.", flags=("--baseline",)
    )
    all_times: Annotated[Number, least(0)] = option(
        default=4.0, help="Budget of the arm on the whole pool, as a multiple of the others'; 0: no such arm."
    )
    banks: str | None = option(
        default=None,
        help="Folder in which verifications share their trainings.",
        metavar="FOLDER",
        shown="banks/ beside the run",
    )
    points: Annotated[Count, least(1)] = option(default=6, help="Points of every learning curve, beside its start.")
    model: str | None = option(default=None, help="Proxy to train: a folder or a hub id.", shown="the run's")
    device: Device | None = option(default=None, help=f"Where to train: {DEVICES}", shown="the run's")
    batch_tokens: Annotated[Count, least(1)] | None = option(
        default=None, help="Tokens of one micro-batch.", shown="by device"
    )
    allow_seen_target: Flag = option(default=False, help="Accept rows of the target that took part in scoring.")
    seed: Count = option(
        default=0, help="Seed of the sample of other text and of random draws; the recipe has its own."
    )

    def __post_init__(self) -> None:
        if self.recipe.steps is not None or self.recipe.epochs != 1:
            raise SettingsError(
                "The recipe gives steps or epochs; every arm trains on equal tokens.",
                hint="Leave them out, and say with --tokens how long to train.",
            )
        for name in self.baselines:
            methods.get(name)
        if RANDOM in self.baselines:
            raise SettingsError(
                "The baselines contain 'random', which is an arm already; expected methods.",
                hint="Leave --baseline random out.",
            )


def default_verify_out(settings: VerifySettings) -> Path | str:
    """Return where a verification goes when no folder is given: `<selection>-verified`."""
    return beside(settings.selection, "-verified")


def remember(folder: Folder, command: str, settings: "ValidateSettings | VerifySettings") -> None:
    """Write into a folder what `curate COMMAND` began it with, so that its name alone goes on with it."""
    put_json(folder, SETTINGS, {"command": command, "working_folder": os.getcwd(), "settings": asdict(settings)})


def num_dropped(units: int, drop: float, unit: str = "document") -> int:
    """Return how many documents, or tokens, a share is. Raises SettingsError for none, or all of them."""
    count = round(drop * units)
    if not 1 <= count < units:
        raise SettingsError(
            f"drop is {drop:g} of {units} {unit}s, which is {count}; a retraining leaves out some, not all.",
            hint="Raise --drop or --documents.",
        )
    return count
