import numpy as np

from curate.students.lengths import Lengths


def test_tokens_are_counted_within_what_was_seen_and_cut_at_the_most() -> None:
    texts = ["x" * 40, "x" * 80, "x" * 400]
    lengths = Lengths.of(texts, np.array([10, 20, 50]), np.array([False, False, True]), 64)
    assert lengths.most_tokens == 50
    assert lengths.read("y" * 1000) == "y" * 200
    tokens, truncated = lengths.count(np.array([0.25, 9.0]), np.array([100, 1000]))
    assert tokens.tolist() == [25, 50]
    assert truncated.tolist() == [False, True]
