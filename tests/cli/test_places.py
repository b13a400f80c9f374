"""Where results go: a URL is refused before any work, by every command that writes."""

import pytest

from curate.cli import main

COMMANDS = {
    "index": ("--pool", "none/", "--out"),
    "rescore": ("{run}", "--out"),
    "select": ("{run}", "--out"),
    "report": ("{run}", "--out"),
    "validate": ("{run}", "--out"),
    "validate banks": ("{run}", "--banks"),
    "validate plot": ("{run}", "--plot"),
    "verify": ("selected", "--out"),
    "verify plot": ("selected", "--plot"),
    "sql": ("{run}", "SELECT 1", "--parquet"),
    "sql db": ("{run}", "--db"),
    "warmup": ("--pool", "{pool}", "--out"),
    "quickstart": ("--out",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_url_is_refused_before_any_work(name, start, tmp_path, monkeypatch, capsys) -> None:
    url = "s3://bucket/results" if name == "quickstart" else "ftp://host/results"
    with start() as run:
        pass
    (tmp_path / "pool.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = [a.format(run=run.path, pool=tmp_path / "pool.jsonl") for a in COMMANDS[name]]
    with pytest.raises(SystemExit) as ended:
        main([name.split()[0], *given, url])
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert f"{given[-1]} is {url}; expected a path on this machine." in said
    assert "give a folder here" in said
    assert sorted(tmp_path.rglob("*")) == before
