"""Folders that appear whole at an address, and copies of folders of an object store."""

import shutil
import uuid
from pathlib import Path

import pytest

from curate.folders import lease
from curate.folders.folder import Folder, put_text
from curate.folders.lease import LeaseLostError
from curate.folders.local import open_folder
from curate.folders.whole import UNFINISHED, is_taken, local_copy, new_folder


@pytest.fixture(params=["here", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    return open_folder(tmp_path / "place" if request.param == "here" else f"memory://{uuid.uuid4().hex}/place")


def write(folder: Folder, **files: str) -> None:
    with new_folder(folder.address, last="last") as new:
        for name, text in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text)


def content(folder: Folder) -> dict[str, str]:
    return {f.name: folder.read(f.name).decode() for f in folder.files() if not f.name.endswith(lease.NAME)}


def test_a_new_folder_takes_the_place_of_what_was_there(folder: Folder) -> None:
    assert not is_taken(folder)
    write(folder, **{"last": "1", "a/b": "2", "old": "3"})
    assert content(folder) == {"last": "1", "a/b": "2", "old": "3"}
    assert is_taken(folder)
    write(folder, **{"last": "4", "a/b": "5"})
    assert content(folder) == {"last": "4", "a/b": "5"}


def test_an_error_leaves_what_was_there(folder: Folder) -> None:
    write(folder, last="1")

    def fail() -> None:
        with new_folder(folder.address, last="last") as new:
            (new / "last").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert content(folder) == {"last": "1"}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    return open_folder(f"memory://{uuid.uuid4().hex}/place")


def test_what_a_killed_process_has_left_may_be_replaced(bucket: Folder) -> None:
    put_text(bucket, "half", "")
    assert is_taken(bucket)
    put_text(bucket, UNFINISHED, "")
    assert not is_taken(bucket)
    write(bucket, last="1")
    assert content(bucket) == {"last": "1"}


def test_the_late_folder_of_one_whose_claim_expired_does_not_win(
    bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as paused:
        paused.setattr(lease, "_renew", lambda held, stop: None)
        late = new_folder(bucket.address, last="last")
        folder = late.__enter__()
        (folder / "last").write_text("late")
    write(bucket, last="new")
    with pytest.raises(LeaseLostError):
        late.__exit__(None, None, None)
    assert content(bucket) == {"last": "new"}


def test_a_copy_has_every_file_and_changes_its_path_with_the_content(bucket: Folder) -> None:
    write(bucket, **{"last": "1", "a/b": "2"})
    copy = local_copy(bucket)
    assert ((copy / "last").read_text(), (copy / "a" / "b").read_text()) == ("1", "2")
    assert local_copy(bucket) == copy
    (copy / "last").unlink()
    shutil.rmtree(bucket.root / "a")  # as a cache is emptied
    assert (local_copy(bucket) / "last").read_text() == "1"
    write(bucket, **{"last": "3", "a/b": "2"})
    assert (local_copy(bucket) / "last").read_text() == "3"
    with pytest.raises(FileNotFoundError):
        local_copy(bucket.child("none"))


def test_a_folder_of_this_machine_is_its_own_copy(tmp_path: Path) -> None:
    assert local_copy(open_folder(tmp_path)) == tmp_path
