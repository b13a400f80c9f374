"""Scores per token on the whole road: lists that add up, texts that are the document, a view that shows them."""

import pytest

import curate
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import open_session
from tests.scoring import make_project


@pytest.fixture(scope="module", params=["truncate", "windows"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("tokens")
    make_project(place, 12)
    settings = ScoreSettings(
        target=(str(place / "val.jsonl"),),
        pool=(str(place / "pool"),),
        model=str(place / "proxy"),
        method="dot",
        device="cpu",
        group_by="task",
        long=request.param,
        part_documents=16,
        per_token=True,
    )
    return curate.score(settings, place / "runs" / "x", reporter=Silent())


def test_tokens_sum_to_the_score_of_every_column(run: Run) -> None:
    sums = "SELECT shard, row, sum(score::DOUBLE) AS t, sum(score_a::DOUBLE) AS a FROM tokens GROUP BY ALL"
    with open_session(run) as session:
        query = f"SELECT s.score, t.t, s.score_a, t.a FROM scores s JOIN ({sums}) t USING (shard, row)"
        found = session.query(query).rows()
        largest = session.query("SELECT max(abs(score)) FROM tokens").rows()[0][0]
    assert len(found) == run.totals["documents"]
    for score, tokens, score_a, tokens_a in found:
        assert tokens == pytest.approx(score, rel=1e-5, abs=1e-5 * largest)
        assert tokens_a == pytest.approx(score_a, rel=1e-5, abs=1e-5 * largest)


def test_texts_of_tokens_put_together_are_the_document(run: Run) -> None:
    texts = "SELECT shard, row, string_agg(token, '' ORDER BY position) AS all_of_it FROM tokens GROUP BY ALL"
    with open_session(run) as session:
        query = f"SELECT d.text, t.all_of_it, s.truncated FROM scores s JOIN ({texts}) t USING (shard, row)"
        found = session.query(f"{query} JOIN documents d USING (shard, row)").rows()
    assert len(found) == run.totals["documents"]
    assert {truncated for *_, truncated in found} == (
        {False, True} if run.record.settings["long"] == "truncate" else {False}
    )
    for text, tokens, truncated in found:
        read = tokens.removeprefix("<|endoftext|>")
        assert text.startswith(read) if truncated else read == text
