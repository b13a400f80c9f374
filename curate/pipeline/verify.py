"""Training on a selection, on random documents and on others' choices, and comparing the target's loss."""

from pathlib import Path
from typing import Any

from curate.folders.local import refuse_place
from curate.pipeline import score
from curate.pipeline.workspace import load
from curate.progress import Reporter, Silent
from curate.proof.settings import VerifySettings, default_verify_out
from curate.proof.verdict import Verification
from curate.proof.verify import Verifying
from curate.settings import changed, gathered


def run(
    settings: VerifySettings | None = None,
    out: Path | str | None = None,
    *,
    plot: Path | None = None,
    reporter: Reporter | None = None,
    **values: Any,
) -> Verification:
    """Train the proxy on a selection, on random documents and on others' choices, and compare the target's loss."""
    refuse_place(out, "--out")
    refuse_place(plot, "--plot")
    settings = gathered(VerifySettings, settings, values)
    verifying = Verifying.open(settings, Path(out) if out is not None else default_verify_out(settings))
    proxy, encoder = load(changed(verifying.scoring, modules=()))
    return verifying.run(proxy, encoder, score=score.run, reporter=reporter or Silent(), plot=plot)
