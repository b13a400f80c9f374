from pathlib import Path

import pyarrow as pa
import pytest

from curate.documents import Fields, open_pool
from curate.errors import CurateError
from curate.proof.places import _SLACK, draw
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write


def make_run(folder: Path, scored: dict[str, list[int]], **columns: list) -> Run:
    run = Run.start(folder, settings=SETTINGS, fingerprints=FINGERPRINTS)
    for index, (shard, numbers) in enumerate(sorted(scored.items())):
        table = rows(shard, 0, [0.0] * len(numbers))
        table = table.set_column(table.column_names.index("row"), "row", pa.array(numbers, pa.int64()))
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values[: len(numbers)]))
        write(run, shard, index, table)
    run.close()
    return run


def places(found) -> set[tuple[str, int]]:
    return {(shard, row) for shard, numbers in found.rows.items() for row in numbers}


def test_a_draw_is_seeded_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", {"a": list(range(50)), "b": list(range(30))})
    small, large = draw([run], 0, documents=10), draw([run], 0, documents=25)
    assert (len(small), len(large)) == (10, 25)
    assert places(small) < places(large)
    assert places(draw([run], 1, documents=10)) != places(small)
    assert len(draw([run], 0, documents=1000)) == len(draw([run], 0)) == 80


def test_tokens_are_reached_and_not_more_than_one_document_passed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", {"a": list(range(40))})  # of 10, 20, … 400 tokens
    found = draw([run], 0, tokens=2000)
    assert 2000 <= found.tokens < 2400
    assert draw([run], 0).tokens == 8200


def test_several_runs_give_what_they_share_as_one_alone_would_order_it(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"a": list(range(60)), "b": [0, 1]})
    two = make_run(tmp_path / "two", {"a": list(range(0, 60, 2)), "c": [5]})
    both = draw([one, two], 0, documents=10)
    assert places(both) == places(draw([two, one], 0, documents=10))
    assert all(shard == "a" and row % 2 == 0 for shard, row in places(both))
    ordered = [p for n in range(1, 63) for p in places(draw([one], 0, documents=n))]
    first = [p for p in dict.fromkeys(ordered) if p[0] == "a" and p[1] % 2 == 0][:10]
    assert places(both) == set(first)


def test_documents_that_hold_a_target_row_take_no_part(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", {"a": list(range(4))}, target_exact=[False, True, False, True])
    assert places(draw([run], 0)) == {("a", 0), ("a", 2)}


def test_only_the_lowest_keys_are_held_and_nothing_changes_by_it(tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path / "x", {name: list(range(50)) for name in "abcdef"})
    whole = draw([run], 0, documents=20)
    assert _SLACK > 300
    monkeypatch.setattr("curate.proof.places._SLACK", 0)
    assert draw([run], 0, documents=20) == whole


def test_a_shard_that_changes_while_it_is_read_gives_no_arm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "words of row {i}"}}\n' for i in range(9)))
    found, pool = draw([make_run(tmp_path / "x", {"a.jsonl": list(range(9))})], 0), open_pool(path)
    assert len(list(found.read(pool, Fields()))) == 9
    pool.fingerprint()
    path.write_text(path.read_text().replace("words", "terms"))
    with pytest.raises(CurateError, match=r"a\.jsonl: the file has changed"):
        list(found.read(pool, Fields()))
