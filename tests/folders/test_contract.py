"""What every kind of folder does, on this machine and in an object store."""

import pickle
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.folders import lease
from curate.folders.folder import Folder, put_json, put_text, read_json
from curate.folders.lease import LeaseLostError
from curate.folders.local import open_folder
from curate.folders.object_folder import ObjectFolder


@pytest.fixture(params=["here", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    return open_folder(tmp_path / "place" if request.param == "here" else f"memory://{uuid.uuid4().hex}/deep/place")


def test_a_file_is_read_as_it_was_put(folder: Folder) -> None:
    put_text(folder, "a/b/c.txt", "é\n")
    put_json(folder, "d.json", {"b": 1, "a": Path("x")})
    assert folder.read("a/b/c.txt") == "é\n".encode()
    assert read_json(folder, "d.json") == {"a": "x", "b": 1}
    assert [folder.exists(name) for name in ("a/b/c.txt", "a", "", "none")] == [True, True, True, False]
    assert abs(folder.modified("d.json") / 1e9 - time.time()) < 60
    with pytest.raises(FileNotFoundError):
        folder.read("none")


def test_a_failed_write_leaves_the_old_file(folder: Folder) -> None:
    put_text(folder, "f.txt", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.put("f.txt", fail)
    assert folder.read("f.txt") == b"old"
    assert folder.list() == ["f.txt"]


def test_a_list_has_what_lies_directly_in_a_folder_and_no_claim(folder: Folder) -> None:
    for name in ("b.txt", "a/two.txt", "a/one.txt", "a/deep/three.txt"):
        put_text(folder, name, "")
    with folder.claim(), folder.turn("prepare", lambda: None):
        assert folder.list() == ["a/", "b.txt"]
    assert folder.list("a") == ["a/deep/", "a/one.txt", "a/two.txt"]
    assert folder.list("none") == []
    assert folder.child("a").list() == ["deep/", "one.txt", "two.txt"]
    with pytest.raises(CurateError, match="is a file; expected a folder"):
        folder.child("b.txt").list()


def test_all_files_are_told_with_sizes_and_times(folder: Folder) -> None:
    put_text(folder, "a/deep/three.txt", "333")
    put_text(folder, "b.txt", "1")
    assert [(f.name, f.size) for f in folder.files()] == [("a/deep/three.txt", 3), ("b.txt", 1)]
    assert all(abs(f.modified - time.time()) < 60 for f in folder.files())


def test_files_and_folders_are_removed_and_may_be_gone_already(folder: Folder) -> None:
    put_text(folder, "a/one.txt", "")
    put_text(folder, "two.txt", "")
    for name in ("a", "two.txt", "none"):
        folder.remove(name)
    assert folder.list() == []


def test_local_paths_hold_what_a_file_holds_now(folder: Folder) -> None:
    put_text(folder, "a/one.bin", "1")
    put_text(folder, "two.bin", "2")
    assert folder.local("a/one.bin").read_text() == "1"
    assert [p.read_text() for p in folder.locals(["two.bin", "a/one.bin"])] == ["2", "1"]
    assert folder.local("a/one.bin").is_relative_to(folder.root)
    put_text(folder, "a/one.bin", "!")
    assert folder.local("a/one.bin").read_text() == "!"
    assert folder.locals(["a/one.bin"])[0].read_text() == "!"


def test_folders_of_one_address_are_equal_and_pickle(folder: Folder) -> None:
    put_text(folder, "x", "y")
    assert pickle.loads(pickle.dumps(folder)) == folder == open_folder(folder.address) != folder.child("a")


def test_one_at_a_time_has_the_claim(folder: Folder) -> None:
    with folder.claim() as claim, pytest.raises(CurateError, match="another process is writing"):
        folder.claim()
    assert claim.is_sole
    folder.claim().release()


def test_jobs_share_a_claim_and_the_last_keeps_others_out(folder: Folder) -> None:
    first = folder.claim(shared=True)
    assert first.is_sole
    first.share()
    second = folder.claim(shared=True)
    assert not second.is_sole
    assert not first.become_sole()
    assert second.become_sole()
    with pytest.raises(CurateError, match="another process is writing"):
        folder.claim()
    second.release()


def test_turns_follow_one_another(folder: Folder) -> None:
    put_text(folder, "x", "")
    waited: list[str] = []
    first = folder.turn("prepare", lambda: waited.append("first"))
    threading.Timer(0.3, first.release).start()
    with folder.turn("prepare", lambda: waited.append("second")):
        assert waited == ["second"]


def test_a_guarded_folder_writes_while_its_claim_holds(folder: Folder) -> None:
    with folder.claim() as claim:
        guarded = claim.guard(folder)
        put_text(guarded, "a.txt", "1")
        put_text(guarded.child("b"), "c.txt", "2")
        put_text(pickle.loads(pickle.dumps(guarded)), "a.txt", "3")
        guarded.remove("b")
    assert (folder.read("a.txt"), folder.list()) == (b"3", ["a.txt"])


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectFolder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    return ObjectFolder(f"memory://{uuid.uuid4().hex}/run")


def paused(monkeypatch: pytest.MonkeyPatch, claim: Callable[[], lease.Lease]) -> lease.Lease:
    """Return a claim that nothing renews, like that of a process that is stopped."""
    with monkeypatch.context() as context:
        context.setattr(lease, "_renew", lambda held, stop: None)
        return claim()


def test_a_claim_is_renewed_for_as_long_as_it_is_held(bucket: ObjectFolder) -> None:
    with bucket.claim() as claim:
        time.sleep(1.5)
        put_text(claim.guard(bucket), "x", "still mine")


def test_the_late_write_of_one_whose_claim_expired_does_not_win(
    bucket: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = paused(monkeypatch, bucket.claim)
    put_text(late.guard(bucket), "run.json", "old")
    with bucket.claim() as successor:
        for write in (lambda f: put_text(f, "run.json", "late"), lambda f: f.remove("run.json")):
            with pytest.raises(LeaseLostError, match="no longer has the right to write"):
                write(late.guard(bucket))
        late.release()  # of what is not its own any more
        put_text(successor.guard(bucket), "run.json", "new")
        with pytest.raises(LeaseLostError):
            late.share()
    assert bucket.read("run.json") == b"new"


def test_one_paused_between_its_check_and_its_write_does_not_replace_what_a_successor_wrote(
    bucket: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, check = paused(monkeypatch, bucket.claim), lease.Held.check
    successors: list[lease.Lease] = []

    def check_then_pause(held: lease.Held) -> None:
        check(held)
        if not successors:
            successors.append(bucket.claim())
            put_text(ObjectFolder(bucket.address), "part", "new")  # the successor's

    monkeypatch.setattr(lease.Held, "check", check_then_pause)
    with pytest.raises(LeaseLostError):
        put_text(late.guard(bucket), "part", "late")
    assert bucket.read("part") == b"new"
    successors[0].release()


def test_a_claim_that_expired_is_taken_without_being_asked_for_twice(
    bucket: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = paused(monkeypatch, bucket.claim)
    began = time.monotonic()
    with bucket.claim() as successor:
        assert time.monotonic() - began < 5
        assert successor.token != abandoned.token


def test_an_expired_job_does_not_keep_the_last_one_from_finishing(
    bucket: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = paused(monkeypatch, lambda: bucket.claim(shared=True))
    killed.share()
    with bucket.claim(shared=True) as other:
        assert not other.is_sole
        time.sleep(1.1)
        assert other.become_sole()
