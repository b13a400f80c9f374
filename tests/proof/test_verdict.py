import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.proof.fitting import Curve
from curate.proof.verdict import Outcome, Verification


def outcome(name: str, *losses: float) -> Outcome:
    curves = tuple(
        Curve(tokens=(0, 50, 100), target=(5.0, 4.9, v), other=(5.0, 5.0, 5.0), rows=(v - 1, v, v + 1)) for v in losses
    )
    return Outcome(name=name, times=1.0, counts={"documents": 4, "tokens": 80}, curves=curves)


def verification(*outcomes: Outcome, untrained: float = 5.0, steps: int = 40) -> Verification:
    return Verification(
        selection="selected",
        tokens=100,
        steps=steps,
        held_out=3,
        others=3,
        outcomes=outcomes,
        untrained={"target": untrained, "other": 5.0},
        out="out",
    )


def test_the_distance_from_random_to_the_best_is_shared_out() -> None:
    found = verification(
        outcome("selection", 4.5, 4.52),
        outcome("random", 4.7, 4.72),
        outcome("bm25", 4.3, 4.3),
        outcome("all", 4.0, 4.0),
    )
    assert found.verdict.beats_random is True
    assert found.verdict.share == pytest.approx(0.2 / 0.41)
    assert found.verdict.best == "bm25"  # not `all`, which trained for longer
    assert found.sentence == (
        "The selection beats random: 4.5100 against 4.7100 nats per token on held-out rows (2 seeds), 49% of the"
        " distance from random to the best arm of equal tokens (bm25)."
    )


def test_the_best_arm_is_said_to_be_it() -> None:
    found = verification(outcome("selection", 4.5), outcome("random", 4.7))
    assert found.verdict.share == 1
    assert "(one seed, so no spread is known); it is the best arm of equal tokens." in found.sentence


def test_a_difference_within_the_spread_is_none() -> None:
    found = verification(outcome("selection", 4.5, 4.7), outcome("random", 4.6, 4.65))
    assert found.verdict.beats_random is None
    assert found.sentence.startswith("No difference from random is clear")


def test_a_selection_that_loses_is_said_to() -> None:
    found = verification(
        outcome("selection", 4.8, 4.81), outcome("random", 4.6, 4.6), outcome("embedding", 4.5, 4.5), untrained=4.7
    )
    assert found.verdict.beats_random is False
    assert "does NOT beat random" in found.sentence
    assert "the best arm of equal tokens is embedding (4.5000)" in found.sentence
    assert "untrained" not in found.sentence  # random ends below it


def test_ending_above_the_untrained_model_is_said() -> None:
    found = verification(outcome("selection", 4.5, 4.5), outcome("random", 4.6, 4.6), untrained=4.4)
    assert "Both end above the untrained model's 4.4000" in found.sentence


def test_a_sweep_names_its_best_share_and_those_that_are_as_good() -> None:
    swept = [outcome("top 1%", 4.9, 4.9), outcome("top 5%", 4.50, 4.52), outcome("top 20%", 4.52, 4.5)]
    found = verification(outcome("selection", 4.5, 4.5), outcome("random", 4.7, 4.7), *swept)
    assert found.best_share() == {"best": "5%", "alike": ["20%"]}
    assert verification(outcome("selection", 4.5), outcome("random", 4.7)).best_share() is None


def test_figures_and_curves_are_written_the_same_every_time(tmp_path: Path) -> None:
    found = verification(outcome("selection", 4.5, 4.6), outcome("random", 4.7, 4.72))
    found.write(tmp_path)
    record = json.loads((tmp_path / "verify.json").read_text())
    assert record["sentence"] == found.sentence
    assert record["arms"][0]["epochs"] == 1.25
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    found.write(tmp_path, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == picture


def noisy(name: str, loss: float, *, seeds: tuple[float, ...], rows: int = 40, salt: int = 0) -> Outcome:
    """An arm whose rows are easy and hard alike in every arm, with little of its own."""
    rng = np.random.default_rng(salt)
    hard = np.linspace(-2, 2, rows)
    curves = []
    for seed in seeds:
        values = loss + seed + hard + rng.normal(0, 0.02, rows)
        mean = float(values.mean())
        curves.append(Curve(tokens=(0, 100), target=(5.0, mean), other=(5.0, 5.0), rows=tuple(values.tolist())))
    return Outcome(name=name, times=1.0, counts={"documents": 4, "tokens": 80}, curves=tuple(curves))


def test_a_short_training_has_no_verdict_and_says_what_to_do() -> None:
    arms = outcome("selection", 4.5, 4.52), outcome("random", 4.7, 4.72)
    found = verification(*arms, steps=11)
    assert found.verdict.too_short
    assert found.verdict.beats_random is None
    assert found.sentence.startswith("Too short to tell: 4.5100 against 4.7100 nats per token")
    assert "after 11 steps; a verdict takes at least 30" in found.sentence
    assert "--tokens 273" in found.sentence
    assert "best arm" not in found.sentence
    assert not verification(*arms, steps=30).verdict.too_short


def test_rows_that_differ_more_than_arms_do_not_hide_a_difference_of_all_of_them() -> None:
    found = verification(
        noisy("selection", 4.5, seeds=(0.0, 0.01), salt=1), noisy("random", 4.6, seeds=(0.0, 0.005), salt=2)
    )
    assert found.verdict.beats_random is True
    low, high = found.verdict.interval or (0, 0)
    assert 0 < low < 0.1 < high < 0.3


def test_an_arm_within_the_interval_of_the_best_is_not_said_to_be_beaten() -> None:
    close = noisy("bm25", 4.5, seeds=(0.03, -0.02), salt=3)
    others = noisy("selection", 4.5, seeds=(0.0, 0.01), salt=4), noisy("random", 4.9, seeds=(0.0, 0.01), salt=5)
    found = verification(*others, close)
    assert found.verdict.beats_random is True
    assert "no clear difference to" in found.sentence
    assert "it is the best arm" not in found.sentence
    assert {found.verdict.best, *found.verdict.alike} == {"selection", "bm25"}


def test_the_losses_of_all_rows_are_written(tmp_path: Path) -> None:
    found = verification(outcome("selection", 4.5, 4.6), outcome("random", 4.7, 4.72))
    found.write(tmp_path)
    table = pq.read_table(tmp_path / "losses.parquet").to_pydict()
    assert table["arm"] == ["selection"] * 6 + ["random"] * 6
    assert table["seed"] == [0, 0, 0, 1, 1, 1] * 2
    assert table["row"] == [0, 1, 2] * 4
    assert table["loss"][:3] == [3.5, 4.5, 5.5]
