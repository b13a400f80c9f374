"""Narrow arithmetic is compared with float32, and told of when it breaks the ranking."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import curate
from curate.cli import main
from curate.errors import CurateError
from curate.folders.record import Details
from curate.methods.contract import EncodedTarget
from curate.pipeline import arithmetic
from curate.pipeline.samples import TARGET_ROWS, rows_of
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.scores.arithmetic import arithmetic_note, arithmetic_warning
from curate.scores.correlation import spearman
from curate.scores.run import Run
from tests.scoring import lines, make_proxy_folder, make_rows, make_target
from tests.small_models import random_documents


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arithmetic")
    make_proxy_folder(folder / "proxy")
    (folder / "pool.jsonl").write_bytes(lines(make_rows(40, 1)))
    make_target(folder / "val.jsonl")
    return folder


@pytest.fixture(scope="module")
def awkward(place: Path) -> Path:
    """A proxy whose embeddings and logits differ by what bfloat16 rounds away."""
    model = AutoModelForCausalLM.from_pretrained(place / "proxy")
    with torch.no_grad():
        model.get_input_embeddings().weight += 300.0
        model.get_output_embeddings().weight += 30.0
    model.save_pretrained(place / "awkward")
    AutoTokenizer.from_pretrained(place / "proxy").save_pretrained(place / "awkward")
    return place / "awkward"


def settings(place: Path, **changes) -> ScoreSettings:
    given = {
        "target": (str(place / "val.jsonl"),),
        "pool": (str(place / "pool.jsonl"),),
        "model": str(place / "proxy"),
        "method": "dot",
        "dtype": "bfloat16",
        "device": "cpu",
    }
    return ScoreSettings(**(given | changes))


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return curate.score(settings(place, group_by="task"), place / "runs" / "x", reporter=Heard())


def test_the_correlation_of_every_column_is_kept_and_told(place: Path, run: Run, tmp_path: Path) -> None:
    found = run.record.json["details"]["arithmetic"]
    assert (found["dtype"], found["reference"], found["documents"], found["lost"]) == ("bfloat16", "float32", 40, 0)
    assert list(found["spearman"]) == ["score", "score_a", "score_b"]
    assert all(0.95 < v <= 1 for v in found["spearman"].values())
    assert arithmetic_warning(run.record.details) is None
    heard = Heard()
    again = curate.score(settings(place, group_by="task"), tmp_path / "y", reporter=heard)
    assert (again.path / "run.json").read_bytes() == (run.path / "run.json").read_bytes()
    assert arithmetic_note(run.record.details) in heard.notes
    assert not heard.warnings


def test_the_check_leaves_nothing_behind(run: Run) -> None:
    assert len(list((run.path / "target").iterdir())) == 1
    assert not list(run.path.glob("*float*"))


def test_a_run_that_goes_on_is_not_checked_again(place: Path, run: Run, monkeypatch) -> None:
    monkeypatch.setattr(arithmetic, "_compare", lambda *_: pytest.fail("checked again"))
    curate.score(settings(place, group_by="task"), run.path, reporter=Heard())


@pytest.mark.slow
def test_rounding_that_breaks_the_ranking_is_a_warning_that_is_repeated(place: Path, awkward: Path, capsys) -> None:
    out = place / "runs" / "bad"
    asked = settings(place, model=str(awkward))
    heard = Heard()
    made = curate.score(asked, out, reporter=heard)
    assert made.record.json["details"]["arithmetic"]["spearman"]["score"] < 0.95
    (warning,) = heard.warnings
    assert "ROUNDING ERROR" in warning
    assert "--dtype float32" in warning
    heard = Heard()
    curate.score(asked, out, reporter=heard)
    assert heard.warnings == [warning]
    command = ["score", "--target", *asked.target, "--pool", *asked.pool, "--model", asked.model, "--method", "dot"]
    main([*command, "--dtype", "bfloat16", "--device", "cpu", "--out", str(place / "runs" / "told")])
    end = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert end.count("THESE SCORES ARE LARGELY ROUNDING ERROR") == 2  # before scoring, and at the end
    main(["status", str(out)])
    assert "THESE SCORES ARE LARGELY ROUNDING ERROR" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    main(["status", str(out), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["arithmetic"] == made.record.json["details"]["arithmetic"]


def test_the_same_model_in_float32_needs_no_check(place: Path, awkward: Path, tmp_path: Path) -> None:
    heard = Heard()
    made = curate.score(settings(place, model=str(awkward), dtype="float32"), tmp_path / "x", reporter=heard)
    assert "arithmetic" not in made.record.json["details"]
    assert not heard.warnings


@pytest.mark.parametrize("method", ["random", "length", "bm25"])
def test_methods_that_compute_nothing_in_that_type_are_not_checked(place, tmp_path, monkeypatch, method) -> None:
    monkeypatch.setattr(arithmetic, "load_proxy", lambda _: pytest.fail("loaded the model again"))
    made = curate.score(settings(place, method=method), tmp_path / "x", reporter=Heard())
    assert "arithmetic" not in made.record.json["details"]
    found = made.scores().collect()
    assert found["loss"].null_count() == found["grad_norm"].null_count() == found.height > 0


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_methods_that_only_run_the_model_forward_are_checked(place: Path, tmp_path: Path, dtype: str) -> None:
    made = curate.score(settings(place, method="loss", dtype=dtype), tmp_path / "x", reporter=Heard())
    assert made.record.json["details"]["arithmetic"]["spearman"]["score"] > 0.95


def test_a_check_that_cannot_be_made_is_a_warning_and_the_run_goes_on(place: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(_) -> None:
        raise CurateError("No room for it.")

    monkeypatch.setattr(arithmetic, "load_proxy", refuse)
    heard = Heard()
    made = curate.score(settings(place), tmp_path / "x", reporter=heard)
    assert made.is_finished
    assert made.record.json["details"]["arithmetic"]["failed"] == "No room for it."
    assert "COULD NOT BE CHECKED: No room for it." in heard.warnings[0]


def test_a_part_of_the_target_keeps_every_group() -> None:
    groups = ["common"] * 90 + [f"rare{i % 5}" for i in range(10)]
    whole = EncodedTarget(
        encoded=random_documents([5] * 100), groups=groups, names=sorted(set(groups)), fingerprint="f"
    )
    part = rows_of(whole, 0)
    assert len(part.encoded) == len(part.groups) == TARGET_ROWS
    assert sorted(set(part.groups)) == part.names
    assert part.groups == rows_of(whole, 0).groups
    many = replace(whole, groups=[f"g{i}" for i in range(100)], names=[f"g{i}" for i in range(100)])
    assert len(rows_of(many, 0).groups) == 100


def test_rank_correlation() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 400])) == 1.0
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])) == -1.0
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == 0.9487  # ties at their mean rank
    assert spearman(np.zeros(3), np.zeros(3)) == 1.0
    assert spearman(np.zeros(3), np.arange(3.0)) is None


@pytest.mark.parametrize(
    ("documents", "lost", "values", "warns"),
    [
        (64, 0, {"score": 0.95, "score_a": 0.99}, False),
        (64, 0, {"score": 0.99, "score_a": 0.949}, True),
        (64, 0, {"score": None}, True),
        (2, 0, {"score": -1.0}, False),  # two documents have no ranking to speak of
        (1, 60, {"score": None}, True),
    ],
)
def test_when_scores_are_not_to_be_trusted(documents, lost, values, warns) -> None:
    found = {"dtype": "bfloat16", "reference": "float32", "least": 0.95, "spearman": values}
    details = Details.of({"arithmetic": found | {"documents": documents, "lost": lost}})
    assert (arithmetic_warning(details) is not None) == warns
    assert arithmetic_warning(Details()) is None
    assert arithmetic_note(Details()) is None
