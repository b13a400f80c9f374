"""The runs that a rescoring starts from, or that a validation judges."""

from collections.abc import Sequence
from pathlib import Path

from curate.errors import CurateError, SettingsError
from curate.folders.local import beside
from curate.rescoring.settings import RescoreSettings
from curate.score_settings import NARROWING, ScoreSettings
from curate.scores.run import Run, latest_run
from curate.settings import changed


def latest_where_none(runs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the runs, or the latest under runs/ where none is given. Raises CurateError where there is none."""
    return runs or (latest_run().address,)


def parents_of(settings: RescoreSettings) -> list[Run]:
    """Open the runs that a rescoring starts from; see `runs_of_one_pool`."""
    return runs_of_one_pool(settings.runs)


def runs_of_one_pool(paths: Sequence[str]) -> list[Run]:
    """Open the runs. Raises CurateError for an unfinished one, or for two of different pools or targets."""
    runs = [Run.open(path) for path in dict.fromkeys(paths)]
    for run in runs:
        if not run.is_finished:
            raise CurateError(
                f"{run.address} is not finished.", hint="Run `curate score` with its settings to its end."
            )
        fingerprints, first_fingerprints = run.record.fingerprints, runs[0].record.fingerprints
        for what, is_same in (
            ("pool", fingerprints.pool == first_fingerprints.pool),
            ("target", fingerprints.target == first_fingerprints.target),
        ):
            if not is_same:
                raise SettingsError(
                    f"{run.address} and {runs[0].address} have different contents of their {what}; expected the same.",
                    hint="Give runs that score one pool by one target.",
                )
    return runs


def scored_like(run: Run, settings: RescoreSettings) -> ScoreSettings:
    """Return the settings of a run as they were given, changed for the rescoring."""
    recorded = ScoreSettings.from_record(run.located_settings)
    return changed(
        recorded,
        store=None,
        method=settings.method,
        method_settings=settings.method_settings(),
        background=settings.background,
        model=settings.model or recorded.model,
        pool=settings.pool or recorded.pool,
        device=settings.device or recorded.device,
        batch_tokens=settings.batch_tokens,
        per_token=settings.per_token,
        modules=() if settings.recipe.lora_rank else recorded.modules,
        seed=settings.seed,
        fit_from=None,
        check=None,
        **NARROWING,
    )


def default_rescore_out(run: Run, settings: RescoreSettings) -> Path | str:
    """Return where a rescoring goes when no folder is given: beside its parent, `<parent>-magic`."""
    return beside(run.address, f"-{settings.method}")
