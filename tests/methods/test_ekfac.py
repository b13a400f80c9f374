import pytest

from curate.errors import SettingsError
from curate.methods.ekfac import Settings


@pytest.mark.parametrize(
    ("given", "damping"),
    [({}, 0.1), ({"refine": "cg"}, 10.0), ({"refine": "astra"}, 10.0), ({"refine": "cg", "damping": 0.1}, 0.1)],
)
def test_a_refined_direction_is_damped_more_unless_told_otherwise(given: dict[str, object], damping: float) -> None:
    assert Settings(**given).decided_damping == damping  # pyright: ignore[reportArgumentType]


def test_refinements_settings_need_refinement() -> None:
    with pytest.raises(SettingsError, match="rounds is a setting of refinement"):
        Settings(rounds=5)
