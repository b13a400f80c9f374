from typing import Any

import numpy as np
import pytest

from curate.fidelity import Check
from curate.training.rates import Trial, chosen, table

PREDICTED = np.array([[1.0], [2.0], [3.0]])
NOISE = np.linspace(-0.5, 0.5, 100)  # standard error .029


def trial(rate: float, loss: float, *, measured: Any = PREDICTED, smoothness: float = 0.9) -> Trial:
    check = Check(groups=("a",), predicted=PREDICTED, measured=np.asarray(measured, float), left_out=1, documents=20)
    return Trial(rate=rate, held_out=loss + NOISE, smoothness=smoothness, check=check)


def test_a_rate_that_learns_too_little_is_not_taken_however_faithful() -> None:
    trials = [trial(1, 4.0), trial(2, 3.0, measured=PREDICTED * 1.5)]
    assert chosen(trials, accept_rough=False).rate == 2


def test_within_the_noise_of_the_best_loss_the_more_faithful_is_taken() -> None:
    trials = [trial(1, 3.02, measured=PREDICTED * 1.1), trial(2, 3.0, measured=PREDICTED * 1.6), trial(3, 3.01)]
    assert chosen(trials, accept_rough=False).rate == 3
    assert chosen(trials[:2], accept_rough=False).rate == 1


@pytest.mark.parametrize(
    "bad",
    [
        trial(9, 2.0, smoothness=0.2),
        trial(9, np.nan),
        trial(9, 3.0, measured=PREDICTED * 50),
        trial(9, 3.0, measured=PREDICTED * np.nan),
    ],
)
def test_a_rate_that_is_rough_diverges_or_is_not_foretold_is_not_taken(bad: Trial) -> None:
    good = trial(1, 3.0)
    assert chosen([good, bad], accept_rough=False) is good
    assert "chosen" in table([good, bad], good).splitlines()[1]


def test_a_rough_rate_is_taken_by_leave_or_where_all_are_rough() -> None:
    rough = trial(9, 2.0, smoothness=0.2)
    assert chosen([trial(1, 3.0), rough], accept_rough=True) is rough
    assert chosen([rough], accept_rough=False) is rough
