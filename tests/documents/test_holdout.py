import json
from pathlib import Path

import pytest

from curate.documents import Fields, Split, hold_out, read_target
from curate.errors import SettingsError
from curate.folders.local import open_folder

SIZES = {"a": 20, "b": 7, "c": 2}


def write(path: Path, texts: dict[str, list[str]]) -> Path:
    rows = [{"text": t, "task": g, "tags": [1, {"x": None}]} for g, found in texts.items() for t in found]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def many(prefix: str = "") -> dict[str, list[str]]:
    return {g: [f"{prefix}{g} {i}" for i in range(n)] for g, n in SIZES.items()}


def split(*paths: Path, share: float = 0.3, seed: int = 0) -> Split:
    addresses = [str(p) for p in paths]
    return hold_out(read_target(addresses, Fields(), group_by="task"), share, seed, address=addresses)


def heldout(found: Split) -> set[str]:
    assert found.heldout is not None
    return {d.plain_text for d in found.heldout.documents}


def test_every_group_gives_its_share_and_keeps_a_row(tmp_path: Path) -> None:
    found = split(write(tmp_path / "val.jsonl", many()))
    assert found.heldout is not None
    assert {g: found.heldout.groups.count(g) for g in SIZES} == {"a": 6, "b": 2, "c": 1}
    assert {g: found.used.groups.count(g) for g in SIZES} == {"a": 14, "b": 5, "c": 1}
    assert not heldout(found) & {d.plain_text for d in found.used.documents}


def test_the_split_goes_by_seed_and_place_alone(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", many())
    two = write(tmp_path / "two.jsonl", many("second "))
    forward, backward = split(one, two), split(two, one)
    assert forward.details() == backward.details()
    assert heldout(split(one)) != heldout(split(one, seed=1))
    places = split(one).details()["holdout"]["rows"]
    other = write(one, many("quite other words "))
    assert split(other).details()["holdout"]["rows"] == places


def test_rows_are_recorded_and_written_with_all_their_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "val.jsonl", many())
    found = split(path)
    run = tmp_path / "run"
    run.mkdir()
    found.write(open_folder(run))
    written = [json.loads(line) for line in (run / "target" / "heldout.jsonl").read_text().splitlines()]
    rows = found.details()["holdout"]["rows"]["val.jsonl"]
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    assert written == [whole[i] for i in rows]
    assert {r["text"] for r in written} == heldout(found)
    again = read_target(run / "target" / "heldout.jsonl", Fields(), group_by="task")
    assert found.heldout is not None
    assert again.fingerprint() == found.heldout.fingerprint()
    assert found.details()["target_rows"] == sorted(d.content_hash for d in found.used.documents)


def test_what_an_earlier_start_kept_aside_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "val.jsonl", many())
    kept = tmp_path / "target" / "heldout.jsonl"
    split(path, seed=1).write(open_folder(tmp_path))
    other = split(path, seed=2)
    other.write(open_folder(tmp_path))
    assert {json.loads(line)["text"] for line in kept.read_text().splitlines()} == heldout(other)
    split(path, share=0.0).write(open_folder(tmp_path))
    assert not kept.exists()


def test_copies_of_a_row_stay_on_its_side(tmp_path: Path) -> None:
    texts = many()
    texts["b"][:3] = texts["a"][:3]
    texts["a"][10:13] = texts["a"][3:6]
    path = write(tmp_path / "val.jsonl", texts)
    for seed in range(20):
        found = split(path, seed=seed)
        assert not heldout(found) & {d.plain_text for d in found.used.documents}


def test_without_a_share_nothing_is_kept_aside(tmp_path: Path) -> None:
    path = write(tmp_path / "val.jsonl", many())
    found = split(path, share=0.0)
    assert found.heldout is None
    assert set(found.fingerprints()) == {"target"}
    assert set(found.details()) == {"target_rows"}
    found.write(open_folder(tmp_path))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("rows", "says"), [(["one"], "has one row"), (["same", "same"], "a copy of one")])
def test_a_group_that_cannot_be_on_both_sides_is_named(tmp_path: Path, rows: list[str], says: str) -> None:
    path = write(tmp_path / "val.jsonl", {**many(), "d": rows})
    with pytest.raises(SettingsError, match=f"'d'.*{says}|{says}.*'d'"):
        split(path)
