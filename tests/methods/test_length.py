from pathlib import Path

import pytest

from curate import methods
from curate.errors import SettingsError
from tests.methods.preparing import make_inputs, scores
from tests.small_models import encoded, tiny_proxy

POOL = [encoded([5, 6, 7, 8]), encoded([5, 6, 7, 8, 9, 10], prompt=4), encoded([5, 6])]


@pytest.mark.parametrize(("prefer", "expected"), [("long", [3, 2, 1]), ("short", [-3, -2, -1])])
def test_a_score_is_the_number_of_tokens_that_carry_loss(prefer: str, expected: list[int], tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, [encoded([1, 2]), encoded([3, 4])], [], groups=["a", "b"])
    found = scores("length", inputs, POOL, prefer=prefer)
    assert found.scores.tolist() == [[n] * 3 for n in expected]
    assert found.losses is None


def test_another_preference_is_refused() -> None:
    with pytest.raises(SettingsError, match="prefer is 'longer'; expected one of long, short"):
        methods.get("length").Settings(prefer="longer")
