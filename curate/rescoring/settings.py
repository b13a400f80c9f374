"""What a rescoring is asked for, and the runs that it starts from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.errors import CurateError, SettingsError
from curate.scores.run import Run
from curate.settings import ScoreSettings
from curate.training.checkpoints import POLICIES
from curate.training.recipe import Recipe

METHODS = ("magic",)


@dataclass(frozen=True, kw_only=True)
class RescoreSettings:
    """A shortlist of runs' best documents, and the training run on it that is differentiated."""

    runs: tuple[str, ...]
    """Folders of finished runs over one pool and target; each gives its best documents."""
    method: str = "magic"
    shortlist: int = 5000
    """The best documents of each run that are taken."""
    background: int | None = None
    """Documents drawn from the rest of the pool that are trained on, too; None: as many as the shortlist has."""
    recipe: Recipe = field(default_factory=Recipe)
    repeats: int = 1
    """Trainings in different orders of the documents, whose scores are averaged."""
    snapshot: float = 0.5
    """The step, as a share of the run, whose adjoint scores the documents once more."""
    model: str | None = None
    """Proxy that is trained; None: that of the first run."""
    pool: tuple[str, ...] = ()
    """Where the pool is now, if it has moved."""
    batch_tokens: int | None = None
    """Tokens of one micro-batch; None: by device."""
    device: str | None = None
    per_token: bool = False
    seed: int = 0
    """Seeds the background sample; the order of training has the recipe's."""
    checkpoints: str = "sqrt"
    keep_gradients: bool = True
    """Whether gradients are kept on disk for the way back, instead of being computed again."""
    accept_rough: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"Rescoring by {self.method!r}; expected {METHODS[0]!r}.")
        if not self.runs:
            raise SettingsError("A rescoring needs a run to start from.")
        for name in ("shortlist", "background", "repeats", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; expected at least 1.")
        if not 0 <= self.snapshot < 1:
            raise SettingsError(f"snapshot is {self.snapshot}; expected a share of the run, at least 0 and below 1.")
        if self.checkpoints not in POLICIES:
            raise SettingsError(f"checkpoints is {self.checkpoints!r}; expected one of {', '.join(POLICIES)}.")

    def method_settings(self) -> dict[str, Any]:
        """Return what decides the scores beside pool, target and model, for run.json."""
        names = ("shortlist", "repeats", "snapshot", "accept_rough")
        return {n: getattr(self, n) for n in names} | {"recipe": asdict(self.recipe)}


def parents_of(settings: RescoreSettings) -> list[Run]:
    """Open the runs that a rescoring starts from; see `runs_of_one_pool`."""
    return runs_of_one_pool(settings.runs)


def runs_of_one_pool(paths: Sequence[str]) -> list[Run]:
    """Open the runs; raise where one is unfinished, or two are not of one pool and target."""
    runs = [Run.open(path) for path in dict.fromkeys(paths)]
    for run in runs:
        if not run.is_finished:
            raise CurateError(f"{run.path} is not finished.", hint="Run `curate score` with its settings to its end.")
        prints, others = run.record.fingerprints, runs[0].record.fingerprints
        for what, same in (("pool", prints.pool == others.pool), ("target", prints.target == others.target)):
            if not same:
                raise SettingsError(
                    f"{run.path} and {runs[0].path} have different contents of their {what}.",
                    hint="Runs that are taken together score one pool by one target.",
                )
    return runs


def scored_like(run: Run, settings: RescoreSettings) -> ScoreSettings:
    """Return the settings of a run as they were given, changed to what the rescoring asks."""
    found = ScoreSettings.from_record(run.record.settings)
    return replace(
        found,
        store=None,
        method=settings.method,
        method_settings=settings.method_settings(),
        background=settings.background,
        model=settings.model or found.model,
        pool=settings.pool or found.pool,
        device=settings.device or found.device,
        batch_tokens=settings.batch_tokens,
        per_token=settings.per_token,
        modules=() if settings.recipe.lora_rank else found.modules,
        seed=settings.seed,
        fit_from=None,
    )


def default_rescore_out(run: Run, settings: RescoreSettings) -> Path:
    """Return where a rescoring goes when no folder is given: beside its parent, `<parent>-magic`."""
    return run.path.with_name(f"{run.name}-{settings.method}")
