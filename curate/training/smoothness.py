"""Measure whether a training run is smooth enough in its documents' weights for its derivatives to mean anything."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from curate.proxies.devices import widest
from curate.training.microbatches import Corpus
from curate.training.optimisers import State, Tensors
from curate.training.replay import Replay, Training

LEAST_AGREEMENT = 0.5
"""Do not trust the derivatives of a run below this: a smooth run has nearly 1, chaos 0 or less."""
SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """How a run answers two steps in the same direction of weights."""

    agreement: float
    """In [-1, 1]: 1 when every parameter moves the second time as it moved the first time.

    In chaos 0 or below: of three unrelated ends the middle one's two differences point apart."""
    movement: float
    """The norm of the first answer over that of the whole training: how much the weights mattered."""


def smoothness(
    training: Training,
    *,
    size: float = 0.1,
    seed: int = 0,
    start: State | None = None,
    until: int | None = None,
    end: State | None = None,
) -> Smoothness:
    """Train at weights w, w + hv and w + 2hv, v random signs per document, and compare the two answers.

    With Δ₁, Δ₂ the successive differences of the parameters: Σ |Δ₁| sign(Δ₁) sign(Δ₂) / Σ |Δ₁|, the empirical
    metasmoothness of Engstrom et al. 2025 (arXiv 2503.13751, §4). `start` and `until` limit it to a part of the run,
    such as from a checkpoint on; `end`, the run's own end there, saves one of the three trainings.
    """
    corpus = training.corpus
    start = start or training.start()
    signs = corpus.spread(_signs(corpus, seed))
    ends = [(end or training.run(start, until=until)).parameters]
    del end  # its moments are not needed
    for distance in (size, 2 * size):
        weights = (torch.ones_like(signs) if training.weights is None else training.weights) + distance * signs
        moved = Training(training.model, corpus, training.recipe, weights=weights)
        ends.append(moved.run(start, until=until).parameters)
    first, second = (_minus(b, a, start.parameters) for a, b in pairwise(ends))
    whole = _minus(ends[0], start.parameters, start.parameters)
    return Smoothness(agreement=_agreement(first, second), movement=_norm(first) / max(_norm(whole), 1e-300))


def short_smoothness(replay: Replay, *, seed: int = 0) -> Smoothness:
    """Measure a finished run over a quarter of its steps, from the peak of its learning rate on, where it is roughest.

    It starts after the first quarter: AdamW's first steps are mere signs of gradients, which small changes do not move.
    Costs half as much as training once: the folder holds the original steps.
    """
    training = replay.training
    length = short_steps(training.steps)
    begin = min(max(length, training.recipe.warmup_steps(training.steps)), training.steps - length)
    end = replay.state_at(begin + length)
    return smoothness(training, seed=seed, start=replay.state_at(begin), until=begin + length, end=end)


def short_steps(steps: int) -> int:
    """Return how many of a run's steps `short_smoothness` takes again, twice."""
    return min(steps, max(2, math.ceil(SHARE * steps)))


def _signs(corpus: Corpus, seed: int) -> torch.Tensor:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(corpus))
    return torch.from_numpy(signs)


def _minus(after: Tensors, before: Tensors, start: Tensors) -> Tensors:
    """Return the parameters' differences; 0 for those that were no number at the start (an unused token's)."""
    holes = {n: p.isnan() for n, p in start.items()}
    return {n: (p - before[n]).masked_fill(holes[n], 0) for n, p in after.items()}


def _agreement(first: Tensors, second: Tensors) -> float:
    total = _sum(d.abs().sum(dtype=widest(d.device)) for d in first.values())
    same = _sum((d * second[n].sign()).sum(dtype=widest(d.device)) for n, d in first.items())
    return same / total if total else 1.0


def _norm(difference: Tensors) -> float:
    norms = [torch.linalg.vector_norm(d, dtype=widest(d.device)) for d in difference.values()]
    return math.sqrt(sum(norm**2 for norm in torch.stack(norms).tolist()))


def _sum(numbers: Iterable[torch.Tensor]) -> float:
    return sum(torch.stack(list(numbers)).tolist())
