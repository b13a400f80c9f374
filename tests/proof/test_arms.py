import pytest

from curate.proof.arms import ranking_column

COLUMNS = ["score", "score_law", "score_code"]


def stage(sql: str = "SELECT * FROM candidates", **values) -> dict:
    return {"values": values, "sql": sql}


TOP = stage(share=0.05, count=None, score="score_law")
DEDUP = stage(by="content_hash", score="score")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([TOP], "score_law"),
        ([TOP, DEDUP], "score_law"),  # dedup's column decides between copies
        ([DEDUP, stage(tokens=10, score="score_code")], "score_code"),
        ([DEDUP], "score"),
        ([stage(tokens=30)], "score"),  # min_tokens has no column
        ([], "score"),
        ([stage("SELECT * FROM candidates WHERE score_law / n_tokens > 1 -- not score_code")], "score_law"),
        ([stage("SELECT * FROM candidates WHERE score_law > score_code")], "score"),  # whose ranking is not told
    ],
)
def test_a_selection_was_ranked_by_the_column_that_its_size_was_filled_by(filters: list[dict], expected: str) -> None:
    assert ranking_column({"filters": filters}, COLUMNS) == expected
