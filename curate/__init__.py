"""Curate language-model training data by its measured influence on a target.

import curate

run = curate.score(curate.ScoreSettings(target=("val.jsonl",), pool=("pile/",)))
curate.select(run, top="5%", out="selected")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "CurateError",
    "IndexSettings",
    "RescoreSettings",
    "Run",
    "ScoreSettings",
    "Store",
    "ValidateSettings",
    "VerifySettings",
    "index",
    "latest_run",
    "neighbours",
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
    from curate.pipeline.verbs import ScoreSettings, index, neighbours, rescore, score, validate, verify
    from curate.proof.settings import ValidateSettings, VerifySettings
    from curate.reports.report import report
    from curate.rescoring.settings import RescoreSettings
    from curate.scores.run import Run, latest_run
    from curate.selection.select import select
    from curate.stores.settings import IndexSettings
    from curate.stores.store import Store
    from curate.training.warmup import warmup

_HOMES = {
    "CurateError": "curate.errors",
    "IndexSettings": "curate.stores.settings",
    "RescoreSettings": "curate.rescoring.settings",
    "Run": "curate.scores.run",
    "ScoreSettings": "curate.settings",
    "Store": "curate.stores.store",
    "ValidateSettings": "curate.proof.settings",
    "VerifySettings": "curate.proof.settings",
    "index": "curate.pipeline.verbs",
    "latest_run": "curate.scores.run",
    "neighbours": "curate.pipeline.verbs",
    "report": "curate.reports.report",
    "rescore": "curate.pipeline.verbs",
    "score": "curate.pipeline.verbs",
    "select": "curate.selection.select",
    "validate": "curate.pipeline.verbs",
    "verify": "curate.pipeline.verbs",
    "warmup": "curate.training.warmup",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is used, so that `import curate` stays instant and free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
