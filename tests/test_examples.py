"""The runnable examples run."""

import json
import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import curate
from curate.scores.run import Run
from tests.scoring import lines, make_proxy_folder, make_rows
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_enrichment_prints_the_share_of_related_documents(tmp_path: Path, monkeypatch, capsys) -> None:
    scores = [10.0 - i for i in range(10)]
    domain = ["math", "sea", "math", "sea", *["sea"] * 6]
    table = rows("a.jsonl", 0, scores, domain=pa.array(domain))
    with Run.start(tmp_path / "x", settings=SETTINGS, fingerprints=FINGERPRINTS) as run:
        write(run, "a.jsonl", 0, table)
        run.finish({"documents": 10, "tokens": 550, "skipped": {}})
    related = tmp_path / "related.json"
    related.write_text(json.dumps({"sums": ["math"]}))
    asked = ["enrichment.py", str(tmp_path / "x"), "--related", str(related), "--column", "domain", "--top", "0.3"]
    monkeypatch.setattr(sys, "argv", asked)
    runpy.run_path(str(EXAMPLES / "enrichment.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "0.200" in printed  # the base rate
    assert "0.667" in printed  # two of the best three


def test_throughput_of_less_is_measured_beside_a_loop(tmp_path: Path, monkeypatch, capsys) -> None:
    model = make_proxy_folder(tmp_path / "proxy")
    (tmp_path / "pool.jsonl").write_bytes(lines(make_rows(4, 1)))
    asked = ["throughput.py", "--model", str(model), "--pool", str(tmp_path / "pool.jsonl"), "--rank", "2"]
    monkeypatch.setattr(sys, "argv", [*asked, "--documents", "4", "--context", "64", "--repeats", "1"])
    runpy.run_path(str(EXAMPLES / "less" / "throughput.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "4 documents" in printed
    assert "| loop of batch size one, signs for 16 vectors |" in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # so small a budget is not met exactly
def test_the_study_of_methods_selects_verifies_and_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    model = make_proxy_folder(tmp_path / "proxy")
    (tmp_path / "pool.jsonl").write_bytes(lines(make_rows(60, 1)))
    (tmp_path / "val.jsonl").write_bytes(lines([{**r, "task": "ab"[i % 2]} for i, r in enumerate(make_rows(8, 2))]))
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": f"{i} {i * i} {i**3} {i**4}"} for i in range(7, 11)]))
    target, pool = str(tmp_path / "val.jsonl"), str(tmp_path / "pool.jsonl")
    values = {"method": "dot", "normalize": "none", "group_by": "task", "model": str(model)}
    curate.score(target=target, pool=pool, out=tmp_path / "dot", **values)
    asked = ["methods.py", str(tmp_path / "dot"), "--heldout", f"a={tmp_path / 'a.jsonl'}", "--model", str(model)]
    few = ["--shares", "30%", "--rank-by", "score,density", "--tokens", "600", "--seeds", "1", "--batch-size", "2"]
    few += ["--other-documents", "8"]
    monkeypatch.setattr(sys, "argv", [*asked, *few, "--out", str(tmp_path / "study")])
    runpy.run_path(str(EXAMPLES / "measured" / "methods.py"), run_name="__main__")
    assert "dot, density" in capsys.readouterr().out
    before = {p: p.read_bytes() for p in (tmp_path / "study" / "outcomes").iterdir()}
    monkeypatch.setattr(curate, "verify", None)  # nothing is trained again
    runpy.run_path(str(EXAMPLES / "measured" / "methods.py"), run_name="__main__")
    assert len(before) == 2
    assert {p: p.read_bytes() for p in (tmp_path / "study" / "outcomes").iterdir()} == before


def test_every_example_is_tested() -> None:
    tests = Path(__file__).parent
    tested = "".join(p.read_text(encoding="utf-8") for p in tests.rglob("test_*.py"))
    untested = [p.name for p in EXAMPLES.rglob("*.py") if f'"{p.name}"' not in tested]
    if untested:
        pytest.fail(f"{', '.join(untested)} have no test")
