import json

import pytest

import curate
from curate.cli import main
from curate.errors import CurateError
from tests.selection.conftest import make_pool, make_run
from tests.small_runs import rows, write


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with one run under runs/."""
    monkeypatch.chdir(tmp_path)
    make_pool(tmp_path / "pool")
    (tmp_path / "runs").mkdir()
    make_run(tmp_path / "runs" / "x", tmp_path / "pool").close()
    return tmp_path


def test_latest_run_is_taken_and_named(work, capsys):
    main(["select", "--top", "5"])
    out, err = capsys.readouterr()
    assert "run: runs/x" in err
    assert "5 documents" in out
    assert "written to selected" in out
    assert err.splitlines()[-1] == "next: selected/HANDOVER.md loads it into a trainer"  # no rows were kept aside
    (work / "runs" / "x" / "target").mkdir()
    (work / "runs" / "x" / "target" / "heldout.jsonl").write_text("{}")
    main(["select", "--top", "5", "--out", "the others"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("or   curate verify 'the others'")
    assert (work / "selected" / "manifest.json").is_file()


def test_the_library_takes_a_run_by_its_folder_as_the_command_does(work):
    by_folder, by_run = (curate.select(run, top=5).record() for run in ("runs/x", curate.Run.open("runs/x")))
    assert by_folder["after"] == by_run["after"]
    with pytest.raises(CurateError, match="no such folder"):
        curate.select("runs/nowhere", top=5)


def test_filters_keep_their_order_and_parameters(work, capsys):
    first = ["--filter", "quota", "-p", "by=source", "-p", "shares=equal"]
    others = ["--filter=dedup", "-f", "max_tokens", "--param=tokens=60"]
    main(["select", "runs/x", "--budget", "200", *first, *others, "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)
    values = [(f["name"], f["asked"]) for f in found["filters"]]
    assert values == [
        ("decontaminate", {}),
        ("quota", {"by": "source", "shares": "equal", "tokens": 200}),
        ("dedup", {}),
        ("max_tokens", {"tokens": 60}),
        ("token_budget", {"tokens": 200}),
    ]
    assert found["out"] is None
    assert not (work / "selected").exists()


def test_whole_shards(work, capsys):
    main(["select", "--unit", "shard", "--top", "20%", "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["filters"][-1]["kept"] == 1
    assert found["after"]["documents"] == 3


def test_filters_are_listed_with_their_parameters(capsys):
    main(["select", "--list-filters", "--json"])
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert {"top", "quota", "mix_random"} <= set(found)
    assert [p["name"] for p in found["top"]["params"]] == ["share", "count", "score"]
    main(["select", "--list-filters"])
    assert "keep the best documents" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        (["-p", "by=source", "--filter", "quota"], 2, "belongs to the --filter before it"),
        (["--filter", "quota", "-p", "source"], 2, "expected KEY=VALUE"),
        (["--filter", "quot"], 2, "no filter 'quot'"),
        (["--top", "lots"], 2, "--top: expected"),
        (["nowhere", "--top", "5"], 1, "no such folder"),
        ([], 2, "No filter was given"),
        (["--top", "1", "--out", "pool"], 2, "is not a selection"),
    ],
)
def test_usage_errors_are_said(work, capsys, arguments, code, seen):
    with pytest.raises(SystemExit) as stopped:
        main(["select", *arguments])
    assert stopped.value.code == code
    assert seen in " ".join(capsys.readouterr().err.split())


def test_composition_is_by_the_quotas_column_without_rows_of_zeros(tmp_path, monkeypatch, capsys, start):
    monkeypatch.chdir(tmp_path)
    run = start("runs/x")
    values = [f"topic {i:02d}" for i in range(50)]
    write(run, "a", 0, rows("a", 0, [float(50 - i) for i in range(50)], source=["web"] * 50, topic=values))
    run.finish({"documents": 50, "tokens": 50, "skipped": {}})
    main(["select", "runs/x", "--top", "30", "-f", "quota", "-p", "by=topic", "-p", "shares=equal", "--dry-run"])
    out, err = capsys.readouterr()
    assert "┃ topic " in out
    assert [f"topic {i:02d}" in out for i in (0, 11, 12, 49)] == [True, True, False, False]
    assert "… and 18 more" in out
    assert "… and 20 without a document" in out
    assert "--top 30 is a number of documents: the 30 best are kept. A share is --top 30%." in err
    main(["select", "runs/x", "--top", "60%", "--dry-run"])
    out, err = capsys.readouterr()
    assert "┃ source " in out
    assert "is a number" not in err


def test_what_ranked_is_named_beside_its_filter_and_its_mean(tmp_path, monkeypatch, capsys):
    from tests.selection.test_ranking import make_run as make_ranked_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("curate.cli._output.stdout.width", 200)
    make_ranked_run(tmp_path / "r", method_settings={"normalize": "none"}).close()
    main(["select", "r", "--top", "3", "--group", "law", "--rank-by", "density", "--dry-run"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "count=3, by score_law per token" in shown
    assert "mean score_law per token" in shown
