import re

import pytest

from curate.errors import SettingsError
from curate.score_settings import ScoreSettings
from curate.settings import Count, Flag, build, changed, given, settings


@settings
class Some:
    centre: Flag = False
    dim: Count = 16


@pytest.mark.parametrize(("given", "found"), [("true", True), ("False", False), (True, True)])
def test_true_and_false_are_read_as_such(given: object, found: bool) -> None:
    assert build(Some, {"centre": given}, owner="Method 'x'", prefix="Method 'x': ") == Some(centre=found)


@pytest.mark.parametrize("given", ["1", "", 1, None])
def test_anything_else_is_neither(given: object) -> None:
    with pytest.raises(SettingsError, match=f"Method 'x': centre is {given!r}; expected true or false"):
        build(Some, {"centre": given}, owner="Method 'x'", prefix="Method 'x': ")


@pytest.mark.parametrize(("given", "found"), [("30%", 0.3), (0.3, 0.3), ("0.25", 0.25), (0, 0.0)])
def test_a_holdout_is_a_share(given: object, found: float) -> None:
    settings = ScoreSettings(target=("t",), pool=("p",), holdout=given)  # type: ignore[arg-type]
    assert settings.holdout == found


@pytest.mark.parametrize("given", ["all", "130%", 1, "100%", -0.1])
def test_a_holdout_that_is_no_part_is_refused(given: object) -> None:
    with pytest.raises(SettingsError, match="holdout"):
        ScoreSettings(target=("t",), pool=("p",), holdout=given)  # type: ignore[arg-type]


def test_settings_of_a_record_are_those_that_it_was_written_from() -> None:
    settings = ScoreSettings(target=("t",), pool=("p",), modules="*.mlp.*", against="web.jsonl")
    assert ScoreSettings.from_record(settings.as_dict()) == settings
    assert ScoreSettings.from_record(settings.as_dict()).target_fields is None


def test_what_was_given_is_known_and_a_change_adds_to_it() -> None:
    settings = changed(ScoreSettings(target=("t",), pool=("p",)), seed="3")
    assert given(settings) == {"target": ("t",), "pool": ("p",), "seed": 3}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("background", "many", "background is 'many'; expected a whole number"),
        ("background", 0, "background is 0; expected at least 1."),
        (
            "dtype",
            "float61",
            "dtype is 'float61'; expected one of float32, bfloat16, float16, float64.\nDid you mean 'float64'?",
        ),
        ("device", "tpu", "device is 'tpu'; expected auto, cpu, cuda, cuda:N or mps."),
        ("colour", 1, "ScoreSettings has no setting 'colour'."),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_was_expected(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match="^" + re.escape(message)):
        ScoreSettings(target=("t",), pool=("p",), **{name: value})  # type: ignore[arg-type]


def test_counts_are_read_as_people_write_them() -> None:
    settings = ScoreSettings(target=("t",), pool=("p",), background="20k", part_documents="1e3")  # type: ignore[arg-type]
    assert (settings.background, settings.part_documents) == (20_000, 1_000)
