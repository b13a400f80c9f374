"""Copies of objects: bounded, oldest use first, and never taken from a process that uses them."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.errors import SettingsError
from curate.folders import cache
from curate.folders.folder import put_text
from curate.folders.object_folder import ObjectFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of copies, with three of ten bytes, used one after the other, and a file to go on from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "curate" / "objects"
    for age, name in ((3, "a/scores/1/x"), (2, "a/scores/2/x"), (1, "b/1/y"), (9, "a/.scratch/training/state")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"0123456789")
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    yield folder
    cache.end(folder)


def copies(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("?") if p.is_file())


def test_what_was_used_longest_ago_goes_when_a_process_begins(folder, monkeypatch) -> None:
    monkeypatch.setenv(cache.BYTES, "20")
    cache.begin()
    assert copies(folder) == ["a/scores/2/x", "b/1/y"]
    assert (folder / "a/.scratch/training/state").exists()
    assert not (folder / "a/scores/1").exists()


def test_a_use_makes_a_copy_the_last_to_go(folder, monkeypatch) -> None:
    assert cache.use(folder / "a/scores/1/x")
    assert not cache.use(folder / "a/scores/1/none")
    monkeypatch.setenv(cache.BYTES, "10")
    cache.begin()
    assert copies(folder) == ["a/scores/1/x"]


def test_what_a_process_copies_stays_until_it_ends(folder, monkeypatch) -> None:
    monkeypatch.setenv(cache.BYTES, "0")
    place = ObjectFolder(f"memory://{uuid.uuid4().hex}")
    for name in ("u", "v"):
        put_text(place, name, name)
    paths = [place.local("u"), place.local("v")]
    assert [p.read_text() for p in paths] == ["u", "v"]
    assert len(copies(folder)) == 2  # what was there before is gone
    cache.end(folder)
    assert copies(folder) == []


def test_links_count_once_and_go_with_their_copy(folder, monkeypatch) -> None:
    link = folder / "b/.scratch/whole/1/y"
    link.parent.mkdir(parents=True)
    link.hardlink_to(folder / "b/1/y")
    monkeypatch.setenv(cache.BYTES, "30")
    cache.trim(folder, cache.most_bytes())
    assert len(copies(folder)) == 4
    cache.trim(folder, 0)
    assert copies(folder) == []


def test_nothing_is_taken_from_another_process(folder, monkeypatch) -> None:
    monkeypatch.setenv(cache.BYTES, "0")
    code = "from curate.folders import cache; cache.begin(); print('begun', flush=True); input()"
    environment = {**os.environ, cache.BYTES: "1G"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        cache.begin()
        cache.end(folder)
        assert len(copies(folder)) == 3
        other.communicate("\n")
    cache.begin()
    assert copies(folder) == []


@pytest.mark.parametrize("given", ["much", "-1"])
def test_a_limit_that_is_no_number_is_refused(folder, monkeypatch, given) -> None:
    monkeypatch.setenv(cache.BYTES, given)
    with pytest.raises(SettingsError, match=f"CURATE_CACHE_BYTES is {given}; expected a number of bytes"):
        cache.begin()
