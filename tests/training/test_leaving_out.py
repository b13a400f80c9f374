import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from curate.fidelity import Check
from curate.progress import Silent
from curate.training import leaving_out
from curate.training.adjoint import differentiate, target_loss
from curate.training.microbatches import Corpus
from curate.training.optimisers import State
from curate.training.replay import DivergedError, Replay, Training
from tests.training.small_training import corpus, one_document, target, training

AIMS = {"a": target(), "b": target(11)}
SMOOTH = {"steps": 12, "learning_rate": 1e-3, "batch_size": 4, "epsilon": 1.0}
CHAOS = {"steps": 24, "learning_rate": 1.0, "warmup": 0, "schedule": "constant", "epsilon": 1e-17}


def checked(replay: Replay, aims: Mapping[str, Corpus] = AIMS, *, since: int = 0, retrainings: int = 4) -> Check:
    replay.run()
    adjoints = {name: differentiate(replay, aim, name, until=since) for name, aim in aims.items()}
    return leaving_out.check(replay, aims, adjoints, Silent(), retrainings=retrainings, since=since)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Check:
    return checked(Replay(training(**SMOOTH), tmp_path_factory.mktemp("smooth")))


def test_after_a_smooth_training_losses_rise_as_predicted(smooth: Check) -> None:
    for fidelity in (smooth.overall, *smooth.by_group.values()):
        assert fidelity.slope == pytest.approx(1, abs=0.1)
        assert fidelity.correlation is not None
        assert fidelity.correlation > 0.99
    assert (smooth.left_out, smooth.documents) == (1, 7)
    assert smooth.advice is None
    assert "high fidelity." in smooth.sentence


@pytest.mark.slow
def test_a_rate_that_is_far_too_high_is_found_out_and_said(tmp_path: Path) -> None:
    wild = checked(Replay(training(**CHAOS), tmp_path))
    assert not wild.overall.slope_holds
    assert "NOT of high fidelity" in wild.sentence
    assert "lower learning_rate, or a larger epsilon or batch_size" in (wild.advice or "")


@pytest.mark.slow
def test_a_retraining_that_diverges_fails_the_check_and_ends_nothing(
    smooth: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = Training.gradient

    def diverging(self: Training, state: State) -> object:
        if self.weights is not None and state.step == 3:
            raise DivergedError("The loss of step 4 is nan: the training diverged.")
        return gradient(self, state)

    monkeypatch.setattr(Training, "gradient", diverging)
    failed = checked(Replay(training(**SMOOTH), tmp_path), retrainings=2)
    assert np.isnan(failed.measured).all()
    np.testing.assert_array_equal(failed.predicted, smooth.predicted[:2])
    for check in (failed, Check.of(json.loads(json.dumps(failed.details())))):
        assert check.diverged == 2
        assert check.holds is False
        assert check.figure == "2 of 2 retrainings diverged"
        assert check.sentence.endswith("2 diverged: these scores are NOT of high fidelity.")
        assert "lower learning_rate" in (check.advice or "")


@pytest.mark.slow
def test_a_walk_that_ends_on_the_way_is_checked_from_there(tmp_path: Path) -> None:
    replay = Replay(training(**SMOOTH), tmp_path)
    found = checked(replay, {"a": AIMS["a"]}, since=5, retrainings=1)
    run, start = replay.training, replay.state_at(5)
    (left,) = [leaving_out._drawn(run, 5, 0)]
    weights = 1 - sum(one_document(run.corpus, d) for d in left)
    moved = Training(run.model, run.corpus, run.recipe, weights=weights).run(start)
    losses = [target_loss(run.model, state.parameters, AIMS["a"])[0] for state in (moved, run.run())]
    assert found.measured[0, 0] == pytest.approx(losses[0] - losses[1], abs=1e-12)
    assert found.overall.slope == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_a_check_that_was_killed_between_retrainings_goes_on(
    smooth: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, trained, run = Replay(training(**SMOOTH), tmp_path), [], Training.run

    def killed(self: Training, *arguments: object, **options: object) -> object:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as killer:
        killer.setattr(Training, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            checked(replay)
    trained.clear()
    monkeypatch.setattr(Training, "run", lambda self, *a, **o: trained.append(1) or run(self, *a, **o))
    again = checked(Replay(training(**SMOOTH), tmp_path))
    assert len(trained) == 2
    np.testing.assert_array_equal(again.measured, smooth.measured)
    np.testing.assert_array_equal(again.predicted, smooth.predicted)


def test_each_retraining_leaves_out_a_twentieth_of_its_own() -> None:
    run = Training(training().model, corpus([5] * 40), training(epochs=1, steps=None).recipe)
    subsets = [leaving_out._drawn(run, 0, i) for i in range(3)]
    assert [len(s) for s in subsets] == [2, 2, 2]
    assert len({tuple(s) for s in subsets}) > 1
    late = {d for batch in run.batches[8:] for d in batch}
    assert set(leaving_out._drawn(run, 8, 0)) <= late
