"""Better directions: x ≈ (G + D)⁻¹ u from the exact Gauss-Newton product, started at and preconditioned by a fit.

x minimises ½ xᵀ(G + D)x - xᵀu, G the Gauss-Newton matrix of background documents and D the fit's damping δ per layer.
Two ways there from x = P⁻¹u at its best length, P the fitted preconditioner. (A fit on few documents can be far too
small in the directions that matter: unscaled, its objective was above that of x = 0.)

cg: conjugate gradients on one seeded subset of the background, the fastest way down. What it goes down to is that
subset's minimum, which can lie far from the background's: so the objective is watched on other documents, held out, and
where a step would raise it there, the direction goes only as far as it falls, and stops.

astra: steps x ← x + α P⁻¹(u - (G_batch + D) x), each on other seeded background documents, so that the whole background
has a say (EK-FAC-preconditioned stochastic Neumann series; Wang et al. 2025, arXiv 2507.14740). Unless a step is given,
α is the one that lowers the objective most on the held-out documents (the log needs that product anyway): it needs no
tuning, shrinks by itself as the batches' noise takes over, and never steps uphill.

The objective on held-out documents is logged after every round and must fall.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.curvature.contract import Preconditioner
from curate.curvature.gauss_newton import GaussNewton
from curate.errors import CurateError, SettingsError, nearest
from curate.gradients.directions import Directions
from curate.gradients.documents import Batching
from curate.progress import Reporter, Silent, Task
from curate.proxies.devices import sent
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded

KINDS = ("cg", "astra")
# Rounding, and a given step's noise, may raise the objective a little.
TOLERANCE = 0.01
# A relative gain below this is rounding.
GAIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """How far to refine, and on how much of the background."""

    kind: str = "cg"
    """'cg' or 'astra'."""
    rounds: int = 2
    """Largest number of rounds."""
    documents: int = 200
    """Background documents that a round works on: cg's subset, the same in every round, or one of astra's batches."""
    evaluation: int = 100
    """Other background documents, on which the objective is measured; at most a quarter of the background. With 0 it is
    measured on cg's subset, or on as many documents for astra."""
    step: float | None = None
    """astra's α, the same in every round; None: the best one on the subset, found anew in each."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(
                f"refine is {self.kind!r}; expected {' or '.join(KINDS)}.", hint=nearest(self.kind, KINDS)
            )
        for name, minimum in (("rounds", 1), ("documents", 1), ("evaluation", 0)):
            if getattr(self, name) < minimum:
                raise SettingsError(f"refinement's {name} is {getattr(self, name)}; expected at least {minimum}.")
        if self.step is not None and not 0 < self.step < float("inf"):
            raise SettingsError(f"refinement's step is {self.step}; expected a finite number above 0, or none.")
        if self.step is not None and self.kind == "cg":
            raise SettingsError(
                f"step is {self.step} with 'cg', which finds its own steps.", hint="Leave step out, or refine by astra."
            )


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Where refinement ended and how it got there."""

    directions: Directions
    """The last round's x."""
    objectives: list[list[float]]
    """½ xᵀ(G + D)x - xᵀu where it is measured, by round (the start is the first), one number per direction."""


def refine(
    directions: Directions,
    preconditioner: Preconditioner,
    proxy: Proxy,
    background: Sequence[Encoded],
    batching: Batching,
    settings: RefineSettings,
    *,
    reporter: Reporter | None = None,
) -> Refined:
    """Improve x = preconditioner.solve(u) for every direction u at once, each as if alone.

    The same settings give the same result, whatever the batches, up to rounding. Warns of directions that could not be
    improved. Raises CurateError when the objective rises by more than 1 % of its size or is not finite: such directions
    would be worse than unrefined ones.
    """
    if not background:
        raise CurateError("There are no background documents to refine on.", hint="Take a larger background.")
    reporter = reporter or Silent()
    draw = _Draw.of(len(background), settings)
    total = passed_through(len(background), settings)
    with reporter.stage(f"refine ({settings.kind})", total=total, grows="refinement") as task:
        system = _System(GaussNewton(proxy), preconditioner, background, batching, task)
        u = {n: directions[n].to(device=proxy.device, dtype=system.product.proxy.dtype) for n in proxy.tracked}
        log = _Log(settings.kind, reporter)
        solve = _conjugate_gradients if settings.kind == "cg" else _stochastic
        x = solve(u, system, draw, settings, log)
    log.close(u)
    return Refined(directions=x, objectives=log.objectives)


def passed_through(count: int, settings: RefineSettings) -> int:
    """Return how many documents all products with the exact matrix take together, of a background of `count`."""
    held_out = min(settings.evaluation, count // 4)
    subset = min(settings.documents, count - held_out)
    if settings.kind == "cg":
        return (settings.rounds + 1) * (subset + held_out)
    return settings.rounds * subset + (settings.rounds + 1) * (held_out or subset)


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """Which background documents the rounds work on, and which measure the objective."""

    fixed: tuple[int, ...]
    """Those of the objective."""
    subset: tuple[int, ...]
    """cg's."""
    fresh: Iterator[tuple[int, ...]]
    """astra's batches, without end."""

    @classmethod
    def of(cls, count: int, settings: RefineSettings) -> "_Draw":
        generator = np.random.Generator(np.random.Philox(settings.seed))
        order = generator.permutation(count)
        held_out, remaining = np.split(order, [min(settings.evaluation, count // 4)])
        subset = _sorted(remaining[: settings.documents])
        fresh = _fresh(generator, remaining, settings.documents)
        return cls(fixed=_sorted(held_out) or subset, subset=subset, fresh=fresh)


def _fresh(generator: np.random.Generator, documents: np.ndarray, size: int) -> Iterator[tuple[int, ...]]:
    """Yield batches: all documents in a random order, those that fill no batch aside; then in another."""
    while True:
        order = generator.permutation(documents)
        for start in range(0, max(1, len(order) - size + 1), size):
            yield _sorted(order[start : start + size])


def _sorted(documents: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(documents.tolist()))


class _System:
    """(G + D) over chosen documents, and its approximate inverse."""

    def __init__(
        self,
        product: GaussNewton,
        preconditioner: Preconditioner,
        background: Sequence[Encoded],
        batching: Batching,
        task: Task,
    ) -> None:
        self.product, self.preconditioner, self.task = product, preconditioner, task
        self.background, self.batching = background, batching

    def times(self, x: Directions, documents: Sequence[int]) -> Directions:
        result = self.product(x, [self.background[i] for i in documents], self.batching)
        self.task.advance(len(documents))
        return {n: g.add_(x[n], alpha=self.preconditioner.dampings[n]) for n, g in result.items()}

    def solve(self, u: Directions) -> Directions:
        """Return P⁻¹u in tensors of its own: they are written over."""
        return {n: x.to(u[n], copy=True) for n, x in self.preconditioner.solve(u).items()}


@dataclass
class _Log:
    """The objective round by round; refuses a rise."""

    kind: str
    reporter: Reporter
    objectives: list[list[float]] = field(default_factory=list)

    def add(self, x: Directions, u: Directions, residual: Directions) -> None:
        """Note ½ xᵀ(G + D)x - xᵀu = -½ xᵀ(u + r), r = u - (G + D)x."""
        values = [-0.5 * value for value in (_dot(x, u) + _dot(x, residual)).tolist()]
        number = len(self.objectives)
        shown = ", ".join(f"{value:.6g}" for value in values)
        self.reporter.note(f"{self.kind}, {f'round {number}' if number else 'start'}: objective {shown}")
        self.objectives.append(values)
        for q, value in enumerate(values):
            best = min((earlier[q] for earlier in self.objectives[:-1]), default=value)
            if not value <= best + TOLERANCE * abs(best):  # true of what is not a number, too
                raise CurateError(
                    f"Refining by {self.kind} diverges: direction {q}'s objective is {value:.6g} after round {number}"
                    f" ({self.objectives[0][q]:.6g} at the start, {best:.6g} at best), and should fall.",
                    hint="Raise the damping, lower the step (or give none), or refine on more background documents.",
                )

    def close(self, u: Directions) -> None:
        """Warn of directions that did not improve."""
        nonzero = (_dot(u, u) > 0).tolist()
        ends = zip(self.objectives[0], self.objectives[-1], strict=True)
        same = [q for q, (start, end) in enumerate(ends) if nonzero[q] and end >= start - GAIN * abs(start)]
        if same:
            self.reporter.warn(
                f"Refining by {self.kind} could not improve {len(same)} of {len(nonzero)} directions on documents held"
                " out; they stay the fit's. More background documents, or more damping, may help."
            )


def _conjugate_gradients(
    u: Directions, system: _System, draw: _Draw, settings: RefineSettings, log: _Log
) -> Directions:
    held_out = draw.fixed != draw.subset
    x, r, e = _scaled(u, 0.0), _scaled(u, 1.0), _scaled(u, 1.0)
    z = system.solve(u)
    p, size = z, _dot(r, z)
    stopped = torch.zeros(size.shape, dtype=torch.bool)
    for _ in range(settings.rounds + 1):  # the first goes along P⁻¹u: to the start, at its best length
        product = system.times(p, draw.subset)
        step = _ratio(_dot(r, p), _dot(p, product))
        shortened = torch.zeros_like(stopped)
        if held_out:
            held_out_product = system.times(p, draw.fixed)
            slope, bend = _dot(p, e), _dot(p, held_out_product)
            rises = step * (0.5 * step * bend - slope) > 0
            step = torch.where(rises, _ratio(slope, bend).clamp_min(0), step).where(~stopped, 0.0)
            stopped |= rises & bool(log.objectives)
            shortened = rises
            _add(e, -step, held_out_product)
        _add(x, step, p)
        _add(r, -step, product)
        log.add(x, u, e if held_out else r)
        if bool(stopped.all()):
            break
        z = system.solve(r)
        size, previous = _dot(r, z), size
        p = _add(z, _ratio(size, previous).where(~shortened, 0.0), p)  # conjugacy needs whole steps: start anew
    return x


def _stochastic(u: Directions, system: _System, draw: _Draw, settings: RefineSettings, log: _Log) -> Directions:
    x = system.solve(u)
    product = system.times(x, draw.fixed)
    length = _ratio(_dot(x, u), _dot(x, product))
    e = _add(_scaled(u, 1.0), -length, product)
    x = _add(_scaled(x, 0.0), length, x)
    log.add(x, u, e)
    for _ in range(settings.rounds):
        documents = next(draw.fresh)
        move = system.solve(e if documents == draw.fixed else _difference(u, system.times(x, documents)))
        product = system.times(move, draw.fixed)
        step = _ratio(_dot(move, e), _dot(move, product)).clamp_min(0)
        if settings.step is not None:
            step = torch.full_like(step, settings.step)
        _add(x, step, move)
        _add(e, -step, product)
        log.add(x, u, e)
    return x


def _scaled(u: Directions, factor: float) -> Directions:
    return {n: v * factor for n, v in u.items()}


def _difference(u: Directions, v: Directions) -> Directions:
    return {n: u[n] - v[n] for n in u}


def _dot(a: Directions, b: Directions) -> Float[Tensor, "directions"]:
    """Return ⟨a, b⟩ over all layers, direction by direction, in float64 on the CPU."""
    return torch.stack([torch.linalg.vecdot(a[n].flatten(1), b[n].flatten(1)) for n in a]).cpu().double().sum(0)


def _ratio(a: Float[Tensor, "directions"], b: Float[Tensor, "directions"]) -> Float[Tensor, "directions"]:
    """Return a / b; 0 where a direction has nothing left to gain (0 / 0)."""
    return torch.where((a == 0) & (b == 0), 0.0, a / b)


def _add(x: Directions, factors: Float[Tensor, "directions"], y: Directions) -> Directions:
    """Add factor · y to x, in place, direction by direction."""
    like = next(iter(x.values()))
    factors = sent(factors.to(like.dtype), like.device).view(-1, 1, 1)
    for name, into in x.items():
        into.addcmul_(y[name], factors)
    return x
