"""The measurements of students, of cascades and of a large pool run on small data, and go on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import curate
from tests.scoring import lines, make_proxy_folder, make_rows

SCRIPTS = Path(__file__).parents[2] / "examples" / "measured"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two domains that was scored for two groups, a proxy, held-out rows."""
    folder = tmp_path_factory.mktemp("measured")
    make_proxy_folder(folder / "proxy")
    pool = [{**r, "domain": ("sums", "seas")[i % 2]} for i, r in enumerate(make_rows(160, 1))]
    (folder / "pool.jsonl").write_bytes(lines(pool))
    (folder / "val.jsonl").write_bytes(lines([{**r, "task": "ab"[i % 2]} for i, r in enumerate(make_rows(8, 2))]))
    (folder / "a.jsonl").write_bytes(lines([{"text": f"{i} {i * i} {i**3} {i**4}"} for i in range(7, 11)]))
    for method in ("dot", "bm25"):
        curate.score(out=folder / "runs" / method, method=method, **scoring(folder))
    return folder


def scoring(folder: Path) -> dict[str, Any]:
    names = {"target": "val.jsonl", "pool": "pool.jsonl", "model": "proxy"}
    return {n: str(folder / name) for n, name in names.items()} | {"group_by": "task"}


def printed(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_students_recall_is_measured_beside_a_cheap_runs(folder: Path) -> None:
    runs = [str(folder / "runs" / "dot"), "--cheap", str(folder / "runs" / "bm25")]
    asked = ["recall.py", *runs, "--students", "words", "--sizes", "80", "--out", str(folder / "recall")]
    table = printed(*asked)
    assert [kept.name for kept in sorted((folder / "recall").iterdir())] == [
        "dot-bm25-80-0.json",
        "dot-words-80-0.json",
    ]
    words = json.loads((folder / "recall" / "dot-words-80-0.json").read_text())
    assert set(words["figures"]) == {"score", "score_a", "score_b"} == set(words["expected"])
    assert words["figures"]["score"]["within_recall"] is not None
    (folder / "recall" / "dot-bm25-80-0.json").write_text(json.dumps({**words, "expected": {}}))
    again = printed(*asked)  # from what is kept
    assert len(again.splitlines()) == len(table.splitlines())
    assert again != table


def test_a_cascade_is_measured_beside_scoring_all(folder: Path) -> None:
    data = [v for n, value in scoring(folder).items() for v in (f"--{n.replace('_', '-')}", value)]
    few = ["--sample", "80", "--tokens", "600", "--seeds", "1", "--batch-size", "2", "--other-documents", "8"]
    heldout = ["--heldout", f"a={folder / 'a.jsonl'}", "--share", "20%"]
    out = folder / "cascades"
    table = printed("cascades.py", *data, "--method", "dot", *heldout, *few, "--out", str(out))
    assert "dot-cascade-a" in table
    teacher, predicted = (curate.Run.open(out / "dot-cascade-a" / part) for part in ("teacher", "predicted"))
    documents = [(run.totals or {})["documents"] for run in (teacher, predicted)]
    assert documents[0] < documents[1] == 160
    assert len(list((out / "outcomes").iterdir())) == 3


def test_a_large_pool_is_made_and_predicted(folder: Path) -> None:
    made = ["--pool", str(folder / "pool.jsonl"), "--size", "0.0004", "--shard", "0.1", "--workers", "1"]
    report = json.loads(printed("gigabytes.py", str(folder / "runs" / "dot"), *made, "--folder", str(folder / "big")))
    assert report["shards"] == 4
    assert report["bytes"] >= 400_000
    shard = (folder / "big" / "pool" / "00000.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in shard.splitlines()]
    assert len(set(texts)) > 0.9 * len(texts)
    assert report["documents"] == sum(len(s.read_bytes().splitlines()) for s in (folder / "big" / "pool").iterdir())
    assert os.path.isdir(folder / "big" / "predicted")


def test_targets_of_a_pools_domains_share_no_document(tmp_path: Path) -> None:
    rows = [{"text": f"{domain} {n}", "domain": domain} for n in range(9) for domain in ("sea", "law")]
    (tmp_path / "pool.jsonl").write_bytes(lines(rows))
    (tmp_path / "more.jsonl").write_bytes(lines([{"text": "x", "task": "more"}]))
    asked = ["--pool", str(tmp_path / "pool.jsonl"), "--more", str(tmp_path / "more.jsonl"), "--rows", "3"]
    printed("targets_of.py", "sea=sea", "both=sea,law", *asked, "--out", str(tmp_path / "targets"))
    tasks = [json.loads(line) for line in (tmp_path / "targets" / "tasks.jsonl").read_text().splitlines()]
    held = [(tmp_path / "targets" / f"{name}_heldout.jsonl").read_text().splitlines() for name in ("sea", "both")]
    assert [row["task"] for row in tasks] == ["more", *["sea"] * 3, *["both"] * 3]
    texts = [row["text"] for row in tasks[1:]] + [json.loads(line)["text"] for of_target in held for line in of_target]
    assert len(set(texts)) == len(texts) == 12
    with pytest.raises(subprocess.CalledProcessError) as few:
        printed("targets_of.py", "law=law", *asked[:2], "--rows", "5", "--out", str(tmp_path / "few"))
    assert "law: 9 documents; expected 10" in few.value.stderr
