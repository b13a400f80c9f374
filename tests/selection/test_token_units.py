"""Units of tokens, their scores, and the best of them."""

import numpy as np
import pytest

from curate.selection.token_units import best, unit_scores, units_of

TEXT = 'One. "Two!" Three\nfour. Five'


def by_character(text: str, smooth: str, masked: range = range(1)) -> list[str]:
    """The stretches that are chosen together, where every character is a token."""
    stretches = np.column_stack([np.arange(len(text)), np.arange(1, len(text) + 1)])
    units = units_of(text, stretches, ~np.isin(np.arange(len(text)), masked), smooth)
    return ["".join(text[i] for i in np.flatnonzero(units == u)) for u in range(units.max() + 1)]


def test_text_is_cut_into_sentences_lines_and_turns() -> None:
    assert by_character(TEXT, "sentence") == ["ne. ", '"Two!" ', "Three\n", "four. ", "Five"]
    assert by_character(TEXT, "line") == ['ne. "Two!" Three\n', "four. Five"]
    assert by_character(TEXT, "turn") == [TEXT[1:]]
    assert by_character(TEXT, "none") == list(TEXT[1:])


@pytest.mark.parametrize("smooth", ["sentence", "line", "turn"])
def test_tokens_without_loss_divide_what_is_chosen_together(smooth: str) -> None:
    assert by_character("abc def ghi", smooth, range(4, 7)) == ["abc ", " ghi"]


def test_a_units_score_is_the_mean_of_its_tokens() -> None:
    scores, counts = unit_scores(np.array([-1, 0, 1, 1]), np.array([0, 5, 1, 3], np.float32))
    assert scores.tolist() == [5, 2]
    assert counts.tolist() == [1, 2]


def test_the_best_units_are_taken_until_one_does_not_fit() -> None:
    scores, counts = np.array([1, 3, 2, 3], np.float32), np.array([1, 2, 4, 1], np.int32)
    taken = [np.flatnonzero(best(scores, counts, tokens)).tolist() for tokens in (0, 1, 2, 3, 6, 7, 8)]
    assert taken == [[], [], [1], [1, 3], [1, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_of_equal_scores_the_first_are_taken() -> None:
    assert np.flatnonzero(best(np.zeros(9, np.float32), np.ones(9, np.int32), 4)).tolist() == [0, 1, 2, 3]
