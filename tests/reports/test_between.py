from collections.abc import Callable

import numpy as np
import pytest

from curate.reports import between
from curate.reports.between import compare
from curate.reports.verdicts import judge_pair
from curate.scores.run import Run
from tests.small_runs import SETTINGS, rows, write


def test_a_run_agrees_with_itself_against_its_negation_and_by_chance_with_noise(small: Callable[..., Run]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000)
    runs = [
        small("one", scores.tolist()),
        small("double", (2 * scores + 3).tolist()),
        small("minus", (-scores).tolist()),
        small("noise", rng.normal(size=20_000).tolist()),
    ]
    found = {(p.left.rsplit("/", 1)[-1], p.right.rsplit("/", 1)[-1]): p for p in compare(runs)}
    assert len(found) == 6
    same, minus, noise = found["one", "double"], found["one", "minus"], found["one", "noise"]
    assert (same.documents, same.spearman, same.overlap) == (20_000, 1.0, {"1 %": 1.0, "5 %": 1.0})
    assert (minus.spearman, minus.overlap) == (-1.0, {"1 %": 0.0, "5 %": 0.0})
    assert noise.spearman == pytest.approx(0, abs=0.03)
    assert noise.overlap["5 %"] == pytest.approx(0.05, abs=0.03)
    assert [judge_pair(p).level for p in (same, minus, noise)] == ["fine", "warning", "warning"]


def test_only_documents_that_both_scored_are_compared(small: Callable[..., Run]) -> None:
    pair = compare([small("all", [5.0, 4.0, 3.0, 2.0, 1.0]), small("some", [1.0, 2.0, 3.0])])[0]
    assert (pair.documents, pair.spearman) == (3, -1.0)


def test_runs_of_different_pools_are_not_compared(small: Callable[..., Run], tmp_path) -> None:
    other = Run.start(tmp_path / "other", settings=SETTINGS, fingerprints={"pool": "else"})
    write(other, "a", 0, rows("a", 0, [1.0, 2.0]))
    assert compare([small("here", [1.0, 2.0]), other]) == ()


def test_large_runs_are_compared_on_the_same_part_of_both(small: Callable[..., Run], monkeypatch) -> None:
    monkeypatch.setattr(between, "VALUES", 12_000)
    scores = np.random.default_rng(0).normal(size=10_000).tolist()
    pair = compare([small("one", scores), small("two", scores)])[0]
    assert 500 < pair.documents < 2000
    assert pair.spearman == 1.0
