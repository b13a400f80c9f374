"""Directional derivatives ⟨u, ∇ℓ_z⟩ of every document along some directions: exact, nothing projected.

For a linear layer with inputs A `[tokens, d_in]` (a ones column appended where it has a bias) and output gradients G
`[tokens, d_out]` the document's gradient is GᵀA, and its product with a direction U is Σ_t g_tᵀ U a_t: one product more
than the frozen pass already makes, and nothing of a document's size d_out × d_in. Several directions are multiplied
by GᵀA itself, a few sequences at a time, which costs about as much as one.

A token's score is that of the label that it is: the derivative of its own loss (see `labels`). Those of a document add
up to its own, so that no backward pass is needed beside them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.frozen import FrozenPass
from curate.gradients.head import HeadTaps
from curate.gradients.labels import Direction, moved
from curate.gradients.linear import Tap, by_sequence, linear, tapped
from curate.gradients.sketches import SketchEngine
from curate.gradients.tables import TableDirections, TableGradients
from curate.proxies.devices import products
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import TokenBatch

Directions = dict[str, Float[Tensor, "directions d_out d_in"]]
"""By tracked layer, and by table where those count; d_in counts a last column more where there is a bias."""


MANY = 2
"""From this many directions on, gradients are formed a few at a time: (T + Q)·d² instead of T·Q·d²."""
FORMED = 1 << 24
"""Numbers of formed gradients that are in memory at a time."""
NORM_DIM = 8
"""Dimensions per side of the sketch that estimates norms, to a few per cent over all layers together."""


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """The derivatives of one batch, by sequence."""

    values: Float[Tensor, "sequences directions"]
    """Directional derivatives of the loss summed over scored tokens; float32 (float64 for a float64 proxy)."""
    losses: Float[Tensor, "sequences"]
    """Loss summed over scored tokens, in nats."""
    tokens: Float[Tensor, "sequences tokens directions"] | None
    """The derivatives of every token's own loss, where requested; 0 where it carries none."""
    gradients: Float[Tensor, "sequences sketch"] | None
    """Small sketches that have the gradients' norms, to a few per cent; None when norms are exact, or not computed."""
    squares: Float[Tensor, "sequences"] | None
    """Squared norms of the gradients, where requested."""


class DirectionEngine:
    """Differentiate token batches along fixed directions, for one proxy."""

    def __init__(self, proxy: Proxy, directions: Directions) -> None:
        self.proxy, self.frozen = proxy, FrozenPass(proxy)
        self.width = next(iter(directions.values())).shape[0]
        self._sketches = SketchEngine(proxy, dim=NORM_DIM, seed=0)
        self._layers: dict[str, _Layer] = {}
        for name in proxy.tracked:
            d_out, d_in, has_bias = proxy.shape(name)
            expected = (self.width, d_out, d_in + has_bias)
            if directions[name].shape != expected:
                raise AssertionError(
                    f"{name}: direction has shape {tuple(directions[name].shape)}; expected {expected}"
                )
            u = directions[name].to(device=proxy.device, dtype=proxy.dtype)
            self._layers[name] = _Layer.of(u, has_bias=has_bias)
        self._tables = TableDirections(proxy, directions) if proxy.tables else None

    def __call__(self, batch: TokenBatch, *, exact_norms: bool = False) -> Derivatives:
        """Return a batch's derivatives, one row per sequence. Padding and masked tokens add nothing to them."""
        sequences = len(batch)
        sums = torch.zeros(sequences, self.width, **self._sums)
        squares = torch.zeros(sequences, **self._sums) if exact_norms else None
        sketches = None if exact_norms else self._sketches.empty(sequences)

        def make_tap(name: str) -> _DirectionTap | None:
            if name not in self._layers:
                return None
            sketch = None if sketches is None else self._sketches.tap(name, sketches, batch.ids.shape)
            return _DirectionTap(self._layers[name], sums, squares, sketch, batch.ids.shape)

        with tapped(self.proxy.linears, make_tap):
            losses = self._backward(batch, sums, squares)
        return Derivatives(values=sums, losses=losses, tokens=None, gradients=sketches, squares=squares)

    def by_label(self, batch: TokenBatch, *, exact_norms: bool = False) -> Derivatives:
        """Return a batch's derivatives with those of every token's own loss, from forward passes alone.

        One direction takes as many products as a backward pass along it; each further one takes as many again. There
        are no norms unless they are exact, which takes the backward pass, too.
        """
        squares = self(batch, exact_norms=True).squares if exact_norms else None
        batch = batch.to(self.proxy.device)
        tokens = torch.zeros(*batch.ids.shape, self.width, **self._sums)
        flat = tokens.view(-1, self.width)

        def add(positions: Int[Tensor, "n"], values: Float[Tensor, "n directions"]) -> None:
            flat[positions + 1] += values  # what is read at a position predicts the next token

        taps = HeadTaps(along=None if self._tables is None else self._tables.along, add=add)
        turned = [moved(self.proxy, self._direction(q), batch.ids) for q in range(self.width)]
        hidden = turned[0][0]  # the states are the same for every direction, their derivatives are not
        with products(self.proxy.settings.precision):
            losses, gradients = self.frozen.head(
                hidden.flatten(0, 1), batch.labels.flatten(), taps=taps, scored=batch.scored
            )
        assert gradients is not None
        gradients = gradients.view_as(hidden)[:, :-1].to(tokens)
        for q, (_, states) in enumerate(turned):
            tokens[:, 1:, q] += torch.linalg.vecdot(states[:, :-1].to(tokens), gradients)
        losses = losses.view(batch.ids.shape).sum(-1)
        return Derivatives(values=tokens.sum(1), losses=losses, tokens=tokens, gradients=None, squares=squares)

    @property
    def _sums(self) -> dict[str, Any]:
        """How sums are kept."""
        return {"dtype": torch.promote_types(self.proxy.dtype, torch.float32), "device": self.proxy.device}

    def _direction(self, q: int) -> Direction:
        layers = {n: (u.matrices[q], None if u.bias is None else u.bias[q]) for n, u in self._layers.items()}
        embedded = None if self._tables is None else self._tables.embedded
        return Direction(layers=layers, embedded=None if embedded is None else embedded[q])

    def _backward(self, batch: TokenBatch, sums: Tensor, squares: Tensor | None) -> Float[Tensor, "sequences"]:
        """Go through a batch; add what the tables give to the sums, and to the squares where those are wanted."""
        if self._tables is None:
            return self.frozen.backward(batch)
        here, batch = batch, batch.to(self.proxy.device)
        parts = sums.new_zeros(*batch.ids.shape, self.width)
        taps = self._tables.taps(batch, parts)
        if squares is not None:
            taps = TableGradients.of(self.frozen, here).beside(taps, squares)
        losses = self.frozen.backward(batch, taps=taps)
        sums += parts.sum(1)
        return losses


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's directions, laid out for the narrower of its two sides."""

    matrices: Float[Tensor, "directions d_out d_in"]
    bias: Float[Tensor, "directions d_out"] | None
    by_inputs: bool
    """Whether G U is multiplied by A, in the width of the inputs; else A Uᵀ by G, in the width of the outputs."""

    @classmethod
    def of(cls, directions: Float[Tensor, "directions d_out d_in"], *, has_bias: bool) -> "_Layer":
        bias = directions[:, :, -1].contiguous() if has_bias else None
        matrices = directions[:, :, :-1].contiguous() if has_bias else directions
        return cls(matrices=matrices, bias=bias, by_inputs=matrices.shape[2] < matrices.shape[1])

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """Per direction the weight that `linear` multiplies by: U `[d_out, d_in]`, or its transpose."""
        return tuple((u.T if self.by_inputs else u).contiguous() for u in self.matrices)


class _DirectionTap:
    """Keep the inputs (no copy) in the forward pass; add Σ_t g_tᵀ U a_t to the sums in the backward pass."""

    def __init__(
        self, layer: _Layer, sums: Tensor, squares: Tensor | None, sketch: Tap | None, shape: torch.Size
    ) -> None:
        self.layer, self.sums, self.squares, self.sketch, self.shape = layer, sums, squares, sketch, shape
        self.uses = 0

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> tuple[Tensor, int, Any]:
        return inputs, inputs._version, None if self.sketch is None else self.sketch.forward(inputs, rows)

    def backward(self, kept: tuple[Tensor, int, Any], output_gradients: Tensor, rows: Rows | None = None) -> None:
        inputs, version, sketched = kept
        self.uses += 1
        if self.squares is not None and self.uses > 1:
            raise CurateError(
                "The model uses a layer twice in a pass: the exact norm of its gradient is not the sum of both uses'.",
                hint="Use --normalize length or none, or leave the layer out with --modules.",
            )
        if self.sketch is not None:
            self.sketch.backward(sketched, output_gradients, rows)
        if inputs._version != version:
            raise AssertionError("the model writes over a layer's inputs")
        wide = self.sums.dtype
        a, g = by_sequence(inputs, self.shape, rows), by_sequence(output_gradients, self.shape, rows)
        if len(self.layer.matrices) >= MANY or (self.squares is not None and not _is_less_by_tokens(a, g)):
            self._through_gradients(a, g)
        else:
            self._one_by_one(a, g)
        if self.layer.bias is not None:
            self.sums += (g.to(wide) @ self.layer.bias.to(wide).T).sum(1)

    def _one_by_one(self, a: Tensor, g: Tensor) -> None:
        wide = self.sums.dtype
        source, opposite = (g, a.to(wide)) if self.layer.by_inputs else (a, g.to(wide))
        for q, weight in enumerate(self.layer.weights):
            product = linear(source, weight).to(wide)
            self.sums[:, q] += (product.flatten(1).unsqueeze(1) @ opposite.flatten(1).unsqueeze(2)).flatten()
        if self.squares is not None:
            self.squares += _squares_by_tokens(a.to(wide), g.to(wide), bias=self.layer.bias is not None)

    def _through_gradients(self, a: Tensor, g: Tensor) -> None:
        """Form GᵀA of a few sequences at a time and multiply it by all directions at once; norms are its own."""
        wide, directions = self.sums.dtype, self.layer.matrices.flatten(1)
        step = max(1, FORMED // directions.shape[1])
        for i in range(0, len(a), step):
            gradients = g[i : i + step].to(wide).transpose(1, 2) @ a[i : i + step].to(wide)
            flat = gradients.flatten(1)
            self.sums[i : i + step] += linear(flat, directions.to(wide))
            if self.squares is not None:
                self.squares[i : i + step] += torch.linalg.vecdot(flat, flat)
        if self.squares is not None and self.layer.bias is not None:
            self.squares += g.to(wide).sum(1).square().sum(1)


def _is_less_by_tokens(a: Float[Tensor, "sequences tokens d_in"], g: Float[Tensor, "sequences tokens d_out"]) -> bool:
    """Return whether ‖GᵀA‖² is cheaper as ⟨AAᵀ, GGᵀ⟩ than from the gradient itself."""
    tokens, d_in, d_out = a.shape[1], a.shape[2], g.shape[2]
    return tokens * (d_in + d_out) < d_in * d_out


def _squares_by_tokens(
    a: Float[Tensor, "sequences tokens d_in"], g: Float[Tensor, "sequences tokens d_out"], *, bias: bool
) -> Float[Tensor, "sequences"]:
    """Return ‖GᵀA‖² of each sequence as ⟨AAᵀ, GGᵀ⟩."""
    inner = a @ a.transpose(1, 2)
    return ((inner + 1 if bias else inner) * (g @ g.transpose(1, 2))).sum((1, 2))
