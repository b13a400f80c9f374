import json
import os

from curate.cli import main
from curate.folders.local import open_folder
from curate.proof.settings import ValidateSettings, VerifySettings, remember
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write


def test_status_shows_progress_of_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["status"])
    told = capsys.readouterr().err
    assert "no run under runs/" in told
    assert told.count("\n") == 1  # whole, however narrow the terminal
    run = Run.start("runs/x", settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, "a", 0, rows("a", 0, [1.0, 2.0]), skipped(("a", 2, "empty text"), ("a", 3, "empty text")), end=4)
    write(run, "b", 1, rows("b", 0, [1.0]), last=False)
    run.close()
    main(["status", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["finished"], found["shards"], found["parts"]) == ("runs/x", False, 1, 2)
    assert (found["documents"], found["tokens"], found["skipped"]) == (3, 40, {"empty text": 2})
    main(["status", "runs/x"])
    out = capsys.readouterr().out
    assert "runs/x" in out
    assert "2 empty text" in " ".join(out.replace("│", " ").split())


def test_an_unfinished_run_tells_of_its_shards_and_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    for name in "abcd":
        (tmp_path / "pool" / f"{name}.jsonl").write_text('{"text": "some words to score"}\n' * 10)
    given = {**SETTINGS, "pool": ["pool"], "method": "loss", "method_settings": {}}
    for number in (1, 2):
        run = Run.start("runs/x", settings=given, fingerprints=FINGERPRINTS, job=f"{number}-of-2")
        run.log.begin(part=f"{number}/2")
        if number == 1:
            write(run, "a.jsonl", 0, rows("a.jsonl", 0, [1.0] * 10))
            write(run, "b.jsonl", 1, rows("b.jsonl", 0, [1.0] * 5), last=False)
            run.log.end({"failed": {"b.jsonl": "3 workers died on rows 5 to 9."}})
        run.close()
    main(["status", "runs/x"])
    shown = capsys.readouterr().out
    assert "shards: 1 done, 1 begun, 2 untouched" in shown
    assert "failed: b.jsonl: 3 workers died on rows 5 to 9." in shown
    assert "parts at work, or killed: 2/2" in shown
    main(["status", "runs/x", "--json"])
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["shards_begun"], state["parts_unended"]) == (1, ["2/2"])
    assert state["shards_failed"] == {"b.jsonl": "3 workers died on rows 5 to 9."}


def test_one_run_tells_settings_share_time_left_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    for name in "abcde":
        (tmp_path / "pool" / f"{name}.jsonl").write_text('{"text": "some words to score"}\n' * 10)
    given = {
        **SETTINGS,
        "pool": ["pool"],
        "method": "loss",
        "method_settings": {},
        "seed": 7,
        "background": 2048,
        "check": 0,
    }
    run = Run.start("runs/it's 5 %", settings=given, fingerprints=FINGERPRINTS)
    for i, name in enumerate("abcd"):
        part = write(run, f"{name}.jsonl", i, rows(f"{name}.jsonl", 0, [1.0] * 10))
        os.utime(part.path, (1e9 + 20 * i + 5000 * (i == 3), 1e9 + 20 * i + 5000 * (i == 3)))
    run.close()
    main(["status", "runs/it's 5 %"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "80% done (40 of about 50 rows, 4 of 5 shards); about 20 s left at 0.5 rows a second" in shown
    assert shown.index("seed 7 0") < shown.index("As by default") < shown.index("check 0")
    assert """go on by: curate score --continue 'runs/it'"'"'s 5 %'""" in shown
    main(["status", "runs/it's 5 %", "--json"])
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["share"], state["rows_per_second"], state["seconds_left"]) == (0.8, 0.5, 20)
    assert state["changed_settings"]["seed"] == [7, 0]
    run.finish({"documents": 40, "tokens": 40, "skipped": {}})
    main(["status", "runs/it's 5 %"])
    shown = capsys.readouterr().out
    assert "finished, 40 rows of 4 shards" in shown
    assert "go on by" not in shown


def test_validations_and_verifications_tell_how_far_they_are_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    remember(open_folder("sel-verified"), "verify", VerifySettings(selection="sel", seeds=2, sweep=(0.1,)))
    (tmp_path / "sel-verified" / "arms").mkdir()
    for name in ("untrained-ab12", "selection-0-ab12", "top-10-0-ab12"):
        (tmp_path / "sel-verified" / "arms" / f"{name}.json").write_text("{}")
    main(["status", "sel-verified"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "sel-verified (curate verify): not finished, 2 of 12 trainings done" in shown
    assert "seeds 2" in shown
    assert "go on by: curate verify --continue sel-verified" in shown
    (tmp_path / "sel-verified" / "verify.json").write_text('{"sentence": "The selection beats random."}')
    main(["status", "sel-verified"])
    shown = capsys.readouterr().out
    assert "finished.\nThe selection beats random." in shown
    assert "go on by" not in shown
    remember(open_folder("x-validation"), "validate", ValidateSettings(runs=("x",)))
    main(["status", "x-validation", "--json"])
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["command"], state["finished"]) == ("validate", False)
    assert state["continue"] == "curate validate --continue x-validation"


def test_one_row_of_one_shard_is_told_as_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run.start("runs/x", settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, "a", 0, rows("a", 0, [1.0]))
    run.finish({"documents": 1, "tokens": 1, "skipped": {}})
    run.close()
    main(["status", "runs/x"])
    assert "runs/x: finished, 1 row of 1 shard." in capsys.readouterr().out
