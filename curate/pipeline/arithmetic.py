"""The check that a compute type narrower than float32 keeps the ranking: a sample is scored in both, and compared.

Rounding can turn scores into noise without a sign of it. So the whole chain (model, curvature, target, scores) is run
twice on a small seeded part of everything, once in the run's type and once in float32, and the two rankings of the same
documents are compared. The figure is kept in run.json; how it is told is in `scores.arithmetic`.
"""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from curate.documents import Pool
from curate.errors import CurateError, SettingsError
from curate.folders.kept import Kept
from curate.folders.part_folder import PartFolder
from curate.folders.tensors import TENSORS
from curate.memory import release_memory
from curate.methods.contract import Inputs, Method
from curate.pipeline.samples import Quiet, draw, part_of
from curate.proxies.devices import choose_device
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import PassSettings
from curate.proxies.tokens import Encoded
from curate.scores.arithmetic import LEAST, arithmetic_note, arithmetic_warning
from curate.scores.correlation import spearman

REFERENCE = "float32"


def check_arithmetic(
    run: PartFolder,
    method: Method,
    method_settings: Any,
    inputs: Inputs,
    pool: Pool,
    settings: PassSettings,
    columns: Sequence[str],
    *,
    least: float = LEAST,
) -> None:
    """Compare a sample's scores in the run's type with float32's, keep the figure in its record, warn where it is low.

    `run` may be a gradient store, too.

    Does nothing in float32 and float64, for methods that compute nothing with the proxy, and where the run's record
    has it already (it warns again then). A check that cannot be made is a warning, too, and no error.
    """
    checked = run.record.details.arithmetic
    if checked is None or checked.failed is not None:
        dtype = inputs.proxy.settings.dtype
        if dtype in ("float32", "float64") or "model" not in method.NEEDS:
            return
        try:
            figures = _compare(method, method_settings, inputs, pool, settings, columns)
        except SettingsError:
            raise  # what cannot work at all is for the user to hear
        except (CurateError, torch.OutOfMemoryError) as error:
            figures = {"failed": str(error).splitlines()[0]}
        if figures is None:
            return
        run.add_details(arithmetic={"dtype": dtype, "reference": REFERENCE, "least": least, **figures})
        if note := arithmetic_note(run.record.details):
            inputs.reporter.note(note)
    if warning := arithmetic_warning(run.record.details):
        inputs.reporter.warn(warning)


def _compare(
    method: Method,
    method_settings: Any,
    inputs: Inputs,
    pool: Pool,
    settings: PassSettings,
    columns: Sequence[str],
) -> dict[str, Any] | None:
    sample, background = draw(inputs, pool, settings)
    if not sample:
        return None
    with TemporaryDirectory() as scratch, inputs.reporter.stage("arithmetic", total=2 * len(sample)) as stage:
        small = part_of(inputs, lambda: background, Path(scratch) / inputs.proxy.settings.dtype, settings.seed, Quiet())
        ours = _scores(method, method_settings, small, sample)
        stage.advance(len(sample))
        theirs = _reference_scores(method, method_settings, small, sample)
        stage.advance(len(sample))
    here, there = np.isfinite(ours).all(1), np.isfinite(theirs).all(1)
    both = here & there
    pairs = zip(columns, ours[both].T, theirs[both].T, strict=True)
    return {
        "documents": int(both.sum()),
        "lost": int((there & ~here).sum()),
        "background": len(background),
        "target": len(small.target.encoded),
        "spearman": {column: spearman(a, b) for column, a, b in pairs},
    }


def _scores(method: Method, method_settings: Any, inputs: Inputs, sample: Sequence[Encoded]) -> np.ndarray:
    scorer = method.prepare(inputs, method_settings)
    return scorer(sample, inputs.batching).scores.cpu().double().numpy()


def _reference_scores(method: Method, method_settings: Any, inputs: Inputs, sample: Sequence[Encoded]) -> np.ndarray:
    """Load the proxy anew, so that weights that the run's type rounds are whole; give its memory back afterwards."""
    ours = inputs.proxy
    if ours.device.type != "cpu":
        ours.model.to("cpu")  # type: ignore[arg-type]  # so that the device never holds both
    try:
        return _scores_in_reference(method, method_settings, inputs, sample)
    finally:
        ours.model.to(choose_device(ours.settings.device))  # type: ignore[arg-type]


def _scores_in_reference(method: Method, method_settings: Any, inputs: Inputs, sample: Sequence[Encoded]) -> np.ndarray:
    proxy = load_proxy(replace(inputs.proxy.settings, dtype=REFERENCE, precision=REFERENCE))
    kept = Kept(inputs.kept.folder.child(REFERENCE), TENSORS)
    whole = replace(
        inputs,
        proxy=proxy,
        proxy_fingerprint=f"{inputs.proxy_fingerprint}:{REFERENCE}",
        kept=kept,
        checkpoints=[replace(c, settings=proxy.settings) for c in inputs.checkpoints],
    )
    try:
        return _scores(method, method_settings, whole, sample)
    finally:
        del proxy, whole
        gc.collect()
        release_memory(inputs.proxy.device)
