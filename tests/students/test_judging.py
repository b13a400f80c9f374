from dataclasses import replace

import numpy as np

from curate.students.judging import LeftOut


def _left_out() -> LeftOut:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 2))
    predicted = truth + rng.normal(size=(400, 2))
    return LeftOut(columns=("score_a", "score_b"), truth=truth, predicted=predicted, sources=["web", "law"] * 200)


def test_the_share_needed_is_the_smallest_of_that_recall_and_grows_with_it() -> None:
    left_out, columns = _left_out(), ("score_a",)
    shares = [left_out.share_needed(columns, columns, 0.05, recall) for recall in (0.5, 0.8, 0.95, 1.0)]
    assert shares == sorted(shares)
    for share, recall in zip(shares, (0.5, 0.8, 0.95, 1.0), strict=True):
        assert left_out.recall("score_a", columns, 0.05, share) >= recall
        assert left_out.recall("score_a", columns, 0.05, share - 1 / 400) < recall


def test_perfect_predictions_need_no_more_than_is_wanted() -> None:
    left_out = replace(_left_out(), predicted=_left_out().truth)
    assert left_out.share_needed(("score_a",), ("score_a",), 0.05, 1.0) == 0.05
    assert left_out.recall_within("score_a", ("score_a",), 0.05, 0.05) == 1


def test_the_best_of_several_columns_hold_more_and_share_documents() -> None:
    left_out, both = _left_out(), ("score_a", "score_b")
    assert 0.2 < left_out.share_kept(both, 0.2) < 0.4
    assert left_out.share_kept(("score_a",), 0.2) == 0.2
    assert left_out.recall("score_a", both, 0.05, 0.2) >= left_out.recall("score_a", ("score_a",), 0.05, 0.2)
    assert left_out.share_needed(both, both, 0.05, 1.0) >= left_out.share_needed(("score_a",), both, 0.05, 1.0)


def test_the_lower_bound_is_below_the_recall_and_nearer_with_more_documents() -> None:
    few, many = (
        _left_out(),
        replace(_left_out(), **{n: np.tile(getattr(_left_out(), n), (9, 1)) for n in ("truth", "predicted")}),
    )
    gaps = [
        x.recall("score_a", ("score_a",), 0.05, 0.2) - x.recall_at_least("score_a", ("score_a",), 0.05, 0.2)
        for x in (few, many)
    ]
    assert 0 < gaps[1] < gaps[0]
