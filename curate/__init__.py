"""Curate language-model training data by its measured influence on a target.

import curate

run = curate.score(target="val.jsonl", pool="pile/")
curate.select(run, top="5%", out="selected")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BenchSettings",
    "CascadeSettings",
    "CurateError",
    "IndexSettings",
    "PredictSettings",
    "Recipe",
    "RescoreSettings",
    "Run",
    "ScoreSettings",
    "Searcher",
    "Store",
    "ValidateSettings",
    "VerifySettings",
    "WarmupSettings",
    "bench",
    "cascade",
    "index",
    "latest_run",
    "make_search",
    "merge",
    "neighbours",
    "plan_cascade",
    "plan_index",
    "plan_merge",
    "plan_predict",
    "plan_rescore",
    "plan_score",
    "plan_validate",
    "plan_verify",
    "predict",
    "query",
    "recorded",
    "report",
    "rescore",
    "score",
    "select",
    "validate",
    "verify",
    "warmup",
    "why",
]

if TYPE_CHECKING:
    from curate.errors import CurateError
    from curate.pipeline.bench import run as bench
    from curate.pipeline.cascade import plan as plan_cascade
    from curate.pipeline.cascade import run as cascade
    from curate.pipeline.continuing import recorded
    from curate.pipeline.index import make_search, neighbours
    from curate.pipeline.index import plan as plan_index
    from curate.pipeline.index import run as index
    from curate.pipeline.merge import plan as plan_merge
    from curate.pipeline.merge import run as merge
    from curate.pipeline.predict import plan as plan_predict
    from curate.pipeline.predict import run as predict
    from curate.pipeline.query import run as query
    from curate.pipeline.rescore import plan as plan_rescore
    from curate.pipeline.rescore import run as rescore
    from curate.pipeline.score import plan as plan_score
    from curate.pipeline.score import run as score
    from curate.pipeline.select import run as select
    from curate.pipeline.settings import BenchSettings, CascadeSettings
    from curate.pipeline.validate import plan as plan_validate
    from curate.pipeline.validate import run as validate
    from curate.pipeline.verify import plan as plan_verify
    from curate.pipeline.verify import run as verify
    from curate.pipeline.warmup import run as warmup
    from curate.pipeline.why import run as why
    from curate.proof.settings import ValidateSettings, VerifySettings
    from curate.reports.report import report
    from curate.rescoring.settings import RescoreSettings
    from curate.score_settings import ScoreSettings
    from curate.scores.run import Run, latest_run
    from curate.stores.query import Searcher
    from curate.stores.settings import IndexSettings
    from curate.stores.store import Store
    from curate.students.settings import PredictSettings
    from curate.training.recipe import Recipe
    from curate.training.settings import WarmupSettings

_HOMES = {
    "BenchSettings": "curate.pipeline.settings",
    "CascadeSettings": "curate.pipeline.settings",
    "CurateError": "curate.errors",
    "IndexSettings": "curate.stores.settings",
    "PredictSettings": "curate.students.settings",
    "Recipe": "curate.training.recipe",
    "RescoreSettings": "curate.rescoring.settings",
    "Run": "curate.scores.run",
    "Searcher": "curate.stores.query",
    "ScoreSettings": "curate.score_settings",
    "Store": "curate.stores.store",
    "ValidateSettings": "curate.proof.settings",
    "VerifySettings": "curate.proof.settings",
    "WarmupSettings": "curate.training.settings",
    "bench": "curate.pipeline.bench:run",
    "cascade": "curate.pipeline.cascade:run",
    "index": "curate.pipeline.index:run",
    "latest_run": "curate.scores.run",
    "make_search": "curate.pipeline.index",
    "merge": "curate.pipeline.merge:run",
    "neighbours": "curate.pipeline.index",
    "plan_cascade": "curate.pipeline.cascade:plan",
    "plan_index": "curate.pipeline.index:plan",
    "plan_merge": "curate.pipeline.merge:plan",
    "plan_rescore": "curate.pipeline.rescore:plan",
    "plan_score": "curate.pipeline.score:plan",
    "plan_predict": "curate.pipeline.predict:plan",
    "plan_validate": "curate.pipeline.validate:plan",
    "plan_verify": "curate.pipeline.verify:plan",
    "predict": "curate.pipeline.predict:run",
    "query": "curate.pipeline.query:run",
    "recorded": "curate.pipeline.continuing",
    "report": "curate.reports.report",
    "rescore": "curate.pipeline.rescore:run",
    "score": "curate.pipeline.score:run",
    "select": "curate.pipeline.select:run",
    "validate": "curate.pipeline.validate:run",
    "verify": "curate.pipeline.verify:run",
    "warmup": "curate.pipeline.warmup:run",
    "why": "curate.pipeline.why:run",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is used, so that `import curate` stays instant and free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    from importlib import import_module

    home, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(home), attribute or name)


def __dir__() -> list[str]:
    """Return the public names, so that shells complete them before they are imported."""
    return sorted({*globals(), *__all__})
