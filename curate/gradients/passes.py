"""Whole passes over a background sample through the frozen proxy, for sums over its documents.

Sums over documents (covariances, second moments of gradients) are spoilt for good by one that is not finite, and that a
document is not finite may show only below layers that have added it up already. So a pass notes such documents as it
goes, and is made once more without them; a clean background, the usual case, pays for the check alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.documents import Batching
from curate.gradients.frozen import FrozenPass, TableTaps
from curate.gradients.linear import Tap, by_sequence, tapped
from curate.gradients.tables import TableGradients
from curate.progress import Reporter, Silent
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import IGNORED, Encoded, TokenBatch, windows

FISHERS = ("sampled", "empirical")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sequence of the background: a document, or a window of one."""

    document: int
    """Its document's position in the background."""
    window: int
    encoded: Encoded


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """One batch as its taps see it, and what they note about it."""

    shape: torch.Size
    """`[sequences, tokens]`."""
    scored: Int[Tensor, "scored"]
    """Flat positions that carry loss."""
    finite: Bool[Tensor, "sequences"]
    """Taps clear a sequence's flag when its gradient is not finite in their layer."""
    norms: dict[str, Tensor] = field(default_factory=dict)
    """Norms of each sequence's inputs, by the layer that saw them first."""
    rotated_inputs: dict[str, Tensor] = field(default_factory=dict)
    """Inputs rotated by that layer, for the other layers that see the same ones."""

    def scored_of(self, x: Tensor, rows: Rows | None) -> Float[Tensor, "scored width"]:
        """Return a layer's side at the positions that carry loss."""
        if rows is None:
            return by_sequence(x, self.shape).flatten(0, 1)[self.scored]
        return x[self._is_scored[rows.tokens]]

    @cached_property
    def _is_scored(self) -> Bool[Tensor, "tokens"]:
        return torch.zeros(self.shape.numel(), dtype=torch.bool, device=self.scored.device).index_fill_(
            0, self.scored, True
        )

    def see_inputs(self, leader: str, inputs: Float[Tensor, "sequences tokens width"]) -> None:
        """Note the norms of inputs, for `check`."""
        self.norms[leader] = _norms(inputs)

    def check(self, leader: str, output_gradients: Float[Tensor, "sequences tokens width"]) -> None:
        """Clear the flags of sequences for which ‖A‖²‖G‖², which bounds all that is summed, is not finite."""
        self.finite.logical_and_(((self.norms[leader] * _norms(output_gradients)) ** 2).isfinite())


@runtime_checkable
class Sums(Protocol):
    """Sums that a pass adds to."""

    def taps(self, view: BatchView) -> Callable[[str], Tap | None]: ...


@runtime_checkable
class TableSums(Protocol):
    """Sums that take part in the tables' gradients, too, where those count."""

    def add_tables(self, gradients: TableGradients) -> None: ...


S = TypeVar("S", bound=Sums)


class Passes:
    """Run passes over a background of which each sequence (a document, or each window of a long one) is one sample.

    Sequences without a scored token have no gradient and are no samples. `fisher` says which labels the gradients
    are of: 'sampled' from the model itself, anew in every pass, or 'empirical', the data's.
    """

    def __init__(
        self,
        proxy: Proxy,
        encoded: Sequence[Encoded],
        batching: Batching,
        *,
        fisher: str = "sampled",
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> None:
        if fisher not in FISHERS:
            raise SettingsError(f"fisher is {fisher!r}; expected {' or '.join(map(repr, FISHERS))}.")
        self.frozen, self.batching, self.seed = FrozenPass(proxy), batching, seed
        self.sampled, self.reporter = fisher == "sampled", reporter or Silent()
        pieces = [
            Sample(document=i, window=w, encoded=Encoded(ids=ids, scored=scored, truncated=False))
            for i, document in enumerate(encoded)
            for w, (ids, scored) in enumerate(windows(document, batching.tokens))
        ]
        self.samples = {i: s for i, s in enumerate(pieces) if s.encoded.scored[1:].any()}
        if not self.samples:
            raise CurateError(
                f"No document of the background sample ({len(encoded)} of them) has a token that carries loss.",
                hint="Take a larger background, or look at how the pool's prompts and turns are masked.",
            )

    @property
    def num_scored(self) -> int:
        """Scored tokens of all samples."""
        return sum(s.encoded.num_scored for s in self.samples.values())

    def run(self, stage: str, number: int, make: Callable[[], S]) -> S:
        """Return the sums of one pass over the samples, and drop samples of documents that are not finite for good.

        `number` tells passes apart: each draws labels of its own. Raises CurateError when no document is left.
        """
        while True:
            sums, spoilt = self.batching.room.whole(stage, lambda: self._pass(stage, number, make()))
            if not spoilt:
                return sums
            del sums
            self._leave_out(spoilt)

    def _pass(self, stage: str, number: int, sums: S) -> tuple[S, set[int]]:
        """Add all samples up; return the documents that are not finite, too."""
        spoilt = set[int]()
        parts = {i: s.encoded for i, s in self.samples.items()}
        with self.reporter.stage(stage, total=len(self.samples), grows="background") as task:
            for batch in self.batching.batches(stage, parts):
                with self.batching.room.watched(stage, batch):
                    spoilt |= self._add(sums, batch, number)
                task.advance(len(batch))
        return sums, spoilt

    def uniforms(self, samples: Sequence[Sample], number: int, length: int) -> Float[Tensor, "sequences tokens"]:
        """Return the numbers in [0, 1) that draw the labels: functions of seed, pass, document and window alone."""
        uniforms = np.zeros((len(samples), length), np.float32)
        for sequence, sample in zip(uniforms, samples, strict=True):
            key = f"{self.seed}\0{number}\0{sample.document}\0{sample.window}".encode()
            digest = hashlib.blake2b(key, digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            tokens = len(sample.encoded.ids)
            sequence[:tokens] = generator.random(tokens, dtype=np.float32)
        return torch.from_numpy(uniforms)

    def _add(self, sums: Sums, batch: TokenBatch, number: int) -> set[int]:
        """Add a batch up; return its documents that are not finite."""
        proxy = self.frozen.proxy
        labels = batch.labels.to(proxy.device)
        view = BatchView(
            shape=batch.ids.shape,
            scored=(labels != IGNORED).flatten().nonzero().squeeze(-1),
            finite=torch.ones(len(batch), dtype=torch.bool, device=proxy.device),
        )
        samples = [self.samples[i] for i in batch.documents]
        uniforms = self.uniforms(samples, number, batch.ids.shape[1]) if self.sampled else None
        with tapped(proxy.linears, sums.taps(view)):
            losses = self.frozen.backward(batch, uniforms, self._table_taps(sums, batch, view))
        finite = (view.finite & losses.isfinite()).tolist()
        return {sample.document for sample, ok in zip(samples, finite, strict=True) if not ok}

    def _table_taps(self, sums: Sums, batch: TokenBatch, view: BatchView) -> TableTaps | None:
        if not self.frozen.tables or not isinstance(sums, TableSums):
            return None

        def add(gradients: TableGradients) -> None:
            for embedded in gradients.embedded:
                view.finite.logical_and_((_norms(embedded) ** 2).isfinite())
            sums.add_tables(gradients)

        return TableGradients.of(self.frozen, batch).taps(add)

    def _leave_out(self, documents: set[int]) -> None:
        self.samples = {i: s for i, s in self.samples.items() if s.document not in documents}
        if not self.samples:
            raise CurateError(
                "No document of the background sample has a finite gradient.",
                hint="Use --dtype float32, and check that the model itself is whole.",
            )
        self.reporter.note(f"{len(documents)} background document(s) left out: their gradient is not finite.")


def _norms(x: Float[Tensor, "sequences tokens width"]) -> Float[Tensor, "sequences"]:
    return torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
