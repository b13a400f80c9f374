"""Why a document was chosen: figures that agree with the run's own, and refusals that say what to do."""

import json
import shutil
from pathlib import Path

import pytest

import curate
from curate.cli import main
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.reports.tokens import strengths
from curate.scores.run import Run
from tests.scoring import make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_project(tmp_path_factory.mktemp("why"), 6)
    shutil.copy(place / "pool" / "a.jsonl", place / "pool" / "again.jsonl")  # the same ids once more
    return place


SLOW_TO_FIT = [pytest.param(method, marks=pytest.mark.slow) for method in ("diagonal", "kfac", "shampoo", "ekfac")]


def scored(project: Path, method: str, **settings: object) -> Run:
    return curate.score(
        target=str(project / "val.jsonl"),
        pool=str(project / "pool"),
        model=str(project / "proxy"),
        method=method,
        device="cpu",
        group_by="task",
        out=project / "runs" / method,
        reporter=Silent(),
        **settings,
    )


@pytest.fixture(scope="module")
def run(project: Path) -> Run:
    return scored(project, "dot", normalize="length")


@pytest.mark.parametrize("method", ["dot", "relatif", *SLOW_TO_FIT])
def test_tokens_sum_to_the_score_and_rows_have_it_as_their_mean(project: Path, run: Run, method: str) -> None:
    this_run = run if method == "dot" else scored(project, method, background=6, damping=1.0)
    for group in (None, "a"):
        told = curate.why(this_run, "3-2", group=group, target_rows="all")
        column = "score" if group is None else "score_a"
        assert told.column == column
        close = pytest.approx(told.standing.score, rel=1e-3, abs=1e-6 * max(abs(t.score) for t in told.tokens))
        assert sum(t.score for t in told.tokens) == close
        assert told.rows_mean == close
        assert told.rows_scored == told.rows_of == (12 if group is None else 8)
    assert "".join(t.text for t in told.tokens).removeprefix("<|endoftext|>")[:20] in told.preview


def test_rank_and_share_are_those_of_the_scores(run: Run) -> None:
    scores = run.scores().select("score_b", "doc_id", "shard", "row").collect().sort("score_b", descending=True)
    best = scores.row(0, named=True)
    told = curate.why(run, rank=1, group="b")
    assert (told.shard, told.row) == (best["shard"], best["row"])
    assert told.standing.rank == 1
    positive = scores["score_b"].clip(0).sum()
    assert told.standing.share == pytest.approx(best["score_b"] / positive, rel=1e-5)
    last = curate.why(run, rank=scores.height, group="b")
    assert last.standing.rank == scores.height
    assert (last.shard, last.row) == scores.select("shard", "row").row(-1)


def test_some_rows_are_drawn_where_not_all_are_asked_for(run: Run) -> None:
    every = curate.why(run, "3-2", target_rows="all", rows=12)
    some = curate.why(run, "3-2", target_rows=4, rows=12)
    assert some.rows_scored == 4
    assert "4 of 12 target rows" in (some.rows_note or "")
    by_row = {r.row: r.score for r in (*every.helps, *every.hurts)}
    assert {r.row for r in (*some.helps, *some.hurts)} <= set(by_row)
    for r in (*some.helps, *some.hurts):
        assert r.score == pytest.approx(by_row[r.row], rel=1e-3)


def test_an_id_of_several_documents_is_refused_with_their_places(run: Run) -> None:
    with pytest.raises(CurateError, match=r"2 documents of .*: a\.jsonl:1, again\.jsonl:1\."):
        curate.why(run, "1-1")
    assert curate.why(run, "again.jsonl:1").doc_id == "1-1"


def test_what_cannot_be_explained_is_refused(project: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="no document 'nobody'") as error:
        curate.why(run, "nobody")
    assert "curate sql" in (error.value.hint or "")
    with pytest.raises(CurateError, match="set aside"):
        curate.why(run, "a.jsonl:8")
    with pytest.raises(SettingsError, match="expected one of them"):
        curate.why(run, "3-2", rank=1)
    with pytest.raises(CurateError, match="has no group"):
        curate.why(run, "3-2", group="c")
    shutil.copytree(run.path, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "target")
    before = sorted(p.name for p in (tmp_path / "copy").iterdir())
    with pytest.raises(CurateError, match="does not keep what it was scored along"):
        curate.why(tmp_path / "copy", "3-2")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == before


def test_a_pool_that_has_moved_is_named_anew(project: Path, run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (project / "pool").rename(moved)
    try:
        with pytest.raises(CurateError, match="not where it was"):
            curate.why(run, "3-2")
        assert curate.why(run, "3-2", pool=[str(moved)]).doc_id == "3-2"
    finally:
        moved.rename(project / "pool")


def test_a_method_without_tokens_says_so_and_tells_the_rest(project: Path) -> None:
    told = curate.why(scored(project, "bm25"), rank=2)
    assert "bm25 scores whole documents" in (told.tokens_note or "")
    assert told.standing.rank == 2
    assert told.tokens == told.helps == told.hurts == ()


def test_the_page_is_one_file_that_escapes_texts_and_replaces_no_other(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    told = curate.why(run, "3-2", html=page)
    text = page.read_text()
    assert "&lt;|endoftext|&gt;" in text
    assert "<script" not in text
    assert text.count('<span title="') == len(told.tokens)
    curate.why(run, "3-2", html=page)
    other = tmp_path / "mine.html"
    other.write_text("mine")
    with pytest.raises(CurateError, match="did not write it"):
        curate.why(run, "3-2", html=other)


def test_the_command_prints_words_and_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["why", str(run.path), "3-2", "--rows", "2"])
    out = capsys.readouterr().out
    assert "target rows helped most" in out or "target rows hurt most" in out
    main(["why", str(run.path), "3-2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert sum(t["score"] for t in told["tokens"]) == pytest.approx(told["standings"][0]["score"], rel=1e-3)


def test_the_strongest_token_has_the_strongest_colour() -> None:
    assert strengths([4.0, -1.0, 0.0]) == [1.0, -0.5, 0.0]
    assert strengths([]) == []
