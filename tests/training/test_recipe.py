from pathlib import Path
from typing import Any

import pytest

from curate.errors import SettingsError
from curate.training.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("optimiser", "adam", "Did you mean 'adamw'"),
        ("schedule", "exponential", "expected one of cosine, linear, constant"),
        ("precision", "bfloat16", "turns into noise"),
        ("beta2", 1.0, "less than 1"),
        ("momentum", -0.1, "at least 0"),
        ("learning_rate", 0.0, "above 0"),
        ("epsilon", float("nan"), "above 0"),
        ("clip", 0.0, "above 0"),
        ("weight_decay", -1.0, "at least 0"),
        ("warmup", 2.5, "whole number of steps"),
        ("batch_size", 0, "at least 1"),
        ("steps", 0, "at least 1"),
        ("lora_rank", -1, "at least 0"),
    ],
)
def test_what_cannot_work_is_refused_as_it_is_built(name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Recipe(**{name: value})


def test_yaml_becomes_a_recipe_and_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("optimiser: muon\nepsilon: 1e-12\nbatch-size: 32\nclip: 1\nlora_targets: [q_proj, v_proj]\n")
    expected = Recipe(optimiser="muon", epsilon=1e-12, batch_size=32, clip=1.0, lora_targets=("q_proj", "v_proj"))
    assert Recipe.read(path) == expected
    assert Recipe.of(expected.as_dict()) == expected


def test_flags_are_words() -> None:
    given = {"steps": "12", "epsilon-inside": "false", "clip": "none", "lora-targets": "q_proj,v_proj"}
    assert Recipe.of(given) == Recipe(steps=12, epsilon_inside=False, lora_targets=("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"steps": "3.5"}, "expected a whole number"),
        ({"learning_rate": "fast"}, "expected a number"),
        ({"epsilon_inside": "maybe"}, "expected true or false"),
        ({"optimiser": None}, "expected one of adamw, sgd, muon"),
        ({"beta1": True}, "expected a number"),
    ],
)
def test_wrong_names_and_types_say_what_was_expected(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Recipe.of(given)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(SettingsError, match="holds list"):
        Recipe.read(path)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_never_reaches_zero(schedule: str) -> None:
    recipe = Recipe(schedule=schedule, warmup=0.25, learning_rate=1.0)
    rates = [recipe.rate(k, 20) for k in range(20)]
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert max(rates) == 1.0
    assert min(rates) > 0
    assert (rates[-1] == 1.0) is (schedule == "constant")


def test_warm_up_counts_in_steps_from_one_on() -> None:
    assert Recipe(warmup=3).warmup_steps(20) == 3
    assert Recipe(warmup=0.3).warmup_steps(20) == 6


def test_epochs_take_as_many_whole_batches_as_they_need() -> None:
    assert Recipe(batch_size=4, epochs=3).num_steps(10) == 8
    assert Recipe(batch_size=4, epochs=3, steps=5).num_steps(10) == 5
