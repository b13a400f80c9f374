"""A small seeded part of everything that a run works on, for what is tried before or beside it."""

import random
from collections.abc import Callable, Sequence
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
from curate.schema import Document

SAMPLE = 64  # documents that are scored, and as many others that curvature is fitted on
TARGET_ROWS = 32


def draw(inputs: Inputs, pool: Pool, settings: PassSettings) -> tuple[list[Encoded], list[Encoded]]:
    """Return what is scored and what curvature is fitted on; they overlap only in a pool that is small."""
    encoded = Encoder(inputs.proxy.tokenizer, inputs.batching.tokens)(drawn(pool, settings, 2 * SAMPLE))
    return apart(encoded, SAMPLE)


def drawn(pool: Pool, settings: PassSettings, count: int) -> list[Document]:
    """Return so many documents of a pool in an order of no meaning."""
    documents = sample_rows(pool, count, settings.seed, settings.fields)
    random.Random(f"{settings.seed}:arithmetic").shuffle(documents)
    return documents


def apart(encoded: Sequence[Encoded], background: int) -> tuple[list[Encoded], list[Encoded]]:
    """Return the documents that are scored, and as many as are wanted for the background."""
    usable = [e for e in encoded if e.num_scored > 0]
    return usable[:SAMPLE], usable[-background:]


def part_of(
    inputs: Inputs, background: Callable[[], Sequence[Encoded]], scratch: Path, seed: int, reporter: Reporter
) -> Inputs:
    """Return small inputs of the same kind, which leave no trace in the run."""
    return replace(
        inputs,
        target=rows_of(inputs.target, seed),
        against=None if inputs.against is None else rows_of(inputs.against, seed),
        background=background,
        background_fingerprint="sample",
        kept=Kept(open_folder(scratch), TENSORS),
        reporter=reporter,
        per_token=False,
        record=lambda _: None,
        whole=None,
        runner=None,
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
