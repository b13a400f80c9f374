from pathlib import Path

import pytest

from curate.errors import CurateError, SettingsError
from curate.training.folder import RECORD, new_folder


def make(out: Path, content: str) -> None:
    with new_folder(out) as folder:
        (folder / RECORD).write_text(content)


def test_the_folder_appears_when_the_block_ends(tmp_path: Path):
    out = tmp_path / "deep" / "proxy"
    with new_folder(out) as folder:
        (folder / RECORD).write_text("{}")
        assert not out.exists()
    assert [p.name for p in out.parent.iterdir()] == ["proxy"]
    assert (out / RECORD).read_text() == "{}"


def test_a_failure_leaves_the_old_proxy_and_nothing_else(tmp_path: Path):
    make(tmp_path / "proxy", "old")

    def fail() -> None:
        with new_folder(tmp_path / "proxy") as folder:
            (folder / RECORD).write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "proxy" / RECORD).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["proxy"]


def test_a_proxy_is_replaced_whole(tmp_path: Path):
    make(tmp_path / "proxy", "old")
    (tmp_path / "proxy" / "old.bin").write_text("x")
    make(tmp_path / "proxy", "new")
    assert [p.name for p in (tmp_path / "proxy").iterdir()] == [RECORD]
    assert [p.name for p in tmp_path.iterdir()] == ["proxy"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    left = tmp_path / ".proxy.partial" / "checkpoints"
    left.mkdir(parents=True)
    (left / "half.bin").write_text("x")
    make(tmp_path / "proxy", "{}")
    assert [p.name for p in (tmp_path / "proxy").iterdir()] == [RECORD]


def test_any_other_folder_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="no proxy made by a warm-up"):
        make(tmp_path, "{}")
    with pytest.raises(SettingsError, match="is a file"):
        make(tmp_path / "thesis.txt", "{}")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_two_at_once_are_refused(tmp_path: Path):
    with new_folder(tmp_path / "proxy") as folder:
        with pytest.raises(CurateError, match="Another warm-up"):
            make(tmp_path / "proxy", "second")
        (folder / RECORD).write_text("first")
    assert (tmp_path / "proxy" / RECORD).read_text() == "first"
