import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from curate.errors import CurateError, SettingsError
from curate.folders.atomic import atomic_write
from curate.folders.folder import put_json, put_text, read_json
from curate.folders.local import LocalFolder, open_folder, put_file, refuse_place, refuse_url


def test_a_file_is_read_as_it_was_put(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "deep" / "place")
    put_text(folder, "a/b/c.txt", "é\n")
    put_json(folder, "d.json", {"b": 1, "a": Path("x")})
    assert folder.read("a/b/c.txt") == "é\n".encode()
    assert read_json(folder, "d.json") == {"a": "x", "b": 1}
    assert folder.local("a/b/c.txt").read_text(encoding="utf-8") == "é\n"
    with pytest.raises(FileNotFoundError):
        folder.read("none")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    put_text(folder, "f.txt", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.put("f.txt", fail)
    assert folder.read("f.txt") == b"old"
    assert os.listdir(tmp_path) == ["f.txt"]


def test_failed_atomic_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f.txt"]


def test_a_list_has_what_lies_directly_in_a_folder_and_nothing_half_written(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    for name in ("b.txt", "a/two.txt", "a/one.txt", "a/deep/three.txt"):
        put_text(folder, name, "")
    (tmp_path / "a" / ".one.txt.deadbeef.tmp").write_text("half")
    with folder.claim():
        (tmp_path / "a" / ".two.txt.deadbeef.tmp").write_text("half")
        assert folder.list() == ["a/", "b.txt"]
        assert folder.list("a") == ["a/deep/", "a/one.txt", "a/two.txt"]
    assert folder.list("none") == []
    assert folder.child("a").list() == ["deep/", "one.txt", "two.txt"]
    with pytest.raises(CurateError, match="is a file; expected a folder"):
        open_folder(tmp_path / "b.txt").list()


def test_files_and_folders_are_removed_and_may_be_gone_already(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    put_text(folder, "a/one.txt", "")
    put_text(folder, "two.txt", "")
    for name in ("a", "two.txt", "none"):
        folder.remove(name)
    assert folder.list() == []


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    put_text(open_folder(tmp_path / "mine"), "thesis.txt", "years of work")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    open_folder(tmp_path).remove("link")
    assert open_folder(tmp_path).list() == ["mine/"]
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_folder_appears_whole_in_the_place_of_the_old(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.put_folder("tree", lambda path: (path / "old.txt").write_text("old"))

    def fail(path: Path) -> None:
        (path / "new.txt").write_text("half")
        assert folder.list("tree") == ["tree/old.txt"]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.put_folder("tree", fail)
    assert folder.list("tree") == ["tree/old.txt"]
    folder.put_folder("tree", lambda path: (path / "new.txt").write_text("new"))
    assert folder.list("tree") == ["tree/new.txt"]
    assert os.listdir(tmp_path) == ["tree"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_claim(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from curate.folders.local import open_folder\n"
        "def write(path):\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder = open_folder(sys.argv[1]); claim = folder.claim(); folder.put('a/f.txt', write)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    (half,) = (tmp_path / "a").iterdir()
    assert half.read_text() == "half"
    with open_folder(tmp_path).claim():
        assert list((tmp_path / "a").iterdir()) == []


def test_one_process_at_a_time_has_the_claim(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    with folder.claim(), pytest.raises(CurateError, match="another process is writing"):
        folder.claim()
    folder.claim().release()


def test_folders_of_one_address_are_equal_and_pickle(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    assert pickle.loads(pickle.dumps(folder)) == folder == LocalFolder(tmp_path) != folder.child("a")


@pytest.mark.parametrize("address", ["s3://bucket/run", "gs://b/r", "hf://datasets/a/b", "file:///tmp/x", "az://c"])
def test_a_url_is_refused_in_either_writing(address: str) -> None:
    scheme, _, rest = address.partition("://")
    for given in (address, Path(address)):  # which has one slash less
        with pytest.raises(SettingsError, match=rf"--out is {scheme}://{rest.lstrip('/')}; expected a path") as caught:
            refuse_url(given, "--out")
        assert "give a folder here" in str(caught.value.hint)


@pytest.mark.parametrize("address", ["file:///tmp/x", "https://host/x", "ftp://host/x"])
def test_results_lie_in_no_url_but_an_object_stores(address: str) -> None:
    with pytest.raises(SettingsError, match="expected a path on this machine"):
        open_folder(address)
    with pytest.raises(SettingsError, match="expected a path on this machine"):
        refuse_place(address, "--out")
    with pytest.raises(SettingsError, match="expected a path on this machine"):
        put_file(address, lambda path: path.write_text(""))


@pytest.mark.parametrize(
    "address", ["s3://bucket/a/run", "gs://bucket/a/run", "hf://buckets/a/run", "az://bucket/a/run"]
)
def test_an_address_of_an_object_store_is_one_in_either_writing(address: str) -> None:
    for given in (address, Path(address), f"{address}/"):
        folder = open_folder(given)
        assert (folder.address, folder.is_here) == (address, False)
        refuse_place(given, "--out")


@pytest.mark.parametrize("address", ["s3://me:pa55@bucket/run", "s3://bucket/run?secret=pa55", "az://c/run?sig=pa55"])
def test_an_address_of_results_holds_no_secret_and_the_refusal_tells_none(address: str) -> None:
    with pytest.raises(SettingsError, match="holds a password or a key") as caught:
        open_folder(address)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("address", ["runs/x", "/tmp/a:b/c", "C:/runs", "./s3:/x", "a b://c", None])
def test_paths_are_no_urls(address: str | None) -> None:
    refuse_url(address, "--out")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file/run", r"file is a file; expected a folder"),
        ("n" * 250, "its name is too long"),
        (f"{'n' * 300}/x", "long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_made(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match=rf"--out is .*{told}"):
        refuse_place(tmp_path / place, "--out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    refuse_place(tmp_path / "not" / "yet" / ("n" * 200), "--out")
    refuse_place(tmp_path / "file", "--out")


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(SettingsError, match="no permission to write in"):
        refuse_place(tmp_path / "x", "--out")


def test_what_a_killed_writer_left_of_a_file_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".a.db.partial"
    left.mkdir()
    (left / "a.db").write_text("half")
    (left / "a.db.wal").write_text("log")
    put_file(tmp_path / "a.db", lambda path: path.write_text("whole"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]
    with pytest.raises(KeyError):
        put_file(tmp_path / "a.db", lambda path: {}["x"])
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.db", "whole")]


def test_a_relative_folder_with_a_colon_in_its_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_folder("c4:train/x").local() == tmp_path / "c4:train" / "x"
    assert open_folder("runs/c4:train").local() == Path("runs/c4:train")
