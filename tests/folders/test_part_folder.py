import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from curate.errors import CurateError, SettingsError
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, skipped, write


def test_record_is_deterministic_and_sorted(start, tmp_path):
    first, second = start("a"), start("b")
    assert (first.path / "run.json").read_bytes() == (second.path / "run.json").read_bytes()
    record = json.loads((first.path / "run.json").read_text())
    assert record == {"format": 1, "settings": SETTINGS, "fingerprints": FINGERPRINTS, "details": {}}
    assert list(record) == sorted(record)


def test_same_settings_continue_and_keep_the_record(start):
    with start() as run:
        run.add_details(covered=0.9)
        before = (run.path / "run.json").read_bytes()
    with start() as again:
        assert again.record.json["details"] == {"covered": 0.9}
        assert (again.path / "run.json").read_bytes() == before


def test_tuples_and_paths_compare_as_they_are_kept(tmp_path):
    settings = {"pool": (Path("pool"),), "nested": {"shape": (1, 2)}}
    Run.start(tmp_path / "r", settings=settings, fingerprints={}).close()
    Run.start(tmp_path / "r", settings=settings, fingerprints={}).close()


def test_other_settings_are_refused_by_name(start, tmp_path):
    with start(dim=16, fields={"text": "body"}) as run:
        write(run, "a", 0, rows("a", 0, [1.0]))
    with pytest.raises(SettingsError) as error:
        start(dim=32, fields={"text": "content"}, seed=1)
    assert "dim: the run has 16, you asked for 32" in error.value.message
    assert 'fields.text: the run has "body", you asked for "content"' in error.value.message
    assert "seed: the run has nothing, you asked for 1" in error.value.message
    assert "--out" in error.value.hint
    with pytest.raises(SettingsError, match=r'target: the run has "bb", now it is "zz"'):
        Run.start(
            tmp_path / "run",
            settings={**SETTINGS, "fields": {"text": "body"}},
            fingerprints={**FINGERPRINTS, "target": "zz"},
        )
    start(dim=16, fields={"text": "body"}).close()  # a refusal leaves no lock behind


def test_a_setting_that_an_older_run_does_not_know_may_ask_for_nothing(start):
    with start(dim=16) as run:
        write(run, "a", 0, rows("a", 0, [1.0]))
    start(dim=16, holdout=0.0, fit_from=None).close()


def test_a_run_without_parts_gives_way_to_other_settings(start):
    start(dim=16).close()
    with start(dim=32) as run:
        assert run.record.settings["dim"] == 32
        assert Run.open(run.path).record.settings["dim"] == 32
        with pytest.raises(CurateError, match="another process is writing"):
            start(dim=64)


def test_start_refuses_a_folder_of_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CurateError, match=r"not empty and not a run \(it holds thesis.tex\)"):
        Run.start(tmp_path, settings={}, fingerprints={})


def test_second_process_is_refused_until_the_first_ends(start, tmp_path):
    code = (
        "import sys; from curate.scores.run import Run\n"
        "from curate.errors import CurateError\n"
        f"try: Run.start(sys.argv[1], settings={SETTINGS!r}, fingerprints={FINGERPRINTS!r})\n"
        "except CurateError as error: sys.exit(error.message)"
    )
    run = start()
    command = [sys.executable, "-c", code, str(run.path)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "another process is writing this run" in second.stderr
    run.close()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_open_says_what_is_missing(start, tmp_path):
    with pytest.raises(CurateError, match="no such folder"):
        Run.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CurateError, match=r"not a run \(it holds no run.json\)"):
        Run.open(tmp_path / "empty")
    run = start()
    with pytest.raises(CurateError) as error:
        Run.open(tmp_path)
    assert str(run.path) in error.value.hint
    (run.path / "run.json").write_text('{"format": 99}')
    with pytest.raises(CurateError, match="the format is 99; expected 1"):
        Run.open(run.path)


def test_parts_say_what_they_cover(start):
    run = start()
    write(
        run,
        "a.jsonl",
        0,
        rows("a.jsonl", 0, [1.0, 2.0]),
        skipped(("a.jsonl", 2, "empty text")),
        end=3,
        last=False,
    )
    write(run, "a.jsonl", 0, rows("a.jsonl", 3, [3.0]), index=1, start=3, end=4)
    for view in (run, Run.open(run.path)):
        parts = view.parts("a.jsonl")
        assert [(p.index, p.start, p.end, p.last) for p in parts] == [(0, 0, 3, False), (1, 3, 4, True)]
        assert view.parts("b.jsonl") == []
    assert run.scores().collect()["score"].to_list() == [1.0, 2.0, 3.0]
    assert run.skipped().collect().to_dicts()[0]["reason"] == "empty text"
    assert [p.name for p in (run.path / "skipped").iterdir()] == ["00000-00000.parquet"]


def test_parts_stop_at_a_gap(start):
    run = start()
    for index in (0, 1, 2):
        write(run, "a", 0, rows("a", index, [1.0]), index=index, start=index, end=index + 1, last=index == 2)
    (run.path / "scores" / "00000-00001.parquet").unlink()
    assert [p.index for p in Run.open(run.path).parts("a")] == [0]


def test_part_written_again_has_the_same_bytes_whatever_its_chunks(start):
    run = start()
    whole = rows("a", 0, [1.0, 2.0, 3.0])
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    first = write(run, "a", 0, whole, skipped(("a", 3, "empty text")), end=4).path.read_bytes()
    assert write(run, "a", 0, pieces, end=4).path.read_bytes() == first
    assert list((run.path / "skipped").iterdir()) == []  # what an earlier try had set aside is gone
    assert len(run.parts("a")) == 1


def test_leftovers_of_a_killed_process_are_removed(start):
    run = start()
    run.close()
    left = run.path / "scores" / ".00000-00000.parquet.deadbeef.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    start()
    assert not left.exists()
    assert not list(run.path.rglob("*.tmp"))


def test_unreadable_part_is_named(start):
    run = start()
    (run.path / "scores").mkdir()
    (run.path / "scores" / "00000-00000.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(CurateError, match=r"00000-00000\.parquet: not a readable Parquet file"):
        Run.open(run.path).parts("a")


def test_finish_keeps_totals(start):
    run = start()
    assert (run.is_finished, run.totals) == (False, None)
    run.finish({"documents": 3, "skipped": {"empty text": 1}})
    again = Run.open(run.path)
    assert again.is_finished
    assert again.totals == {"documents": 3, "skipped": {"empty text": 1}}


def test_parts_of_different_pool_formats_become_one_frame(start):
    run = start()
    write(run, "a", 0, rows("a", 0, [1.0], year=pa.array([None]), extra=pa.array([7])))
    write(run, "b", 1, rows("b", 0, [2.0], year=pa.array([1999]), source=["web"]))
    write(run, "c", 2, rows("c", 0, [3.0], year=pa.array(["MCM"]), extra=pa.array([0.5])))
    frame = run.scores().collect()
    assert frame["year"].to_list() == [None, "1999", "MCM"]
    assert frame["extra"].to_list() == [7.0, None, 0.5]
    assert frame["source"].to_list() == [None, "web", None]


def test_run_without_parts_has_empty_frames(start):
    run = start()
    assert run.scores().collect().height == 0
    assert run.skipped().collect().columns == ["shard", "row", "doc_id", "reason", "detail"]


@pytest.mark.slow
def test_workers_write_parts_out_of_order_while_another_process_holds_the_claim(start, tmp_path):
    with start() as run:
        assert run.all_parts() == []
        code = (
            "import sys; from curate.scores.run import Run; from tests.small_runs import rows, write\n"
            "run, index = Run.open(sys.argv[1]), int(sys.argv[2])\n"
            "write(run, 'a', 0, rows('a', index, [float(index)]), index=index, start=index, end=index + 1)"
        )
        for index in (2, 0):
            subprocess.run([sys.executable, "-c", code, str(run.path), str(index)], check=True)
        run.refresh()
        assert [p.index for p in run.all_parts()] == [0, 2]
        assert [p.index for p in run.parts("a")] == [0]  # up to the gap
        subprocess.run([sys.executable, "-c", code, str(run.path), "1"], check=True)
        run.refresh()
        assert run.scores().collect()["score"].to_list() == [0.0, 1.0, 2.0]
        run.finish({})


def test_sessions_are_logged_one_after_the_other(start):
    for number in (1, 2):
        with start() as run:
            run.log.end({"number": number})
    lines = (run.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2]


def test_a_url_of_no_object_store_is_no_place_for_a_run():
    for act in (Run.open, lambda path: Run.start(path, settings={}, fingerprints={})):
        with pytest.raises(SettingsError, match="https://host/run; expected a path on this machine"):
            act("https://host/run")
