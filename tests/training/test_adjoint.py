import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from curate.errors import CurateError, SettingsError
from curate.training.adjoint import Sampling, differentiate, score_unseen, snapshot, target_loss
from curate.training.optimisers import State
from curate.training.replay import Replay, Training
from tests.small_models import model_loss
from tests.training.small_training import (
    STENCIL,
    Regression,
    adjoint,
    corpus,
    one_document,
    recipe,
    slope,
    target,
    training,
)

pytestmark = pytest.mark.usefixtures("float64_throughout")

RECIPES = {
    "sgd with momentum": {"optimiser": "sgd", "learning_rate": 0.2, "weight_decay": 0.1},
    "adamw, epsilon inside": {"weight_decay": 0.5},
    "adamw, epsilon outside": {"epsilon_inside": False, "epsilon": 1e-2},
    "clipped": {"optimiser": "sgd", "learning_rate": 0.2, "clip": 0.5},
    "adamw, clipped": {"clip": 0.5, "weight_decay": 0.5},
    "muon": {"optimiser": "muon", "weight_decay": 0.5, "learning_rate": 0.003, "steps": 4},
    "lora": {"lora_rank": 2, "learning_rate": 0.03},
    "lora on some layers, muon": {"optimiser": "muon", "lora_rank": 2, "lora_targets": ("q_proj", "down_proj")},
}


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("sgd with momentum", "muon")), "adamw, clipped", "lora"],
)
def test_scores_are_the_slopes_of_whole_retrainings(name: str, tmp_path: Path) -> None:
    run = training(**RECIPES[name])
    found = adjoint(run, tmp_path)
    direction = torch.randn(run.corpus.num_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(direction @ found.token_scores) == pytest.approx(slope(run, direction), rel=1e-6)
    torch.testing.assert_close(run.corpus.gather(found.token_scores), found.scores, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_every_documents_score_is_the_slope_of_whole_retrainings(changes: dict[str, object], tmp_path: Path) -> None:
    run = training(**changes)
    found = adjoint(run, tmp_path)
    expected = torch.tensor([slope(run, one_document(run.corpus, i)) for i in range(len(run.corpus))])
    torch.testing.assert_close(found.scores, expected.double(), rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.slow
def test_every_tokens_score_is_the_slope_of_whole_retrainings(tmp_path: Path) -> None:
    run = training()
    found = adjoint(run, tmp_path)
    ones = torch.eye(run.corpus.num_tokens, dtype=torch.float64)
    expected = torch.tensor([slope(run, direction) for direction in ones], dtype=torch.float64)
    torch.testing.assert_close(found.token_scores, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_clipping_is_active_where_it_is_tested() -> None:
    run = training(**RECIPES["clipped"])
    _, gradients = run.gradient(run.start())
    assert sum(float(g.square().sum()) for g in gradients.values()) > 0.5**2


def test_one_step_of_sgd_is_the_dot_product_of_gradients(tmp_path: Path) -> None:
    run = training(optimiser="sgd", momentum=0.0, weight_decay=0.0, steps=1, batch_size=7, warmup=0)
    found = adjoint(run, tmp_path)
    model = run.model.model  # type: ignore[attr-defined]
    names = list(run.model.parameters())
    after = run.run()
    aim = target_loss(run.model, after.parameters, target())[1]
    for i, document in enumerate(run.corpus.documents):
        if len(document.ids) > 16:
            continue  # of two windows: no single pass of the model is its loss
        model.zero_grad()
        model_loss(model, document).backward()
        dot = sum(float((model.get_parameter(n).grad * aim[n]).sum()) for n in names)
        expected = run.recipe.learning_rate * dot / run.denominator(0)
        assert float(found.scores[i]) == pytest.approx(expected, rel=1e-9)


def test_more_weight_on_a_document_of_positive_score_lowers_the_targets_loss(tmp_path: Path) -> None:
    run = training()
    found = adjoint(run, tmp_path)
    best = int(found.scores.argmax())
    weights = 1 + 0.05 * one_document(run.corpus, best)
    helped = Training(run.model, run.corpus, run.recipe, weights=weights).run()
    assert found.scores[best] > 0
    assert target_loss(run.model, helped.parameters, target())[0] < found.loss


def test_scores_are_the_sums_of_a_documents_adjoint_products(tmp_path: Path) -> None:
    run = training()
    replay = Replay(run, tmp_path)
    replay.run()
    found = differentiate(replay, target(), snapshots=range(run.steps))
    expected = torch.zeros(len(run.corpus), dtype=torch.float64)
    for step, documents in enumerate(run.batches):
        products = run.corpus.gather(score_unseen(run.model, snapshot(replay, "target", step), run.corpus))
        for i in documents:
            expected[i] += products[i]
    torch.testing.assert_close(found.scores, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_unseen_documents_score_what_injecting_them_does(step: int, tmp_path: Path) -> None:
    run, others = training(weight_decay=0.1, clip=0.5), corpus((7, 11, 4), seed=5)
    replay = Replay(run, tmp_path)
    replay.run()
    differentiate(replay, target(), snapshots=[step])
    found = others.gather(score_unseen(run.model, snapshot(replay, "target", step), others))
    expected = [_injected(run, others, i, step) for i in range(len(others))]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12)


def _injected(run: Training, others: object, document: int, at: int, size: float = 2e-3) -> float:
    """-dφ/ds of a run in which the gradient of step `at` has s·∇ℓ/D of another document added."""
    total = 0.0
    for steps, share in STENCIL.items():
        state: State = run.start()
        while state.step < run.steps:
            _, gradients = run.gradient(state)
            if state.step == at:
                for batch in others.microbatches([document]):  # type: ignore[attr-defined]
                    weight = batch.scored.double() * steps * size / run.denominator(at)
                    more = run.model.gradients(state.parameters, batch, weight)[1]
                    gradients = {n: g + more[n] for n, g in gradients.items()}
            state = run.optimiser.update(state, gradients)
        total -= share / size * target_loss(run.model, state.parameters, target())[0]
    return total


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    found = [adjoint(training(budget=b), tmp_path / str(b)) for b in (1, 40, 10_000)]
    for other in found[1:]:
        torch.testing.assert_close(other.token_scores, found[0].token_scores, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("policy", "keep"),
    [
        pytest.param("all", False, marks=pytest.mark.slow),
        ("log", True),
        pytest.param("all", True, marks=pytest.mark.slow),
        pytest.param("log", False, marks=pytest.mark.slow),
    ],
)
def test_checkpoint_policies_give_the_same_bytes(policy: str, keep: bool, tmp_path: Path) -> None:
    run = training(steps=7)
    usual = adjoint(run, tmp_path / "usual")
    other = adjoint(run, tmp_path / "other", checkpoints=policy, keep_gradients=keep)
    assert torch.equal(usual.token_scores, other.token_scores)
    assert not list((tmp_path / "other" / "passing").iterdir())


class _Killer:
    """Ends the process's work after some steps, as a kill would: nothing after it runs."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, amount: float) -> None:
        self.left -= int(amount)
        if self.left <= 0:
            raise KeyboardInterrupt

    def set_total(self, total: float | None) -> None: ...


@pytest.mark.parametrize("keep", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_bytes(keep: bool, tmp_path: Path) -> None:
    run = training(steps=7, clip=0.5)
    whole = adjoint(run, tmp_path / "whole", keep_gradients=keep)
    for forward in (1, 5):
        with pytest.raises(KeyboardInterrupt):
            Replay(run, tmp_path / "cut", keep_gradients=keep).run(_Killer(forward))
    Replay(run, tmp_path / "cut", keep_gradients=keep).run()
    for back in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            differentiate(Replay(run, tmp_path / "cut", keep_gradients=keep), target(), task=_Killer(back))
    cut = differentiate(Replay(run, tmp_path / "cut", keep_gradients=keep), target())
    assert torch.equal(cut.token_scores, whole.token_scores)
    for path in sorted((tmp_path / "whole").rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), path


KILLED = """
import os, signal, sys
from pathlib import Path
from curate.training.adjoint import differentiate
from curate.training.replay import Replay
from tests.training.small_training import target, training

class Killer:
    left = int(sys.argv[2])
    def advance(self, amount):
        self.left -= amount
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def set_total(self, total): ...

killer = Killer()
replay = Replay(training(steps=7), Path(sys.argv[1]))
replay.run(killer)
differentiate(replay, target(), task=killer)
"""


@pytest.mark.slow
def test_a_process_that_is_really_killed_leaves_what_another_finishes(tmp_path: Path) -> None:
    for after in (3, 9, 12, 1000):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), str(after)]
        done = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == (0 if after == 1000 else -signal.SIGKILL)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "whole"), "1000"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    kept = sorted((tmp_path / "whole").rglob("*.safetensors"))
    assert kept
    for path in kept:
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), path


def test_targets_share_a_run_and_stay_apart(tmp_path: Path) -> None:
    run = training()
    replay = Replay(run, tmp_path / "both")
    replay.run()
    both = [differentiate(replay, target(s), f"group-{s}", snapshots=[2]) for s in (9, 10)]
    assert not torch.equal(both[0].scores, both[1].scores)
    assert torch.equal(both[1].scores, adjoint(run, tmp_path / "alone", aim=target(10)).scores)
    with pytest.raises(CurateError, match="another target"):
        differentiate(replay, target(11), "group-9", snapshots=[2])
    with pytest.raises(CurateError, match="keeps 2"):
        snapshot(replay, "group-9", 3)
    with pytest.raises(SettingsError, match="There is no step 5"):
        differentiate(replay, target(), "late", snapshots=[5])


def test_a_walk_back_may_end_at_its_snapshot_and_be_taken_up_again(tmp_path: Path) -> None:
    run = training()
    whole, part = Replay(run, tmp_path / "whole"), Replay(run, tmp_path / "part")
    for replay in (whole, part):
        replay.run()
    found = differentiate(whole, target(), snapshots=[3])
    late = differentiate(part, target(), snapshots=[3], until=3)
    kept, early = (snapshot(replay, "target", 3) for replay in (whole, part))
    assert all(torch.equal(u, early.directions[n]) for n, u in kept.directions.items())
    assert not torch.equal(late.scores, found.scores)
    assert torch.equal(differentiate(part, target(), snapshots=[3]).scores, found.scores)
    with pytest.raises(SettingsError, match="passes no step 1"):
        differentiate(whole, target(), "other", snapshots=[1], until=2)


def test_ridge_regression_trained_to_convergence_gives_its_exact_influence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, decay = torch.randn(30, 4, dtype=torch.float64), 0.1
    outputs = inputs @ torch.randn(4, 1, dtype=torch.float64) + 0.3 * torch.randn(30, 1, dtype=torch.float64)
    model, rows, aim = Regression(inputs, outputs), range(24), range(24, 30)
    chosen = recipe(
        optimiser="sgd",
        momentum=0.0,
        schedule="constant",
        warmup=0,
        learning_rate=0.5,
        weight_decay=decay,
        batch_size=24,
        steps=150,
    )
    run = Training(model, Regression.corpus(rows), chosen)
    found = adjoint(run, tmp_path, aim=Regression.corpus(aim))

    x, y = inputs[:24], outputs[:24]
    hessian = x.T @ x / 24 + decay * torch.eye(4, dtype=torch.float64)
    best = torch.linalg.solve(hessian, x.T @ y / 24)
    aims = inputs[24:].T @ (inputs[24:] @ best - outputs[24:]) / 6
    influence = (x @ torch.linalg.solve(hessian, aims) * (x @ best - y)).squeeze(1) / 24
    torch.testing.assert_close(found.scores, influence, rtol=1e-6, atol=1e-12)


def test_a_sample_of_all_documents_changes_no_score_that_is_wanted(tmp_path: Path) -> None:
    run = training()
    replay = Replay(run, tmp_path / "sampled")
    replay.run()
    wanted, others = [0, 3, 5], [1, 2, 4, 6]
    found = differentiate(replay, target(), sampling=Sampling(share=1, documents=frozenset(wanted)))
    torch.testing.assert_close(found.scores[wanted], adjoint(run, tmp_path / "exact").scores[wanted])
    assert found.scores[others].isnan().all()
    with pytest.raises(CurateError, match="another target, or with other"):
        differentiate(replay, target(), sampling=Sampling(share=2, documents=frozenset(wanted)))


def test_the_products_of_some_documents_are_the_mean_that_they_stand_for() -> None:
    run = training(weights=torch.rand(corpus().num_tokens, dtype=torch.float64))
    state, documents = run.start(), run.batches[0]
    directions = {n: torch.randn_like(p) for n, p in state.parameters.items()}

    def product(chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        parts = [products for _, (_, products) in run.products(0, state.parameters, directions, chosen)]
        return {n: torch.stack([p[n] for p in parts]).sum(0) for n in directions}

    whole, few, rest = (product(chosen) for chosen in (documents, documents[:1], documents[1:]))
    share = int(run.corpus.scored[documents[0]]) / run.denominator(0)
    torch.testing.assert_close(whole, {n: share * few[n] + (1 - share) * rest[n] for n in whole})
    assert Sampling(share=3, documents=frozenset()).of(documents) == documents[:2]  # of four: rounded up
