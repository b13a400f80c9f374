"""Runs in an object store, against a real S3 server: the same bytes as here, and no fault loses or doubles a row."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.s3 import S3, here, make_piled, results, run

pytestmark = pytest.mark.slow

_SHORT = "import sys; from curate.folders import lease; lease.SECONDS = 2.0; from curate.cli import main; main()"
"""The command with a claim that expires soon."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Path:
    place = tmp_path_factory.mktemp("project")
    make_piled(place, s3, 40)
    run(place, *score("runs/here"))
    return place


def score(out: str, *more: str) -> list[str]:
    return [
        *("score", "--out", out, "--target", "val.jsonl", "--pool", "s3://bucket/pile", "--model", "proxy"),
        *("--method", "trackstar", "--dim", "4", "--background", "60", "--part-documents", "20"),
        *("--batch-tokens", "128", "--device", "cpu"),
        *("--holdout", "30%", *more),
    ]


def begin(place: Path, s3: S3, out: str, *more: str, parts: int) -> subprocess.Popen[str]:
    """Start a scoring, and return once it has written so many parts."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SHORT, *score(out, *more)], cwd=place, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and len(s3.names(f"{out}/scores")) < parts:
        time.sleep(0.05)
    assert process.poll() is None, f"the command ended before it could be stopped: {process.communicate()}"
    return process


def test_score_sql_select_report_and_status_work_on_a_run_in_a_bucket(project: Path, s3: S3) -> None:
    told = run(project, *score("s3://bucket/runs/x"))
    assert "scored in s3://bucket/runs/x" in told
    assert results(s3.files("s3://bucket/runs/x")) == here(project / "runs/here")
    sessions = [json.loads(line) for line in s3.files("s3://bucket/runs/x")["log.jsonl"].splitlines()]
    assert sessions[0]["folder"] == "s3://bucket/runs/x"
    assert "finished" in run(project, "status", "s3://bucket/runs/x")
    for query in (
        "SELECT count(*), sum(score) FROM scores",
        "SELECT text FROM documents JOIN scores USING (shard, row) ORDER BY score DESC LIMIT 3",
        "SELECT reason, count(*) FROM skipped GROUP BY ALL ORDER BY ALL",
    ):
        answers = [run(project, "sql", where, query, "--csv") for where in ("s3://bucket/runs/x", "runs/here")]
        assert answers[0] == answers[1]
    run(project, "select", "s3://bucket/runs/x", "--top", "20%", "--out", "selected", "--format", "jsonl.zst")
    run(project, "select", "runs/here", "--top", "20%", "--out", "selected-here", "--format", "jsonl.zst")
    chosen = [sorted((project / out).rglob("*.zst")) for out in ("selected", "selected-here")]
    assert chosen[0]
    assert [p.read_bytes() for p in chosen[0]] == [p.read_bytes() for p in chosen[1]]
    run(project, "report", "s3://bucket/runs/x", "--out", "report.html")
    assert "s3://bucket/runs/x" in (project / "report.html").read_text()
    assert not (project / "s3:").exists()


def test_two_workers_write_the_same_bytes_and_a_finished_run_is_gone_on_with(project: Path, s3: S3) -> None:
    run(project, *score("s3://bucket/runs/two", "--workers", "2"))
    before = results(s3.files("s3://bucket/runs/two"))
    assert before == here(project / "runs/here")
    run(project, "score", "--continue", "s3://bucket/runs/two")
    assert results(s3.files("s3://bucket/runs/two")) == before


def test_a_killed_run_is_taken_over_once_its_claim_has_expired(project: Path, s3: S3) -> None:
    process = begin(project, s3, "s3://bucket/runs/killed", parts=2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "not finished" in run(project, "status", "s3://bucket/runs/killed") or "done" in run(
        project, "status", "s3://bucket/runs/killed"
    )
    run(project, *score("s3://bucket/runs/killed"))
    assert results(s3.files("s3://bucket/runs/killed")) == here(project / "runs/here")


def test_a_paused_process_whose_run_another_finished_writes_nothing_more(project: Path, s3: S3) -> None:
    process = begin(project, s3, "s3://bucket/runs/paused", parts=1)
    process.send_signal(signal.SIGSTOP)
    run(project, *score("s3://bucket/runs/paused"))
    finished = s3.files("s3://bucket/runs/paused")
    process.send_signal(signal.SIGCONT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no longer has the right to write" in told
    after = s3.files("s3://bucket/runs/paused")
    assert after == finished
    assert results(after) == here(project / "runs/here")


def test_a_second_process_is_refused_while_the_first_is_at_work(project: Path, s3: S3) -> None:
    process = begin(project, s3, "s3://bucket/runs/busy", parts=1)
    words = [sys.executable, "-c", _SHORT, *score("s3://bucket/runs/busy")]
    second = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    _, first_told = process.communicate(timeout=120)
    assert process.returncode == 0, first_told
    assert second.returncode == 0 or "another process is writing this run" in second.stderr
    assert results(s3.files("s3://bucket/runs/busy")) == here(project / "runs/here")


def test_a_store_that_throttles_costs_time_and_no_row(project: Path, s3: S3) -> None:
    s3.fails_every, failed = 11, s3.failed
    try:
        run(project, *score("s3://bucket/runs/slow"))
        csv = run(project, "sql", "s3://bucket/runs/slow", "SELECT count(*), sum(score) FROM scores", "--csv")
    finally:
        s3.fails_every = 0
    assert s3.failed - failed > 10
    assert csv == run(project, "sql", "runs/here", "SELECT count(*), sum(score) FROM scores", "--csv")
    assert results(s3.files("s3://bucket/runs/slow")) == here(project / "runs/here")


def test_a_connection_that_is_lost_for_a_while_costs_time_and_no_row(project: Path, s3: S3) -> None:
    process = begin(project, s3, "s3://bucket/runs/lost", parts=2)
    s3.lost_until = time.monotonic() + 3
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert results(s3.files("s3://bucket/runs/lost")) == here(project / "runs/here")


def test_a_bucket_that_is_not_there_is_named(project: Path, s3: S3) -> None:
    assert "there is no such bucket" in run(project, *score("s3://none/run"), code=1)
