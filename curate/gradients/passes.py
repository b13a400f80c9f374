"""Whole passes over a background sample through the frozen proxy, for sums over its documents.

Sums over documents (covariances, second moments of gradients) are spoilt for good by one that is not finite, and that a
document is not finite may show only below layers that have added it up already. So a pass notes such documents as it
goes, and is made once more without them; a clean background, the usual case, pays for the check alone.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from curate.gradients.slices import OpenSlices, SliceRunner, Tensors, Totals, cut, runner_here
from curate.gradients.tables import TableGradients
from curate.jobs import Advance
from curate.progress import Reporter, Silent
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch, windows

FISHERS = ("sampled", "empirical")
SPOILT = "spoilt"
"""The name of the documents that are not finite, among the sums of a slice."""


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

    def tensors(self) -> Tensors:
        """Return the sums themselves by name: they are written to, and slices' sums of one name are added up."""
        ...


@runtime_checkable
class TableSums(Protocol):
    """Sums that take part in the tables' gradients, too, where those count."""

    def add_tables(self, gradients: TableGradients) -> None: ...


S = TypeVar("S", bound=Sums)


@dataclass(frozen=True, kw_only=True)
class PassWork:
    """One pass over the samples of a slice: its sums, and under SPOILT the documents that are not finite."""

    stage: str
    number: int
    layers: tuple[str, ...]
    tables: tuple[str, ...]
    sampled: bool
    seed: int
    make: Callable[[Proxy, Tensors], Sums]

    def open(self, proxy: Proxy, batching: Batching, state: Tensors) -> OpenSlices:
        """Return what adds up slices, each from nothing."""
        proxy = replace(proxy, tracked=self.layers, tables=self.tables)
        return _OpenPass(self, FrozenPass(proxy), batching, self.make(proxy, state))


class _OpenPass:
    def __init__(self, work: PassWork, frozen: FrozenPass, batching: Batching, sums: Sums) -> None:
        self.work, self.frozen, self.batching, self.sums = work, frozen, batching, sums

    def __call__(self, samples: Mapping[int, Sample], advance: Advance) -> Tensors:
        room, advanced = self.batching.room, list[int]()
        room.begin_anew(self.work.stage)

        def attempt() -> Tensors:
            if advanced:
                advance(-sum(advanced))
                advanced.clear()
            return self._added(samples, lambda count: (advanced.append(count), advance(count)))

        return room.whole(self.work.stage, attempt)

    def _added(self, samples: Mapping[int, Sample], advance: Callable[[int], object]) -> Tensors:
        spoilt = set[int]()
        for total in self.sums.tensors().values():
            total.zero_()
        encoded = {i: s.encoded for i, s in samples.items()}
        for batch in self.batching.batches(self.work.stage, encoded):
            with self.batching.room.watched(self.work.stage, batch):
                spoilt |= self._add(batch, [samples[i] for i in batch.documents])
            advance(len(batch))
        return {**self.sums.tensors(), SPOILT: torch.tensor(sorted(spoilt), dtype=torch.int64)}

    def _add(self, batch: TokenBatch, samples: Sequence[Sample]) -> set[int]:
        """Add a batch up; return its documents that are not finite."""
        proxy, work = self.frozen.proxy, self.work
        moved = batch.to(proxy.device)
        view = BatchView(
            shape=batch.ids.shape,
            scored=moved.scored,
            finite=torch.ones(len(batch), dtype=torch.bool, device=proxy.device),
        )
        drawn = uniforms(work.seed, work.number, samples, batch.ids.shape[1]) if work.sampled else None
        with tapped(proxy.linears, self.sums.taps(view)):
            losses = self.frozen.backward(moved, drawn, self._table_taps(batch, view))
        finite = (view.finite & losses.isfinite()).tolist()
        return {sample.document for sample, ok in zip(samples, finite, strict=True) if not ok}

    def _table_taps(self, batch: TokenBatch, view: BatchView) -> TableTaps | None:
        sums = self.sums
        if not self.frozen.tables or not isinstance(sums, TableSums):
            return None

        def add(gradients: TableGradients) -> None:
            for embedded in gradients.embedded:
                view.finite.logical_and_((_norms(embedded) ** 2).isfinite())
            sums.add_tables(gradients)

        return TableGradients.of(self.frozen, batch).taps(add)


def uniforms(seed: int, number: int, samples: Sequence[Sample], length: int) -> Float[Tensor, "sequences tokens"]:
    """Return the numbers in [0, 1) that draw the labels: functions of seed, pass, document and window alone."""
    values = np.zeros((len(samples), length), np.float32)
    for sequence, sample in zip(values, samples, strict=True):
        key = f"{seed}\0{number}\0{sample.document}\0{sample.window}".encode()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        tokens = len(sample.encoded.ids)
        sequence[:tokens] = generator.random(tokens, dtype=np.float32)
    return torch.from_numpy(values)


class Passes:
    """Run passes over a background of which each sequence (a document, or each window of a long one) is one sample.

    Sequences without a scored token have no gradient and are no samples. `fisher` says which labels the gradients
    are of: 'sampled' from the model itself, anew in every pass, or 'empirical', the data's. `runner` says who does the
    slices of a pass; None: this process.
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
        runner: SliceRunner | None = None,
    ) -> None:
        if fisher not in FISHERS:
            raise SettingsError(f"fisher is {fisher!r}; expected {' or '.join(map(repr, FISHERS))}.")
        self.proxy, self.seed = proxy, seed
        self.sampled, self.reporter = fisher == "sampled", reporter or Silent()
        self.runner = runner or runner_here(proxy, batching)
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

    def run(self, stage: str, number: int, make: Callable[[Proxy, Tensors], S], state: Tensors | None = None) -> S:
        """Return the sums of one pass over the samples, and drop samples of documents that are not finite for good.

        `number` tells passes apart: each draws labels of its own. `make` pickles; it is given the proxy and `state`,
        the tensors of earlier passes. Raises CurateError when no document is left.
        """
        work = PassWork(
            stage=stage,
            number=number,
            layers=self.proxy.tracked,
            tables=self.proxy.tables,
            sampled=self.sampled,
            seed=self.seed,
            make=make,
        )
        while True:
            totals, spoilt = self._pass(work, state or {})
            if not spoilt:
                break
            del totals
            self._leave_out(spoilt)
        sums = make(self.proxy, state or {})
        for name, total in sums.tensors().items():
            total.copy_(totals.tensors.pop(name).to(total.dtype))
        return sums

    def _pass(self, work: PassWork, state: Tensors) -> tuple[Totals, set[int]]:
        """Add all samples up; return the documents that are not finite, too."""
        totals, spoilt = Totals(), set[int]()

        def take(result: Tensors) -> None:
            spoilt.update(result[SPOILT].tolist())
            if not spoilt:
                totals.add({name: part for name, part in result.items() if name != SPOILT})

        lengths = {i: len(s.encoded.ids) for i, s in self.samples.items()}
        slices = [{i: self.samples[i] for i in members} for members in cut(lengths)]
        with self.reporter.stage(work.stage, total=len(self.samples), grows="background") as task:
            self.runner(work, slices, take, task, state)
        return totals, spoilt

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
