"""Training on a selection, on random documents and on others' choices, and comparing the target's loss."""

from functools import partial
from pathlib import Path
from typing import Any

from curate import executors
from curate.folders.local import refuse_place
from curate.pipeline import score
from curate.pipeline.workspace import load
from curate.progress import Reporter, Silent
from curate.proof.cost import VerifyPlan
from curate.proof.settings import VerifySettings, default_verify_out
from curate.proof.verdict import Verification
from curate.proof.verify import Verifying
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoder
from curate.settings import changed, gathered


def run(
    settings: VerifySettings | None = None,
    out: Path | str | None = None,
    *,
    plot: Path | str | None = None,
    workers: int | str = 1,
    executor: str | None = None,
    reporter: Reporter | None = None,
    **values: Any,
) -> Verification:
    """Train the proxy on a selection, on random documents and on others' choices, and compare the target's loss.

    `workers` and `executor` are those of `score`: trainings, and the scoring of baselines, share them.
    """
    refuse_place(plot, "--plot")
    reporter = reporter or Silent()
    choice = executors.choose(executor, workers=workers, is_shared=False)
    verifying, proxy, encoder = _opened(gathered(VerifySettings, settings, values), out, reporter)
    score_run = partial(score.run, workers=workers, executor=executor)
    return verifying.run(proxy, encoder, choice, score=score_run, reporter=reporter, plot=plot)


def plan(
    settings: VerifySettings | None = None,
    out: Path | str | None = None,
    *,
    reporter: Reporter | None = None,
    **values: Any,
) -> VerifyPlan:
    """Say what a verification will take, from one step that is measured; nothing is written."""
    reporter = reporter or Silent()
    verifying, proxy, encoder = _opened(gathered(VerifySettings, settings, values), out, reporter)
    return verifying.plan(proxy, encoder, score=score.run, reporter=reporter)


def _opened(settings: VerifySettings, out: Path | str | None, reporter: Reporter) -> tuple[Verifying, Proxy, Encoder]:
    refuse_place(out, "--out")
    refuse_place(settings.banks, "--banks")
    verifying = Verifying.open(settings, out if out is not None else default_verify_out(settings), reporter)
    return verifying, *load(changed(verifying.scoring, modules=()))
