"""The study of MAGIC against retraining, at tiny size."""

import importlib
import json
import random
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import curate.cli

STUDY = Path(__file__).parents[2] / "examples" / "magic"
FILES = (
    "study.py",
    "laboratory.py",
    "drawing.py",
    "bank.py",
    "lds.py",
    "adjoints.py",
    "peers.py",
    "curvature.py",
    "variants.py",
)
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "old", "dogs", "run", "home", "over", "green", "hills"]
TINY = ["--layers=1", "--width=16", "--heads=2", "--vocab-size=300", "--context=12", "--batch-tokens=96"]
SMALL = [
    "--documents=16",
    "--background-runs=2",
    "--queries=3",
    "--fewer-queries=2",
    "--tokens=12",
    "--steps=4",
    "--batch=8",
]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The study's command, imported as `python examples/magic/study.py` imports it."""
    monkeypatch.syspath_prepend(str(STUDY))
    for name in FILES:
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    return importlib.import_module("study")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a pool and a proxy that a part of it warmed up."""
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choices(WORDS, k=30)), "id": str(i)} for i in range(260)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    warm = ["--documents=40", "--steps=30", "--out", str(tmp_path / "proxy")]
    curate.cli.main(["warmup", "--pool", str(tmp_path / "pool.jsonl"), *TINY, *warm])
    return tmp_path


def run(study: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict:
    asked = [str(place / "proxy"), str(place / "pool.jsonl"), "--out", str(place / "study"), *SMALL, *more]
    monkeypatch.setattr(sys, "argv", ["study.py", *asked])
    study.main()
    return json.loads((place / "study" / "results.json").read_text())


@pytest.mark.slow
def test_the_study_measures_every_part_and_goes_on_where_it_was(
    study: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--retrainings=12", "--whole-runs=2", "--learning-rate=3e-4", "--drop=0.1"]
    found = run(study, place, monkeypatch, *few, "--parts=own,runs,recipes,orders")
    assert "MAGIC, its own run" in capsys.readouterr().out
    rows = {row["scores"]: row for row in found["rows"]}
    assert rows["MAGIC, its own run"]["same order"]["mean"] > 0.8  # derivatives of that very run
    assert {"run 1, step 2, linear layers", "run 2, step 2, all parameters"} <= rows.keys()
    assert rows["epsilon 1e-17, step 2, linear layers"]["queries"] == 2
    assert "orders of their own" in rows["MAGIC, its own run"]
    kept = {p: p.stat().st_mtime_ns for p in (place / "study").rglob("*.npz")}
    again = run(study, place, monkeypatch, *few, "--parts=own,peers")
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    repeated = {row["scores"]: row["same order"] for row in again["rows"]}
    assert repeated["MAGIC, its own run"]["mean"] == rows["MAGIC, its own run"]["same order"]["mean"]
    assert {"BM25", "EK-FAC, after the run", "cosine, before the run"} <= repeated.keys()


@pytest.mark.slow
def test_inverse_curvatures_are_compared_with_the_methods_own(
    study: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curvature = importlib.import_module("curvature")
    ways = [
        {},
        {"damping": 100.0, "power": 0.25},
        {"damping": 100.0, "one": True},
        {"rounds": 1},
        {"damping": 10.0, "rounds": 2},
    ]
    monkeypatch.setattr(curvature, "INVERSES", [curvature.Inverse(**way) for way in ways])
    few = ["--retrainings=12", "--learning-rate=3e-4", "--drop=0.1", "--parts=peers,curvature"]
    found = run(study, place, monkeypatch, *few, "--base=EK-FAC, before the run")
    rows = {row["scores"]: row["same order"] for row in found["rows"]}
    assert rows["EK-FAC, damping 0.1, power 1"][study.LESS] == [0, 0]  # it is that method, by another road
    assert len({rows[i.name]["mean"] for i in curvature.INVERSES}) > 2
    assert rows["EK-FAC + CG, damping 10, rounds 2, documents 200"] == rows["EK-FAC + CG, before the run"]


def test_an_inverse_of_one_layer_is_the_dense_power_of_its_damped_matrix(study: ModuleType) -> None:
    curvature = importlib.import_module("curvature")
    torch.manual_seed(0)
    q_s, q_a = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (3, 4))
    values, u = torch.rand(3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    tensors = {"outputs/a": q_s, "inputs/a": q_a, "eigenvalues/a": values, "inputs_of/a": torch.tensor(0)}
    fit = curvature.Ekfac.of(tensors, damping=0.3)
    solved = curvature.Inverse(damping=0.3, power=0.5).solve(fit, {"a": u}, None)["a"]
    basis = torch.kron(q_s, q_a)
    dense = basis @ torch.diag((values.flatten() + 0.3 * values.mean()) ** -0.5) @ basis.T
    torch.testing.assert_close(solved.flatten(1), u.flatten(1) @ dense)


def test_a_name_that_no_scores_have_is_no_base(
    study: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--retrainings=2", "--learning-rate=3e-4", "--drop=0.1", "--parts=runs", "--base=EK"]
    with pytest.raises(SystemExit):
        run(study, place, monkeypatch, *few)
    assert "no scores 'EK'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_cost_is_told_as_a_multiple_of_plain_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = str(STUDY / "cost.py")
    small = ["--steps=2", "--documents=4", "--tokens=12", "--micro=64"]
    monkeypatch.setattr(sys, "argv", [command, str(place / "proxy"), str(place / "pool.jsonl"), *small])
    runpy.run_path(command, run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"time \d+\.\d+ x plain, forward \d+\.\d+ x", printed)
    assert re.search(r"peak memory \d+\.\d+ x plain", printed)


@pytest.mark.slow
def test_the_cost_is_told_beside_plain_training_where_bergson_is_not_installed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = str(STUDY / "beside.py")
    small = ["--steps=2", "--documents=4", "--tokens=12", "--micro=64", "--repeats=1", "--kinds=plain,magic"]
    monkeypatch.syspath_prepend(str(STUDY))
    monkeypatch.setattr(sys, "argv", [command, str(place / "proxy"), str(place / "pool.jsonl"), *small])
    runpy.run_path(command, run_name="__main__")
    plain, magic = capsys.readouterr().out.splitlines()
    assert plain.endswith("1.00 x plain")
    assert re.search(r"'forward': \d.* \d+\.\d+ x plain", magic)


def test_warmed_up_documents_take_no_part(study: ModuleType, place: Path) -> None:
    drawing = importlib.import_module("drawing")
    tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(place / "proxy")
    seen = drawing.seen_in_warmup(str(place / "proxy"))
    assert len(seen) == 40
    drawn = drawing.draw(str(place / "proxy"), [str(place / "pool.jsonl")], tokenizer, 12, 100, 0)
    assert len({d.content_hash for d in drawn} - seen) == 100
    assert all(len(d.ids) == 12 for d in drawn)


def test_rank_correlation_is_spearmans_ties_and_all(study: ModuleType) -> None:
    lds = importlib.import_module("lds")
    curate_spearman = importlib.import_module("curate.scores.correlation").spearman
    rng = np.random.default_rng(0)
    left, right = rng.integers(6, size=(30, 4)).astype(float), rng.normal(size=(30, 4))
    expected = [curate_spearman(a, b) for a, b in zip(left.T, right.T, strict=True)]
    np.testing.assert_allclose(lds.rank_correlations(left, right), expected, atol=1e-4)


def test_an_oracle_scores_one_and_its_negation_minus_one(study: ModuleType) -> None:
    lds = importlib.import_module("lds")
    rng = np.random.default_rng(0)
    scores, out = rng.normal(size=(5, 40)), (rng.random((50, 40)) < 0.1).astype(float)
    assert lds.lds(scores, out, out @ scores.T).mean == pytest.approx(1)
    assert lds.lds(-scores, out, out @ scores.T).high == pytest.approx(-1)
    shuffled = lds.lds(rng.permuted(scores, axis=1), out, out @ scores.T)
    assert shuffled.low < 0 < shuffled.high
