import json

from curate.cli import main
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write


def test_status_shows_progress_of_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["status"])
    assert "no run under runs/" in capsys.readouterr().err
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
