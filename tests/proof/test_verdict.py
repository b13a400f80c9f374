import json
from pathlib import Path

import pytest

from curate.proof.fitting import Curve
from curate.proof.verdict import Outcome, Verification


def outcome(name: str, *losses: float) -> Outcome:
    curves = tuple(Curve(tokens=(0, 50, 100), target=(5.0, 4.9, v), other=(5.0, 5.0, 5.0)) for v in losses)
    return Outcome(name=name, times=1.0, counts={"documents": 4, "tokens": 80}, curves=curves)


def verification(*outcomes: Outcome, untrained: float = 5.0) -> Verification:
    return Verification(
        selection="selected",
        tokens=100,
        steps=2,
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
