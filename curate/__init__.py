"""Curate language-model training data by its measured influence on a target.

import curate

run = curate.score(curate.ScoreSettings(target=("val.jsonl",), pool=("pile/",)))
curate.select(run, top="5%", out="selected")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "CurateError",
    "RescoreSettings",
    "Run",
    "ScoreSettings",
    "ValidateSettings",
    "VerifySettings",
    "latest_run",
    "report",
    "rescore",
    "score",
    "select",
    "validate",
    "verify",
    "warmup",
]

if TYPE_CHECKING:
    from curate.errors import CurateError
    from curate.pipeline import ScoreSettings, rescore, score, validate, verify
    from curate.proof.settings import ValidateSettings, VerifySettings
    from curate.reports.report import report
    from curate.rescoring.settings import RescoreSettings
    from curate.scores.run import Run, latest_run
    from curate.selection.select import select
    from curate.training.warmup import warmup

_HOMES = {
    "CurateError": "curate.errors",
    "RescoreSettings": "curate.rescoring.settings",
    "Run": "curate.scores.run",
    "ScoreSettings": "curate.settings",
    "ValidateSettings": "curate.proof.settings",
    "VerifySettings": "curate.proof.settings",
    "latest_run": "curate.scores.run",
    "report": "curate.reports.report",
    "rescore": "curate.pipeline",
    "score": "curate.pipeline",
    "select": "curate.selection.select",
    "validate": "curate.pipeline",
    "verify": "curate.pipeline",
    "warmup": "curate.training.warmup",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is used, so that `import curate` stays instant and free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
