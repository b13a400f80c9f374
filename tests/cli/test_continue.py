"""Going on with a folder by its name alone, from anywhere."""

import json
import shutil
from pathlib import Path

import pytest

import curate
from curate.cli import main
from curate.pipeline.continuing import recorded
from tests.scoring import make_project

TINY = ["--method", "trackstar", "--dim", "4", "--background", "24", "--part-documents", "8", "--device", "cpu"]
PROOF = {"documents": 24, "queries": 3, "subsets": 3, "drop": 0.2, "removals": 0, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("continue"), 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        read = ["--pool", "pool", "--model", "proxy", *TINY]
        main(["score", "--target", "val.jsonl", *read, "--holdout", "30%", "--out", "runs/a b"])
        main(["index", *read, "--out", "store"])
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def killed(folder: Path, rows: str) -> dict[str, bytes]:
    """Take a folder's last parts away, as if it had been killed; return what its parts' files were."""
    files = {p.name: p.read_bytes() for p in (folder / rows).glob("*.parquet")}
    (folder / "finished.json").unlink()
    for name in sorted(files)[2:]:
        (folder / rows / name).unlink()
    return files


@pytest.mark.parametrize(("command", "name", "rows"), [("score", "runs/a b", "scores"), ("index", "store", "rows")])
def test_a_folder_goes_on_by_its_name_alone_from_another_working_folder(
    project, elsewhere, capsys, command, name, rows
) -> None:
    folder = project / name
    record = "store.json" if command == "index" else "run.json"
    before, settings = killed(folder, rows), json.loads((folder / record).read_text())["settings"]
    main([command, "--continue", str(folder)])
    assert {p.name: p.read_bytes() for p in (folder / rows).glob("*.parquet")} == before
    assert (folder / "finished.json").exists()
    assert json.loads((folder / record).read_text())["settings"] == settings


def test_python_goes_on_with_the_recorded_settings(project, elsewhere) -> None:
    folder = project / "runs" / "a b"
    before = killed(folder, "scores")
    run = curate.score(recorded(folder), folder)
    assert run.is_finished
    assert {p.name: p.read_bytes() for p in (folder / "scores").glob("*.parquet")} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "--continue", "runs/a b", "--dim", "5"], "method_settings.dim: runs/a b has 4, you asked for 5"),
        (["score", "--continue", "runs/a b", "--seed", "3", "--out", "x"], "Leave --out out"),
        (["score", "--continue", "runs/a b", "--context", "32"], "context: runs/a b has null, you asked for 32"),
        (["index", "--continue", "store", "--storage", "int8"], 'storage: store has "float16", you asked for "int8"'),
        (["index", "--continue", "runs/a b"], "curate score --continue 'runs/a b'"),
        (["score", "--continue", "nowhere"], "nowhere is no folder"),
        (["score", "--continue", "nowhere"], "stopped while it loaded its model leaves no settings"),
        (["score", "--continue", "nowhere"], "curate score --target … --pool … --out nowhere"),
        (["score", "--continue", "pool"], "pool holds no run"),
        (["score", "--continue", "pool"], "it holds a.jsonl, b.jsonl.gz"),
    ],
)
def test_what_says_otherwise_is_refused_by_name(project, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_same_setting_given_again_is_no_conflict(project, elsewhere, capsys) -> None:
    given = ["--dim", "4", "--pool", str(project / "pool"), "--workers", "1"]
    main(["score", "--continue", str(project / "runs" / "a b"), *given])
    assert "documents" in capsys.readouterr().out


@pytest.mark.slow
def test_validations_and_verifications_go_on_by_their_folder(project, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(project)
    validation = curate.validate(runs="runs/a b", **PROOF)
    curate.select(curate.Run.open("runs/a b"), top="30%", out="selected")
    quick = {"seeds": 1, "points": 1, "all_times": 0, "other_documents": 4, "baselines": ["bm25"]}
    verification = curate.verify(selection="selected", **quick)
    figures = project / "runs" / "a b-validation" / "validation.json"
    figures.unlink()
    monkeypatch.chdir(tmp_path)
    main(["validate", "--continue", str(figures.parent), "--json"])
    assert json.loads(capsys.readouterr().out)["methods"][0]["lds"]["mean"] == pytest.approx(
        validation.judged[0].lds.mean
    )
    assert figures.exists()
    main(["verify", "--continue", str(project / "selected-verified"), "--json"])
    assert json.loads(capsys.readouterr().out)["sentence"] == verification.sentence
    with pytest.raises(SystemExit):
        main(["verify", "--continue", str(project / "selected-verified"), "--seeds", "2"])
    assert "seeds: " in capsys.readouterr().err
    shutil.rmtree(project / "selected-verified")


def test_a_killed_start_says_where_its_addresses_were_given(project, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(project)
    run = curate.Run.start("runs/killed", settings={"pool": ["pool"]}, fingerprints={})
    run.log.begin()
    run.close()
    monkeypatch.chdir(tmp_path)
    assert curate.Run.open(project / "runs" / "killed").located_settings["pool"] == [str(project / "pool")]
    shutil.rmtree(project / "runs" / "killed")


def test_another_method_is_named_without_what_follows_from_it(project, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit):
        main(["score", "--continue", "runs/a b", "--method", "kfac"])
    told = [line.strip() for line in capsys.readouterr().err.splitlines() if "you asked for" in line]
    assert [line.split(":")[0] for line in told] == ["method"]


def test_a_folder_in_which_a_start_was_killed_says_that_it_is_empty(project, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project)
    killed = project / "runs" / "early"
    killed.mkdir()
    (killed / ".lock").write_text("")
    with pytest.raises(SystemExit):
        main(["score", "--continue", "runs/early"])
    assert "runs/early is empty. A command that was stopped" in " ".join(capsys.readouterr().err.split())
    killed.joinpath(".lock").unlink()
    killed.rmdir()
