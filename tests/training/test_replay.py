from pathlib import Path

import pytest
import torch

from curate.errors import CurateError, SettingsError
from curate.training.checkpoints import flat, on_the_way, positions
from curate.training.replay import Replay, Training
from tests.training.small_training import Regression, recipe

INPUTS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(weights: torch.Tensor | None = None, **changes: object) -> Training:
    model = Regression(INPUTS, INPUTS.sum(1, keepdim=True))
    return Training(model, model.corpus(range(12)), recipe(**({"steps": 10} | changes)), weights=weights)


def test_a_run_in_a_folder_is_the_run_in_memory(tmp_path: Path) -> None:
    end = Replay(run(), tmp_path).run()
    assert torch.equal(end.parameters["theta"], run().run().parameters["theta"])


@pytest.mark.parametrize("policy", ["sqrt", "all", "log"])
@pytest.mark.parametrize("keep", [True, False])
def test_every_state_is_found_again_on_the_way_back(policy: str, keep: bool, tmp_path: Path) -> None:
    training = run()
    states = [training.start()]
    for _ in range(10):
        states.append(training.run(states[-1], until=states[-1].step + 1))
    replay = Replay(training, tmp_path, checkpoints=policy, keep_gradients=keep)
    replay.run()
    for step in range(10, -1, -1):
        found = replay.state_at(step)
        assert found.step == step
        assert torch.equal(found.parameters["theta"], states[step].parameters["theta"])
        assert all(
            torch.equal(a, b) for a, b in zip(found.moments["theta"], states[step].moments["theta"], strict=True)
        )


@pytest.mark.parametrize("steps", [1, 2, 7, 36, 100])
def test_few_checkpoints_are_kept(steps: int) -> None:
    assert len(positions("sqrt", steps)) <= steps**0.5 + 2
    assert len(positions("log", steps)) <= steps.bit_length() + 2
    assert positions("all", steps) == frozenset(range(steps + 1))
    for policy in ("sqrt", "log"):
        assert {0, steps} <= positions(policy, steps)
    assert len(on_the_way("log", 0, steps)) <= steps.bit_length()


@pytest.mark.parametrize("held", [0, 3, 10])
def test_kept_gradients_spare_the_way_back_every_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    replay = Replay(run(), tmp_path)
    replay.log.most_bytes = held * sum(p.numel() * p.element_size() for p in run().start().parameters.values())
    replay.run()
    assert len(list((tmp_path / "gradients").glob("*.safetensors"))) == 10 - held
    first = run().gradient(run().start())[0]
    monkeypatch.setattr(Training, "gradient", None)
    for step in range(10, -1, -1):
        replay.state_at(step)
    assert len(replay.log.losses) == 10
    assert replay.log.losses[0] == first


def test_a_gradient_whose_file_is_torn_is_computed_again(tmp_path: Path) -> None:
    replay = Replay(run(), tmp_path)
    replay.log.most_bytes = 0
    replay.run()
    expected = replay.log.get(3)
    (tmp_path / "gradients" / "000003.safetensors").write_bytes(b"torn")
    again = replay.gradient(replay.state_at(3))
    assert expected is not None
    assert all(torch.equal(again[n], g) for n, g in expected.items())


def test_the_denominator_stays_when_weights_change() -> None:
    weights = torch.ones(24, dtype=torch.float64)
    weights[run().corpus.starts[3] + 1] = 0
    assert [run(weights).denominator(k) for k in range(10)] == [run().denominator(k) for k in range(10)]


def test_a_weight_of_zero_leaves_a_document_out(tmp_path: Path) -> None:
    weights = run().corpus.spread(torch.tensor([1.0] * 11 + [0.0], dtype=torch.float64))
    other = Regression(INPUTS, INPUTS.sum(1, keepdim=True))
    other.outputs[11] = 1e6
    changed = Training(other, other.corpus(range(12)), recipe(steps=10), weights=weights).run()
    assert torch.equal(changed.parameters["theta"], run(weights).run().parameters["theta"])


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    Replay(run(), tmp_path)
    with pytest.raises(CurateError, match="recipe differ"):
        Replay(run(learning_rate=0.5), tmp_path)
    with pytest.raises(CurateError, match="fingerprint differ"):
        Replay(run(torch.full((24,), 0.5, dtype=torch.float64)), tmp_path)


def test_wrong_settings_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="sqrt, all, log"):
        Replay(run(), tmp_path, checkpoints="some")
    with pytest.raises(SettingsError, match="3 weights"):
        run(torch.ones(3))


def test_a_diverging_run_ends_with_an_error() -> None:
    with pytest.raises(CurateError, match="diverged"):
        run(optimiser="sgd", learning_rate=1e200).run()


def test_the_plan_says_what_the_run_takes(tmp_path: Path) -> None:
    replay = Replay(run(), tmp_path)
    plan = replay.plan()
    replay.run()
    for step in range(10, -1, -1):
        replay.state_at(step)
        used = sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
        headers = 400 * len(list(tmp_path.rglob("*.safetensors")))  # of more weight than three numbers
        assert used - headers <= plan.disk_bytes
    assert (plan.steps, plan.tokens, plan.parameters) == (10, 80, 3)


@pytest.mark.parametrize("held", [0, 2])
def test_passing_states_that_memory_does_not_hold_are_found_in_files(tmp_path: Path, held: int) -> None:
    replay = Replay(run(), tmp_path)
    states = [run().run(until=k) for k in range(11)]
    replay.passing.most_bytes = held * sum(t.numel() * t.element_size() for t in flat(states[0]).values())
    replay.run()
    replay.state_at(7)  # from the checkpoint after step 4
    assert len(list((tmp_path / "passing").glob("*.safetensors"))) == 3 - held
    for step in (7, 6, 5, 4):
        found = replay.state_at(step)
        assert all(torch.equal(a, b) for a, b in zip(flat(found).values(), flat(states[step]).values(), strict=True))
