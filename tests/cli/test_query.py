import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import curate
from curate.cli import group, main
from curate.stores.settings import IndexSettings
from tests.scoring import make_pool, make_proxy_folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("query")
    make_proxy_folder(place / "proxy")
    make_pool(place / "pool", 20)
    settings = IndexSettings(
        pool=(str(place / "pool"),), model=str(place / "proxy"), dim=4, background=32, device="cpu"
    )
    return curate.index(settings, place / "stores" / "pile").path


def run(*asked: str, typed: str | None = None):
    return CliRunner().invoke(group, ["query", *asked], input=typed, catch_exceptions=False)


def test_a_text_gives_a_table_of_rank_score_source_and_text(store: Path) -> None:
    shown = run(str(store), "--text", "the court shall hold that a party", "-k", "3").stdout
    for column in ("rank", "score", "source", "id", "text", "law"):
        assert column in shown
    assert "the court shall hold that a party" in shown


def test_files_of_questions_give_json(store: Path, tmp_path: Path) -> None:
    rows = ['{"id": "one", "text": "add three and four"}', '{"prompt": "the ship", "completion": " rode a grey swell"}']
    (tmp_path / "questions.jsonl").write_text("\n".join([*rows, '{"id": "no text"}']) + "\n")
    made = run(str(store), "--file", str(tmp_path / "questions.jsonl"), "-k", "2", "--json")
    found = json.loads(made.stdout)
    assert [(q["query"], len(q["hits"])) for q in found] == [
        ("add three and four", 2),
        ("the ship rode a grey swell", 2),
    ]
    assert found[0]["id"] == "one"
    assert found[0]["hits"][0].keys() >= {"rank", "score", "doc_id", "shard", "row", "text", "columns"}
    assert "set aside" in made.stderr


def test_without_a_query_it_asks_until_there_is_none(store: Path) -> None:
    shown = run(str(store), "-k", "1", typed="the ship rode a swell\nadd three and four\n\nnever read\n")
    assert shown.exit_code == 0
    assert shown.stdout.count("rank") == 2
    assert "81 documents" in shown.stderr
    assert run(str(store), typed="").exit_code == 0


def test_the_latest_store_is_taken_and_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent.parent)
    made = run("--text", "add three", "-k", "1")
    assert "store: stores/pile" in made.stderr


def test_no_store_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["query", "--text", "x"])
    assert stopped.value.code == 1
    assert "curate index --pool FOLDER" in capsys.readouterr().err
