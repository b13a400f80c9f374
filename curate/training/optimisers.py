"""One step of an optimiser as a pure function, and its pull-back.

A step maps parameters, gradients and moments to parameters and moments. Everything but clipping acts on each parameter
by itself, so that its pull-back is taken one parameter at a time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.errors import CurateError
from curate.proxies.devices import widest
from curate.training.recipe import Recipe

Tensors = dict[str, Tensor]
"""By parameter name."""
Moments = tuple[Tensor, ...]
"""What an optimiser remembers of one parameter: (momentum,) or (first, second)."""

# Quintic Newton-Schulz of Jordan et al. 2024 (Muon), as torch.optim.Muon has it.
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, NEWTON_SCHULZ_FLOOR = (3.4445, -4.7750, 2.0315), 5, 1e-7
# Entries of a parameter that a step takes at a time.
STRETCH = 1 << 16
# torch.nn.utils.clip_grad_norm_ adds this to the norm.
CLIP_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class State:
    """Parameters and moments before a step; or, on the way back, φ's derivatives by them."""

    step: int
    """Steps taken so far."""
    parameters: Tensors
    moments: dict[str, Moments]


def sgd(
    parameter: Tensor, gradient: Tensor, moments: Moments, *, rate: float, decay: float, momentum: float
) -> tuple[Tensor, Moments]:
    """Take a step of heavy-ball SGD with decoupled weight decay: b ← μb + g, θ ← (1 - ηλ)θ - ηb."""
    (buffer,) = moments
    buffer = momentum * buffer + gradient
    return parameter * (1 - rate * decay) - rate * buffer, (buffer,)


def adamw(
    parameter: Tensor, gradient: Tensor, moments: Moments, *, rate: float, decay: float, step: int, recipe: Recipe
) -> tuple[Tensor, Moments]:
    """Take a step of AdamW with bias correction; `step` counts from 0. Divides by √(v̂ + ε), or by √v̂ + ε."""
    first, second = moments
    first = (first * recipe.beta1).add_(gradient, alpha=1 - recipe.beta1)
    second = (second * recipe.beta2).addcmul_(gradient, gradient, value=1 - recipe.beta2)
    scale, _, reach = _scaling(second, rate=rate, step=step, recipe=recipe)
    return (parameter * (1 - rate * decay)).addcdiv_(first, scale, value=-reach), (first, second)


def adamw_back(
    gradient: Tensor,
    moments: Moments,
    after: tuple[Tensor, Moments],
    *,
    rate: float,
    decay: float,
    step: int,
    recipe: Recipe,
) -> tuple[Tensor, Tensor, Moments]:
    """Pull φ's derivatives by what `adamw` returns back to those by parameter, gradient and moments.

    With m, v the new moments and s(v) the scale, the step is -ηm/s, so that φ's derivative by m gains r = -ηθ̄/s and
    the one by v -r·m·s′/s.
    """
    moved, (by_first, by_second) = after
    first = (moments[0] * recipe.beta1).add_(gradient, alpha=1 - recipe.beta1)
    second = (moments[1] * recipe.beta2).addcmul_(gradient, gradient, value=1 - recipe.beta2)
    scale, relative, reach = _scaling(second, rate=rate, step=step, recipe=recipe)
    pulled = moved.div(scale).mul_(-reach)
    by_second = torch.addcmul(by_second, first.mul_(pulled), relative, value=-1)
    by_first = pulled.add_(by_first)
    by_gradient = (gradient * by_second).mul_(2 * (1 - recipe.beta2)).add_(by_first, alpha=1 - recipe.beta1)
    return (
        moved * (1 - rate * decay),
        by_gradient,
        (by_first.mul_(recipe.beta1), by_second.mul_(recipe.beta2)),
    )


def _scaling(second: Tensor, *, rate: float, step: int, recipe: Recipe) -> tuple[Tensor, Tensor, float]:
    """Return what AdamW divides by, its derivative by `second` in proportion to it, and what the quotient is times.

    √v̂ has no derivative where no gradient has ever been, and the parameter does not move there: it is taken as 0.
    """
    share = 1 / (1 - recipe.beta2 ** (step + 1))
    reach = rate / (1 - recipe.beta1 ** (step + 1))
    if recipe.epsilon_inside:
        squares = (second * share).add_(recipe.epsilon)
        return squares.sqrt(), (0.5 * share) / squares, reach
    root = (second * share).sqrt_()
    scale = root + recipe.epsilon
    slope = torch.where(root > 0, (0.5 * share) / root, 0)
    return scale, slope.div_(scale), reach


def muon(
    parameter: Tensor, gradient: Tensor, moments: Moments, *, rate: float, decay: float, momentum: float
) -> tuple[Tensor, Moments]:
    """Take a step of Muon for one matrix (Jordan et al. 2024): Nesterov momentum, orthogonalised by Newton-Schulz.

    The step is scaled by 0.2·√max(rows, columns), which gives its entries the size of AdamW's (Liu et al. 2025,
    arXiv 2502.16982, §2.2; `match_rms_adamw` of torch.optim.Muon).
    """
    (buffer,) = moments
    buffer = momentum * buffer + gradient
    direction = orthogonalised(gradient + momentum * buffer)
    reach = rate * 0.2 * math.sqrt(max(parameter.shape))
    return parameter * (1 - rate * decay) - reach * direction, (buffer,)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Push a matrix's singular values towards 1 by Newton-Schulz, in the matrix's own precision."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.square().sum() + NEWTON_SCHULZ_FLOOR**2).sqrt()  # a norm that has a derivative at 0, too
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def clip_scale(norm: Tensor, limit: float) -> Tensor:
    """Return what gradients are multiplied by, so that their common norm is at most `limit`."""
    return (limit / (norm + CLIP_FLOOR)).clamp(max=1.0)


@dataclass(frozen=True, kw_only=True)
class _Clipping:
    """What clipping does to a step's gradients."""

    norm: float
    """Of all gradients together; 0 where nothing is clipped, since nobody asks then."""
    scale: float
    slope: float
    """The scale's derivative by the norm."""


class Optimiser:
    """A recipe's optimiser for given parameters: which rule each follows, and the steps there and back."""

    def __init__(self, recipe: Recipe, *, steps: int, matrices: frozenset[str] = frozenset()) -> None:
        """`matrices` names the parameters that Muon orthogonalises: weights of linear layers, no embedding or head."""
        self.recipe, self.steps, self.matrices = recipe, steps, matrices
        if recipe.optimiser == "muon" and not matrices:
            raise CurateError("Muon has nothing to orthogonalise: no linear layer of the decoder is trained.")

    def start(self, parameters: Mapping[str, Tensor]) -> State:
        """Return the state before the first step: copies of the parameters, by sorted names, and moments of zero."""
        named = {n: parameters[n].detach().clone() for n in sorted(parameters)}
        moments = {n: tuple(torch.zeros_like(p) for _ in range(self._count(n))) for n, p in named.items()}
        return State(step=0, parameters=named, moments=moments)

    @torch.no_grad()
    def update(self, state: State, gradients: Tensors) -> State:
        """Take one step."""
        scale = self._clipping(gradients).scale
        parameters, moments = {}, {}
        for name, parameter in state.parameters.items():
            gradient = gradients[name] if scale == 1.0 else gradients[name] * scale
            before = (parameter, gradient, *state.moments[name])

            def step(pieces: Sequence[Tensor], name: str = name, ndim: int = parameter.ndim) -> Sequence[Tensor]:
                stepped, new_moments = self._rule(name, state.step, ndim, pieces[0], pieces[1], tuple(pieces[2:]))
                return stepped, *new_moments

            parameters[name], *remembered = self._by_entry(name, before, step)
            moments[name] = tuple(remembered)
        return State(step=state.step + 1, parameters=parameters, moments=moments)

    @torch.no_grad()
    def pull_back(self, state: State, gradients: Tensors, cotangent: State) -> tuple[State, Tensors]:
        """Turn `cotangent`, φ's derivatives by the state after a step, into those by what goes in: (state, gradients).

        The gradients count as inputs of their own here: how they follow from the parameters is not part of the step.
        """
        clipping = self._clipping(gradients)
        scale, slope = clipping.scale, clipping.slope
        parameters, moments, pulled = {}, {}, {}
        products: list[Tensor] = []
        for name, parameter in state.parameters.items():
            gradient = gradients[name] if scale == 1.0 else gradients[name] * scale
            before = (parameter, gradient, *state.moments[name])
            after = (cotangent.parameters[name], *cotangent.moments[name])

            def pull(pieces: Sequence[Tensor], name: str = name, ndim: int = parameter.ndim) -> Sequence[Tensor]:
                return self._pulled(name, state.step, ndim, pieces)

            derivatives = self._by_entry(name, (*before, *after), pull)
            parameters[name], pulled[name], moments[name] = derivatives[0], derivatives[1], tuple(derivatives[2:])
            if slope:
                wide = widest(parameter.device)
                products.append(torch.dot(derivatives[1].flatten().to(wide), gradients[name].flatten().to(wide)))
        if scale != 1.0 or slope:
            # Clipped: s(‖g‖)·g pulls back to s·q + s′·⟨g, q⟩·g/‖g‖, which ties all parameters together.
            inner = 0.0
            for product in torch.stack(products).tolist() if products else ():
                inner += product
            along = slope * inner / clipping.norm if clipping.norm else 0.0
            pulled = {n: q * scale + gradients[n] * along for n, q in pulled.items()}
        return State(step=state.step, parameters=parameters, moments=moments), pulled

    def _pulled(self, name: str, step: int, ndim: int, pieces: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return φ's derivatives by parameter, gradient and moments, given these and those by what they become.

        AdamW's are a closed form; the others' come by autograd through the rule itself.
        """
        before, after = pieces[: len(pieces) // 2 + 1], pieces[len(pieces) // 2 + 1 :]
        if self._is_adamw(name):
            by_parameter, by_gradient, by_moments = adamw_back(
                before[1],
                tuple(before[2:]),
                (after[0], tuple(after[1:])),
                rate=self.recipe.rate(step, self.steps),
                decay=self._decay(ndim),
                step=step,
                recipe=self.recipe,
            )
            return by_parameter, by_gradient, *by_moments
        leaves = [t.detach().requires_grad_() for t in before]
        with torch.enable_grad():
            stepped, new_moments = self._rule(name, step, ndim, leaves[0], leaves[1], tuple(leaves[2:]))
            return torch.autograd.grad((stepped, *new_moments), leaves, after)

    def _by_entry(
        self, name: str, tensors: Sequence[Tensor], step: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Return what `step` makes of tensors of one shape, a stretch of their entries after the other.

        All that a rule computes with a stretch then stays in a CPU's cache. Muon's matrices are taken whole.
        """
        whole = self.recipe.optimiser == "muon" and not self._is_adamw(name)
        if whole or tensors[0].device.type != "cpu" or tensors[0].numel() <= STRETCH:
            return step(tensors)
        flat = [t.reshape(-1) for t in tensors]
        outputs: list[Tensor] = []
        for start in range(0, len(flat[0]), STRETCH):
            pieces = step([t[start : start + STRETCH] for t in flat])
            outputs = outputs or [torch.empty_like(flat[0]) for _ in pieces]
            for output, piece in zip(outputs, pieces, strict=True):
                output[start : start + STRETCH] = piece
        return [output.view(tensors[0].shape) for output in outputs]

    def _rule(
        self, name: str, step: int, ndim: int, parameter: Tensor, gradient: Tensor, moments: Moments
    ) -> tuple[Tensor, Moments]:
        """Take one parameter's step, or that of a stretch of it; `ndim` is the whole parameter's."""
        recipe, rate, decay = self.recipe, self.recipe.rate(step, self.steps), self._decay(ndim)
        if self._is_adamw(name):
            return adamw(parameter, gradient, moments, rate=rate, decay=decay, step=step, recipe=recipe)
        rule = sgd if recipe.optimiser == "sgd" else muon
        return rule(parameter, gradient, moments, rate=rate, decay=decay, momentum=recipe.inertia)

    def _decay(self, ndim: int) -> float:
        return self.recipe.weight_decay if ndim >= 2 else 0.0

    def _is_adamw(self, name: str) -> bool:
        return self.recipe.optimiser == "adamw" or (self.recipe.optimiser == "muon" and name not in self.matrices)

    def _count(self, name: str) -> int:
        return 2 if self._is_adamw(name) else 1

    def _clipping(self, gradients: Tensors) -> "_Clipping":
        if self.recipe.clip is None:
            return _Clipping(norm=0.0, scale=1.0, slope=0.0)
        norm = _norm(gradients)
        leaf = torch.tensor(norm, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            scale = clip_scale(leaf, self.recipe.clip)
            (slope,) = torch.autograd.grad(scale, leaf)
        return _Clipping(norm=norm, scale=float(scale.detach()), slope=float(slope))


def _norm(gradients: Tensors) -> float:
    """Return the Euclidean norm of all gradients together, summed in float64 in an order that no file changes."""
    norms = [torch.linalg.vector_norm(gradients[n], dtype=widest(gradients[n].device)) for n in sorted(gradients)]
    return math.sqrt(sum(norm**2 for norm in torch.stack(norms).tolist()))
