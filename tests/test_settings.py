import pytest

from curate.errors import SettingsError
from curate.score_settings import ScoreSettings
from curate.settings import Count, Flag, build, settings


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
