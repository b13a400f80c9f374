import numpy as np
import pytest

from curate.reports.ranks import best, correlation, histogram, mass, membership, ranks, rounded, spearman


def test_ranks_of_ties_are_their_mean() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_rank_correlation_is_one_for_any_rising_function_and_none_where_nothing_varies() -> None:
    x = np.random.default_rng(0).normal(size=500)
    assert spearman(x, np.exp(3 * x)) == 1.0
    assert spearman(x, -(x**3)) == -1.0
    assert spearman(x, np.zeros(500)) is None
    assert correlation(x[:1], x[:1]) is None


def test_the_best_of_ties_are_the_first() -> None:
    assert sorted(best(np.array([1.0, 5.0, 2.0, 2.0, 2.0, 0.0]), 0.5)) == [1, 2, 3]


def test_ties_at_the_edge_belong_in_part_so_that_chance_stays_chance() -> None:
    found = membership(np.array([4.0, 1.0, 1.0, 1.0, 0.0]), 0.4)
    assert found.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0])
    same = membership(np.zeros(1000), 0.05)
    assert (same * same).sum() / same.sum() == pytest.approx(0.05)


def test_mass_is_the_share_of_the_largest_sizes_of_either_sign() -> None:
    scores = np.array([-6.0, 1.0, 1.0, 2.0])
    assert mass(scores, np.array([0.25, 0.5, 1.0])).tolist() == pytest.approx([0.6, 0.8, 1.0])
    assert mass(np.zeros(4), np.array([0.25])).tolist() == [0.25]


def test_a_histogram_counts_everything_and_keeps_outliers_from_squeezing_it() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=10_000), [1e6, -1e6]])
    low, high, counts = histogram(values, 50)
    assert sum(counts) == 10_002
    assert -8 < low < -2
    assert 2 < high < 8
    assert histogram(np.full(3, 7.0), 50) == (7.0, 7.0, [3])


@pytest.mark.parametrize(("value", "found"), [(1 / 3, 0.333333), (123456789.0, 123457000.0), (float("nan"), None)])
def test_figures_have_six_digits(value: float, found: float | None) -> None:
    assert rounded(value) == found
