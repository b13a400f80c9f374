"""A shard that is read again goes on near its first missing row, as spans that one reading would have given."""

from collections.abc import Callable
from pathlib import Path

import pytest

from curate.documents import Fields, open_pool, stretches
from curate.executors.reading import UnfinishedShard, unfinished
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
