from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.curvature import ekfac
from curate.curvature.contract import Preconditioner
from curate.curvature.ekfac import Ekfac
from curate.curvature.gauss_newton import GaussNewton
from curate.curvature.refine import Refined, RefineSettings, refine
from curate.errors import CurateError, SettingsError
from curate.gradients.directions import Directions
from curate.gradients.passes import Passes
from curate.progress import Silent
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy


@pytest.fixture(autouse=True)
def _exact(float64_throughout: None) -> None: ...


@cache
def proxy() -> Proxy:
    """Two tracked layers of few weights: their whole Gauss-Newton matrix can be inverted."""
    shape = {"hidden_size": 8, "intermediate_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = tiny_model("LlamaConfig", num_hidden_layers=1, vocab_size=23, **shape)
    return tiny_proxy(model, None, "*.k_proj", "*.v_proj")


@cache
def background() -> list[Encoded]:
    return random_documents([6 + i % 5 for i in range(40)], vocabulary=23, seed=3)


@cache
def fitted(damping: float = 0.3) -> Ekfac:
    return Ekfac.of(ekfac.fit(Passes(proxy(), background(), batching(budget=512))), damping=damping)


def targets(count: int = 2, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: proxy().shape(n) for n in proxy().tracked}
    return {
        n: torch.randn(count, o, i + b, generator=generator, dtype=torch.float64) for n, (o, i, b) in shapes.items()
    }


def flat(directions: Directions) -> Tensor:
    return torch.cat([directions[n].flatten(1) for n in proxy().tracked], 1)


EVERYTHING = tuple(range(40))


@cache
def dense(documents: Sequence[int] = EVERYTHING, damping: float = 0.3) -> Tensor:
    """G + D, from the product with every unit vector (which its own tests hold against whole Jacobians)."""
    like = targets(1)
    sizes = [like[n].numel() for n in proxy().tracked]
    units = torch.eye(sum(sizes), dtype=torch.float64).split(sizes, 1)
    basis = {n: u.reshape(-1, *like[n].shape[1:]) for n, u in zip(proxy().tracked, units, strict=True)}
    matrix = flat(GaussNewton(proxy())(basis, [background()[i] for i in documents], batching(budget=512)))
    deltas = fitted(damping).dampings
    return matrix + torch.diag(torch.cat([torch.full_like(v[:1].flatten(), deltas[n]) for n, v in like.items()]))


def refined(u: Directions, settings: RefineSettings, damping: float = 0.3, budget: int = 64) -> Refined:
    return refine(u, fitted(damping), proxy(), background(), batching(budget=budget), settings)


def gaps(x: Directions, u: Directions, matrix: Tensor) -> Tensor:
    """The objective above its minimum, by direction."""
    gap = flat(x) - torch.linalg.solve(matrix, flat(u).T).T
    return ((gap @ matrix) * gap).sum(1)


@pytest.mark.slow
def test_conjugate_gradients_end_at_the_dense_solve() -> None:
    u = targets()
    expected = torch.linalg.solve(dense(), flat(u).T).T
    found = refined(u, RefineSettings(rounds=45, evaluation=0))
    torch.testing.assert_close(flat(found.directions), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    objectives = -0.5 * (expected * flat(u)).sum(1)
    torch.testing.assert_close(torch.tensor(found.objectives[-1], dtype=torch.float64), objectives)


def test_directions_that_cannot_be_improved_stay_and_are_told_of() -> None:
    """Held out: the few documents whose solution is the start."""
    settings = RefineSettings(kind="astra", rounds=2, documents=20, evaluation=10)
    held_out = np.random.Generator(np.random.Philox(settings.seed)).permutation(40)[:10]
    solution = Solution(fitted().dampings, torch.linalg.inv(dense(tuple(sorted(held_out.tolist())))))
    u = targets()
    with pytest.warns(UserWarning, match="could not improve 2 of 2"):
        found = refine(u, solution, proxy(), background(), batching(budget=512), settings)
    torch.testing.assert_close(flat(found.directions), flat(solution.solve(u)))


@pytest.mark.parametrize(
    ("kind", "evaluation"),
    [("cg", 10), ("astra", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("cg", 0), ("astra", 10)))],
)
def test_the_logged_objective_is_that_of_the_iterates_and_falls(kind: str, evaluation: int) -> None:
    u, settings = targets(), RefineSettings(kind=kind, rounds=4, documents=28, evaluation=evaluation, seed=2)
    found = refined(u, settings)
    rows = torch.tensor(found.objectives)
    assert (rows.diff(dim=0) <= 0).all()
    assert (rows[-1] < rows[0]).all()
    measured = np.random.Generator(np.random.Philox(2)).permutation(40)[: evaluation or 28]
    matrix = dense(tuple(sorted(measured.tolist())))

    def objective(x: Directions) -> list[float]:
        return (0.5 * ((flat(x) @ matrix) * flat(x)).sum(1) - (flat(x) * flat(u)).sum(1)).tolist()

    assert found.objectives[-1] == pytest.approx(objective(found.directions), rel=1e-9)
    if kind == "astra" or not evaluation:  # the start has its best length on the documents that are measured
        assert all(a <= b for a, b in zip(found.objectives[0], objective(fitted().solve(u)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, 0.05])
def test_astra_on_the_whole_background_approaches_the_dense_solve_step_by_step(step: float | None) -> None:
    u = targets()
    sizes = [gaps(fitted().solve(u), u, dense())]
    for rounds in (1, 3, 9):
        settings = RefineSettings(kind="astra", rounds=rounds, evaluation=0, step=step)
        sizes.append(gaps(refined(u, settings).directions, u, dense()))
    assert (torch.stack(sizes).diff(dim=0) < 0).all()
    assert (sizes[-1] < 0.6 * sizes[0]).all()


def test_astra_on_batches_ends_nearer_to_the_whole_backgrounds_solution_than_it_began() -> None:
    u = targets()
    found = refined(u, RefineSettings(kind="astra", rounds=8, documents=15, evaluation=10))
    matrix = dense()
    assert (gaps(found.directions, u, matrix) < gaps(fitted().solve(u), u, matrix)).all()


@pytest.mark.filterwarnings("ignore:Refining by")  # few documents: not every direction gains
def test_a_direction_stops_where_conjugate_gradients_would_only_fit_their_own_documents() -> None:
    u = targets(4)
    stopping = refined(u, RefineSettings(rounds=30, documents=6, evaluation=6))
    going_on = refined(u, RefineSettings(rounds=30, documents=6, evaluation=0))
    assert len(stopping.objectives) < 31
    assert gaps(stopping.directions, u, dense()).sum() < gaps(going_on.directions, u, dense()).sum()


@pytest.mark.filterwarnings("ignore:Refining by")  # few documents: not every direction gains
@pytest.mark.parametrize("kind", ["cg", pytest.param("astra", marks=pytest.mark.slow)])
def test_directions_are_refined_as_if_alone_and_batches_change_nothing(kind: str) -> None:
    u, settings = targets(3), RefineSettings(kind=kind, rounds=3, documents=20, seed=1)
    together = refined(u, settings)
    for q in range(3):
        alone = refined({n: v[q : q + 1] for n, v in u.items()}, settings, budget=60)
        torch.testing.assert_close(flat(alone.directions), flat(together.directions)[q : q + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Refining by")  # few documents: not every direction gains
@pytest.mark.parametrize("kind", ["cg", pytest.param("astra", marks=pytest.mark.slow)])
def test_the_seed_chooses_the_documents(kind: str) -> None:
    u, settings = targets(), RefineSettings(kind=kind, rounds=2, documents=20)
    one, same = refined(u, settings), refined(u, settings)
    assert one.objectives == same.objectives
    assert flat(one.directions).equal(flat(same.directions))
    assert refined(u, replace(settings, seed=1)).objectives != one.objectives


def test_a_direction_of_nothing_stays_so() -> None:
    u = {n: torch.cat([v, torch.zeros_like(v)]) for n, v in targets(1).items()}
    for kind in ("cg", "astra"):
        found = refined(u, RefineSettings(kind=kind, rounds=2))
        assert not flat(found.directions)[1].any()
        assert flat(found.directions)[0].isfinite().all()


def test_a_step_too_long_is_an_error_with_advice() -> None:
    with pytest.raises(CurateError, match=r"diverges.*objective(.|\n)*damping.*step"):
        refined(targets(), RefineSettings(kind="astra", rounds=20, documents=40, step=30.0))


@dataclass
class Solution:
    """A preconditioner that is exact for some documents."""

    dampings: dict[str, float]
    inverse: Tensor

    def solve(self, directions: Directions) -> Directions:
        sizes = [directions[n][0].numel() for n in proxy().tracked]
        parts = (flat(directions) @ self.inverse).split(sizes, 1)
        return {n: part.view_as(directions[n]) for n, part in zip(proxy().tracked, parts, strict=True)}


@dataclass
class Broken:
    """A preconditioner that has lost its numbers."""

    dampings: dict[str, float]

    def solve(self, directions: Directions) -> Directions:
        return {n: torch.full_like(u, torch.nan) for n, u in directions.items()}


@dataclass
class Plain:
    """No preconditioning; hands its input itself back."""

    dampings: dict[str, float]

    def solve(self, directions: Directions) -> Directions:
        return directions


@pytest.mark.parametrize("kind", ["cg", "astra"])
def test_what_is_not_finite_is_an_error(kind: str) -> None:
    broken: Preconditioner = Broken(fitted().dampings)
    with pytest.raises(CurateError, match="nan after round 0"):
        refine(targets(), broken, proxy(), background(), batching(), RefineSettings(kind=kind))


def test_a_better_preconditioner_gets_further() -> None:
    u, settings = targets(), RefineSettings(rounds=3)
    plain = refine(u, Plain(fitted().dampings), proxy(), background(), batching(), settings).objectives
    assert (torch.tensor(plain).diff(dim=0) < 0).all()
    assert all(a < b for a, b in zip(refined(u, settings).objectives[-1], plain[-1], strict=True))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_every_round_is_told() -> None:
    notes = Notes()
    settings = RefineSettings(rounds=2, evaluation=0)
    found = refine(targets(1), fitted(), proxy(), background(), batching(), settings, reporter=notes)
    assert notes.notes[0] == f"cg, start: objective {found.objectives[0][0]:.6g}"
    assert notes.notes[2] == f"cg, round 2: objective {found.objectives[2][0]:.6g}"
    assert len(notes.notes) == 3


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"kind": "gc"}, "'gc'.*cg or astra"),
        ({"rounds": 0}, "rounds is 0"),
        ({"documents": 0}, "documents is 0"),
        ({"kind": "astra", "step": -1.0}, "step is -1"),
        ({"kind": "astra", "step": float("nan")}, "step is nan"),
        ({"step": 0.5}, "which finds its own steps"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], seen: str) -> None:
    with pytest.raises(SettingsError, match=seen):
        RefineSettings(**change)  # type: ignore[arg-type]


def test_no_background_is_an_error() -> None:
    with pytest.raises(CurateError, match="no background"):
        refine(targets(), fitted(), proxy(), [], batching(), RefineSettings())
