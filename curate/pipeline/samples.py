"""A small seeded part of everything that a run works on, for what is tried before or beside it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from curate.documents import Pool, sample_rows
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.folders.tensors import TENSORS
from curate.methods.contract import EncodedTarget, Inputs
from curate.progress import Reporter, Silent
from curate.proxies.settings import PassSettings
from curate.proxies.tokens import Encoded, Encoder

SAMPLE = 64  # documents that are scored, and as many others that curvature is fitted on
TARGET_ROWS = 32


def draw(
    inputs: Inputs, pool: Pool, settings: PassSettings, *, background: int = SAMPLE
) -> tuple[list[Encoded], list[Encoded]]:
    """Return what is scored and what curvature is fitted on; they overlap only in a pool that is small."""
    drawn = sample_rows(pool, SAMPLE + background, settings.seed, settings.fields)
    random.Random(f"{settings.seed}:arithmetic").shuffle(drawn)
    encoded = Encoder(inputs.proxy.tokenizer, inputs.batching.tokens)(drawn)
    usable = [e for e in encoded if e.num_scored > 0]
    return usable[:SAMPLE], usable[-background:]


def part_of(inputs: Inputs, background: Sequence[Encoded], scratch: Path, seed: int, reporter: Reporter) -> Inputs:
    """Return small inputs of the same kind, which leave no trace in the run."""
    return replace(
        inputs,
        target=rows_of(inputs.target, seed),
        against=None if inputs.against is None else rows_of(inputs.against, seed),
        background=lambda: background,
        background_fingerprint="sample",
        kept=Kept(open_folder(scratch), TENSORS),
        reporter=reporter,
        per_token=False,
        record=lambda _: None,
    )


def rows_of(target: EncodedTarget, seed: int) -> EncodedTarget:
    """Return at most TARGET_ROWS rows of a target, at least one of every group."""
    order = list(range(len(target.encoded)))
    random.Random(f"{seed}:arithmetic").shuffle(order)
    first = set({target.groups[i]: i for i in reversed(order)}.values())
    others = [i for i in order if i not in first]
    rows = sorted([*first, *others[: max(0, TARGET_ROWS - len(first))]])
    return replace(
        target,
        encoded=[target.encoded[i] for i in rows],
        groups=[target.groups[i] for i in rows],
        fingerprint=f"{target.fingerprint}:sample",
    )


class Quiet(Silent):
    """Says nothing: what the sample meets, the run meets again and reports itself."""

    def warn(self, message: str) -> None: ...
