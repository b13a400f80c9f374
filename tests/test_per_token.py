"""Scores per token on the whole road: lists that add up, texts that are the document, a view that shows them."""

import json
import shutil
from pathlib import Path

import pytest

import curate
from curate.errors import CurateError
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import open_session
from tests.scoring import make_project


@pytest.fixture(scope="module", params=[pytest.param("truncate", marks=pytest.mark.slow), "windows"])
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


@pytest.fixture
def of_positions(run: Run, tmp_path: Path) -> Run:
    """A run as earlier versions left it: its record does not say what its lists per token are."""
    place = tmp_path / "old"
    shutil.copytree(run.path, place)
    record = json.loads((place / "run.json").read_text(encoding="utf-8"))
    assert record["details"].pop("token_scores") == "labels"
    (place / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return Run.open(place)


def test_lists_of_positions_are_never_read_as_labels(run: Run, of_positions: Run) -> None:
    with pytest.raises(CurateError, match="by an earlier version: its lists say"):
        curate.select(of_positions, unit="token", top="20%")
    for runs in (of_positions, [run, of_positions]):
        with open_session(runs) as session:
            assert "tokens" not in session.views
            assert session.query("SELECT count(*) FROM scores").rows()[0][0] > 0
            with pytest.raises(CurateError, match="by an earlier version"):
                session.query("SELECT * FROM tokens")


def test_a_run_with_lists_of_positions_is_not_continued(of_positions: Run) -> None:
    settings = curate.recorded(of_positions.path)
    assert curate.score(settings, of_positions.path, reporter=Silent()).is_finished  # nothing is left to do
    (of_positions.path / "finished.json").unlink()
    with pytest.raises(CurateError, match="by an earlier version"):
        curate.score(settings, of_positions.path, reporter=Silent())


def test_runs_that_are_scored_by_token_have_no_gradient_norms(run: Run) -> None:
    with open_session(run) as session:
        assert session.query("SELECT count(grad_norm), count(loss) FROM scores").rows() == [
            (0, run.totals["documents"])
        ]
