import numpy as np

from curate.proof.qld import best, qld


def test_the_best_are_those_of_highest_score_and_ties_go_by_position() -> None:
    assert best(np.array([0.0, 2.0, 1.0, 2.0, -5.0]), 3) == (1, 2, 3)
    assert best(np.zeros(5), 2) == (0, 1)


def test_the_difference_to_random_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    controls = rng.normal(0, 0.01, (80, 12))
    found = qld(np.full(12, 0.1), controls)
    assert abs(found.mean - 0.1) < 1e-9
    assert abs(found.control) < 0.01
    assert 0.09 < found.low < found.difference < found.high < 0.11
    nothing = qld(controls[0], controls[1:])
    assert nothing.low < 0 < nothing.high
