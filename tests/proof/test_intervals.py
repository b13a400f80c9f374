import numpy as np
import pytest

from curate.proof.intervals import difference, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3.5, 2.93900), (10, 2.22814), (100, 1.98397), (1e6, 1.95997)]
)
def test_students_quantiles_are_those_of_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=2e-3 if freedom == 3.5 else 1e-5)


def arm(rng: np.random.Generator, rows: np.ndarray, seeds: int, spread: tuple[float, float, float]) -> np.ndarray:
    """Losses [seeds, rows] of true mean 3: what rows add to every arm, to this one, and what trainings add."""
    of_row, of_seed, of_both = spread
    own = rng.normal(0, of_row, len(rows))
    return 3.0 + rows + own + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_both, (seeds, len(rows)))


@pytest.mark.parametrize(
    ("seeds", "rows", "spread"),
    [
        (3, 100, (0.10, 0.005, 0.02)),  # rows decide
        (3, 100, (0.01, 0.050, 0.02)),  # seeds decide
        (3, 60, (0.08, 0.010, 0.05)),  # both
        (2, 200, (0.10, 0.007, 0.10)),
        (3, 40, (0.00, 0.000, 0.10)),  # nothing but noise
        (5, 20, (0.05, 0.020, 0.30)),
        (1, 80, (0.10, 0.000, 0.10)),  # one seed that adds nothing of its own
    ],
)
def test_the_interval_holds_the_true_difference_as_often_as_it_says(
    seeds: int, rows: int, spread: tuple[float, float, float]
) -> None:
    rng, held = np.random.default_rng(20), []
    for _ in range(600):
        common = rng.normal(0, 1.0, rows)  # far larger, and the same in both arms
        found = difference(arm(rng, common, seeds, spread), arm(rng, common, seeds, spread))
        assert found.margin is not None
        held.append(abs(found.value) <= found.margin)
    assert 0.90 <= np.mean(held) <= 0.98


def test_what_a_row_adds_to_both_arms_is_no_uncertainty() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 5.0, 50)
    left, right = (3 + shift + rows + rng.normal(0, 0.01, (3, 50)) for shift in (0.0, 0.05))
    found = difference(left, right)
    assert found.is_clear
    assert found.value == pytest.approx(-0.05, abs=0.01)
    assert found.error is not None
    assert found.error < 0.005


def test_a_single_row_and_seed_tell_nothing() -> None:
    found = difference(np.array([[3.0]]), np.array([[4.0]]))
    assert (found.error, found.margin, found.interval) == (None, None, None)
    assert not found.is_clear


def test_with_one_row_the_interval_is_over_seeds_and_with_equal_losses_it_has_no_width() -> None:
    found = difference(np.array([[3.0], [3.1]]), np.array([[4.0], [4.1]]))
    assert found.error == pytest.approx(np.sqrt(2 * 0.005 / 2))
    assert difference(np.full((2, 3), 3.0), np.full((2, 3), 4.0)).margin == 0
