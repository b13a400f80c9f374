import math
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.errors import CurateError
from curate.training import optimisers
from curate.training.optimisers import Optimiser, State, orthogonalised
from curate.training.recipe import Recipe

RECIPES = {
    "sgd": Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=0.3),
    "adamw": Recipe(learning_rate=0.1, epsilon=1e-6, weight_decay=0.3),
    "adamw, epsilon outside": Recipe(learning_rate=0.1, epsilon=1e-6, epsilon_inside=False, weight_decay=0.3),
    "muon": Recipe(optimiser="muon", learning_rate=0.1, weight_decay=0.3),
    "clipped": Recipe(learning_rate=0.1, epsilon=1e-6, clip=1.0),
    "clipped, but not yet": Recipe(learning_rate=0.1, epsilon=1e-6, clip=1000.0),
}


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (3, 5), "tall": (6, 2), "bias": (4,)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def optimiser(recipe: Recipe) -> Optimiser:
    return Optimiser(recipe, steps=4, matrices=frozenset({"matrix", "tall"}))


def state_after(rule: Optimiser, steps: int) -> State:
    state = rule.start(tensors(0))
    for k in range(steps):
        state = rule.update(state, tensors(k + 1))
    return state


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_pull_back_is_the_transpose_of_the_steps_derivative(recipe: Recipe) -> None:
    rule = optimiser(recipe)
    state, gradients = _random_like(state_after(rule, 2), 10), tensors(9)
    after = _random_like(rule.update(state, gradients), 20)
    before, pulled = rule.pull_back(state, gradients, after)
    moved, turned = _random_like(state, 30), tensors(40)
    derivative = 0.0
    for sign, size in ((1, 1e-6), (-1, 1e-6)):
        there = rule.update(
            _plus(state, moved, sign * size), {n: g + sign * size * turned[n] for n, g in gradients.items()}
        )
        derivative += sign * _inner(after, there) / (2 * size)
    expected = _inner(before, moved) + sum(float((pulled[n] * turned[n]).sum()) for n in pulled)
    assert derivative == pytest.approx(expected, rel=1e-6)


def test_adamw_and_clipping_are_torchs() -> None:
    recipe = Recipe(learning_rate=0.1, epsilon=1e-3, epsilon_inside=False, weight_decay=0.3, clip=2.0, warmup=2)
    state = state_after(optimiser(recipe), 4)
    ours = {n: torch.nn.Parameter(p) for n, p in tensors(0).items()}
    groups = [
        {"params": [ours["matrix"], ours["tall"]], "weight_decay": 0.3},
        {"params": [ours["bias"]], "weight_decay": 0.0},
    ]
    torchs = torch.optim.AdamW(groups, lr=0.1, eps=1e-3)
    for k in range(4):
        for group in torchs.param_groups:
            group["lr"] = recipe.rate(k, 4)
        for name, gradient in tensors(k + 1).items():
            ours[name].grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(ours.values(), 2.0)
        torchs.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(state.parameters[name], parameter.detach(), rtol=1e-10, atol=1e-12)


def test_muon_moves_matrices_as_torchs_does_and_the_rest_by_adamw() -> None:
    recipe = Recipe(optimiser="muon", learning_rate=0.1, weight_decay=0.3, schedule="constant", warmup=0)
    state = state_after(optimiser(recipe), 1)
    matrix = torch.nn.Parameter(tensors(0)["matrix"])
    matrix.grad = tensors(1)["matrix"]
    torch.optim.Muon([matrix], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw").step()
    # torch iterates in bfloat16.
    torch.testing.assert_close(state.parameters["matrix"], matrix.detach(), rtol=0, atol=5e-3)
    adamw = state_after(optimiser(Recipe(learning_rate=0.1, schedule="constant", warmup=0)), 1)
    assert torch.equal(state.parameters["bias"], adamw.parameters["bias"])


def test_orthogonalised_matrices_have_singular_values_around_one() -> None:
    for shape in ((5, 8), (8, 5)):
        found = torch.linalg.svdvals(orthogonalised(torch.randn(shape, dtype=torch.float64)))
        assert float(found.min()) > 0.5
        assert float(found.max()) < 1.5


def test_muon_without_matrices_is_refused() -> None:
    with pytest.raises(CurateError, match="nothing to orthogonalise"):
        Optimiser(Recipe(optimiser="muon"), steps=3)


@pytest.mark.parametrize("inside", [True, False])
def test_entries_that_never_had_a_gradient_have_finite_derivatives(inside: bool) -> None:
    rule = optimiser(Recipe(epsilon_inside=inside, epsilon=1e-8, weight_decay=0.0))
    state = rule.start(tensors(0))
    gradients = {n: torch.zeros_like(p) for n, p in state.parameters.items()}
    after = rule.update(state, gradients)
    assert all(torch.equal(after.parameters[n], p) for n, p in state.parameters.items())
    _, pulled = rule.pull_back(state, gradients, _random_like(after, 1))
    assert all(math.isfinite(float(u.abs().sum())) for u in pulled.values())


def _random_like(state: State, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return 0.1 + torch.rand(like.shape, generator=generator, dtype=like.dtype)  # second moments stay positive

    moments = {n: tuple(draw(m) for m in ms) for n, ms in state.moments.items()}
    return State(step=state.step, parameters={n: draw(p) for n, p in state.parameters.items()}, moments=moments)


def _plus(state: State, other: State, size: float) -> State:
    moments = {
        n: tuple(m + size * o for m, o in zip(ms, other.moments[n], strict=True)) for n, ms in state.moments.items()
    }
    parameters = {n: p + size * other.parameters[n] for n, p in state.parameters.items()}
    return State(step=state.step, parameters=parameters, moments=moments)


def _inner(one: State, other: State) -> float:
    total = sum(float((p * other.parameters[n]).sum()) for n, p in one.parameters.items())
    pairs = ((m, o) for n, ms in one.moments.items() for m, o in zip(ms, other.moments[n], strict=True))
    return total + sum(float((m * o).sum()) for m, o in pairs)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_stretches_of_a_parameter_give_the_bytes_of_the_whole(optimiser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, draw = Recipe(optimiser=optimiser, clip=0.5, weight_decay=0.1), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    gradients, cotangents, other = ({"w": torch.randn(7, 30, generator=draw)} for _ in range(3))
    results = []
    for stretch in (1000, 64):
        monkeypatch.setattr(optimisers, "STRETCH", stretch)
        rules = Optimiser(chosen, steps=4)
        state = rules.update(rules.start(other), gradients)
        aim = State(step=2, parameters=cotangents, moments=state.moments)
        before, pulled = rules.pull_back(state, gradients, aim)
        results.append([state.parameters["w"], before.parameters["w"], *before.moments["w"], pulled["w"]])
    for whole, stretched in zip(*results, strict=True):
        assert torch.equal(whole, stretched)


@pytest.mark.parametrize("inside", [True, False])
def test_adamws_pull_back_is_autograds(inside: bool) -> None:
    recipe = Recipe(learning_rate=0.1, epsilon=1e-3, epsilon_inside=inside)
    parameter, gradient, first, moved, by_first, by_second = torch.randn(6, 50, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (parameter, gradient, first, torch.rand(50, dtype=torch.float64))]
    options: Any = {"rate": 0.1, "decay": 0.3, "step": 2, "recipe": recipe}
    stepped, moments = optimisers.adamw(leaves[0], leaves[1], (leaves[2], leaves[3]), **options)
    expected = torch.autograd.grad((stepped, *moments), leaves, (moved, by_first, by_second))
    before = (leaves[2].detach(), leaves[3].detach())
    ours = optimisers.adamw_back(gradient.detach(), before, (moved, (by_first, by_second)), **options)
    torch.testing.assert_close((ours[0], ours[1], *ours[2]), expected)
