"""A shard that is read again goes on near its first missing row, as spans that one reading would have given."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import Fields, open_pool, stretches
from curate.errors import CurateError
from curate.executors.reading import Reader, UnfinishedShard, unfinished
from curate.scores.run import Run
from tests.small_runs import rows


def test_reading_goes_on_from_a_mark_until_the_run_is_finished(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCH", 1000)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n\n' for i in range(500)))
    pool = open_pool(tmp_path / "pool")
    run = start()

    def shards() -> list[UnfinishedShard]:
        return unfinished(run, pool, Fields(), 20)

    read = list(shards()[0].read())
    for each in read[:15]:
        run.write_part(each.span, rows("a.jsonl", each.span.start, [0.0] * 20), run.skipped().collect().to_arrow())
    (again,) = shards()
    assert again.start == 300
    assert again.marks is not None
    assert again.marks.before(300).offset > 0
    assert 280 < again.marks.before(300).row <= 300
    assert list(again.read()) == read[15:]
    run.finish({})
    assert not (run.path / "marks").exists()


def many_lines(seed: int) -> str:
    rng = random.Random(seed)
    lines = [rng.choice(['{"text": "row %d"}', '{"text": "row %d"}\n', '{"text": %d', " "]) for _ in range(300)]
    return "\n".join(line % i if "%d" in line else line for i, line in enumerate(lines))


def many_records(seed: int) -> str:
    """Quoted line ends, stray quotes, blank lines, too few fields, and a header of two lines."""
    rng = random.Random(seed)
    kinds = ['"one\n""two""\n",{}\n', "plain,{}\n", '"text,\n"\n"\n",{}\r\n', 'a"b"c,{}\n', '"a"b,{}\n', "{}\n", "\n"]
    return '\ufeff\n"n\no",text\n' + "".join(rng.choice(kinds).format(i) for i in range(300)) + '"never closed,\n1,2\n'


def write(path: Path, seed: int) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(300)], "n": list(range(300))})
    match path.name:
        case "a.jsonl":
            path.write_text(many_lines(seed))
        case "a.jsonl.gz":
            path.write_bytes(gzip.compress(many_lines(seed).encode()))
        case "b.jsonl.gz":
            whole = gzip.compress(f"{many_lines(seed)}\n{random.Random(seed).randbytes(3000).hex()}".encode())
            path.write_bytes(whole[:-1000])
        case "a.csv":
            path.write_bytes(many_records(seed).encode())
        case "a.parquet":
            pq.write_table(table, path, row_group_size=70)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "b.jsonl.gz", "a.csv", "a.parquet"])
@pytest.mark.parametrize("seed", range(3))
def test_readers_that_take_turns_cut_what_one_does(
    start: Callable[..., Run], tmp_path: Path, name: str, seed: int
) -> None:
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool" / name, seed)
    (shard,) = unfinished(start(), open_pool(tmp_path / "pool"), Fields(), 7)
    rng, readers = random.Random(seed), [Reader() for _ in range(3)]
    one_after_another = list(shard.read())
    in_turns, begun = [], shard.first()
    starts = []
    while begun is not None:
        starts.append(begun)
        in_turns.append(rng.choice(readers).read(begun))
        begun = shard.behind(in_turns[-1].span, in_turns[-1].end)
    assert in_turns == one_after_another
    assert [read.span.end for read in in_turns[:-1]] == [read.span.start for read in in_turns[1:]]
    assert len(in_turns) > 10
    assert [readers[0].read(starts[i]) for i in (3, 1, 5)] == [in_turns[i] for i in (3, 1, 5)]


def test_a_file_that_has_changed_is_not_read_further(start: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool" / "a.jsonl", 0)
    (shard,) = unfinished(start(), open_pool(tmp_path / "pool"), Fields(), 7)
    read = next(shard.read())
    (tmp_path / "pool" / "a.jsonl").write_text(many_lines(1) * 2)
    second = shard.behind(read.span, read.end)
    assert second is not None
    with pytest.raises(CurateError, match=r"a\.jsonl: the file has changed while the pool was read"):
        Reader().read(second)


def test_a_file_that_was_replaced_before_it_is_read_gives_no_rows(start: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(9)))
    (shard,) = unfinished(start(), open_pool(path), Fields(), 20)
    path.write_text(path.read_text().replace("row", "odd"))
    with pytest.raises(CurateError, match=r"a\.jsonl: the file has changed while the pool was read"):
        next(shard.read())
