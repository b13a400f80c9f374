import numpy as np
import pytest

from curate.errors import SettingsError
from curate.proof.settings import num_dropped
from curate.proof.subsets import indicator, left_out


def test_subsets_are_seeded_of_one_size_and_differ() -> None:
    drawn = [left_out(200, 0.05, i, seed=0) for i in range(50)]
    assert {len(set(one)) for one in drawn} == {10}
    assert len(set(drawn)) == 50
    assert drawn[3] == left_out(200, 0.05, 3, seed=0) != left_out(200, 0.05, 3, seed=1)
    assert len({i for one in drawn for i in one}) > 150


def test_an_indicator_marks_what_is_left_out() -> None:
    np.testing.assert_array_equal(indicator((0, 3), 5), [1, 0, 0, 1, 0])


@pytest.mark.parametrize("drop", [0.01, 0.999])
def test_a_share_of_none_or_all_is_refused(drop: float) -> None:
    with pytest.raises(SettingsError, match="leaves out some, not all"):
        num_dropped(20, drop)
