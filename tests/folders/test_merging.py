"""Parts become files of many, which hold the same rows in the same order, whoever merges them and when."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CurateError
from curate.folders import merging
from curate.folders.merging import Sequel
from curate.folders.parts import Span
from curate.scores.run import Run
from curate.scores.session import open_session
from tests.small_runs import rows, skipped, write

SHARDS = (3, 1, 4, 2, 5)  # parts of each

LIST = pa.list_(pa.field("element", pa.float32()))  # as Parquet gives lists back


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "PARTS", 4)
    monkeypatch.setattr(merging, "GROUP_ROWS", 5)


def spans(counts: tuple[int, ...] = SHARDS) -> list[Span]:
    return [
        Span(shard=f"s{number}", shard_index=number, index=i, start=3 * i, end=3 * i + 3, last=i == count - 1)
        for number, count in enumerate(counts)
        for i in range(count)
    ]


def put(run: Run, span: Span) -> None:
    """Write a part of two documents and one row set aside; some without one, some of other columns."""
    tokens = pa.array([[0.5 * i for i in range(span.index)], None if span.index % 2 else []], LIST)
    columns = {"year": [None, span.index], "tokens": tokens} if span.shard != "s3" else {"year": ["MCM", "1999"]}
    aside = skipped((span.shard, span.start + 2, "empty text")) if span.index else skipped()
    scores = [float(span.shard_index), float(span.index)]
    table = rows(span.shard, span.start, scores, **columns)
    run.write_part(span, table, aside)


def filled(run: Run, some: list[Span] | None = None) -> Run:
    for span in spans() if some is None else some:
        put(run, span)
    return run


def merge_ready(run: Run, sequel: Sequel, finished: Sequence[Span]) -> None:
    for span in finished:
        for together in sequel.add(span):
            run.merge(together)


def put_and_merge(run: Run, sequel: Sequel, some: Sequence[Span]) -> None:
    for span in some:
        put(run, span)
        merge_ready(run, sequel, [span])


def files(run: Run) -> dict[str, bytes]:
    folders = (run.path / name for name in ("scores", "skipped"))
    return {str(p.relative_to(run.path)): p.read_bytes() for folder in folders for p in folder.iterdir()}


def names(run: Run) -> list[str]:
    return sorted(p.stem for p in (run.path / "scores").iterdir())


def test_a_finished_run_has_a_file_for_so_many_parts_and_the_rest_as_they_were(start: Callable[..., Run]) -> None:
    loose, run = filled(start("loose")), filled(start())
    run.finish({})
    again = Run.open(run.path)
    assert names(run) == [
        "00000-00000-to-00001-00000",
        "00002-00000-to-00002-00003",
        "00003-00000-to-00003-00001",  # other columns than its neighbours'
        "00004-00000-to-00004-00001",
        "00004-00002",
        "00004-00003",
        "00004-00004",
    ]
    assert [p.span for p in again.all_parts()] == spans()
    assert [p.span for p in again.parts("s2")] == [s for s in spans() if s.shard == "s2"]
    assert all(again.holds(s.shard) for s in spans())
    for part, alone in zip(again.all_parts(), loose.all_parts(), strict=True):
        assert part.rows().equals(alone.rows())
        assert part.rows(["row", "year"]).equals(alone.rows(["row", "year"]))
        assert part.skipped(again.folder).equals(alone.skipped(loose.folder))
    assert again.scores().collect().equals(loose.scores().collect())
    assert again.skipped().collect().equals(loose.skipped().collect())
    for sql in ("FROM scores ORDER BY shard, row", "FROM skipped ORDER BY shard, row"):
        with open_session(again) as session, open_session(loose) as other:
            assert session.query(sql).rows() == other.query(sql).rows()


def test_row_groups_end_with_the_part_that_fills_them(start: Callable[..., Run]) -> None:
    run = filled(start())
    run.finish({})
    metadata = pq.read_metadata(run.path / "scores" / "00002-00000-to-00002-00003.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [6, 2]


def test_merging_early_and_late_gives_the_same_bytes(start: Callable[..., Run]) -> None:
    late, early, resumed = filled(start("late")), start("early"), start("resumed")
    in_no_order = sorted(spans(), key=lambda s: (-s.index, s.shard_index))
    put_and_merge(early, Sequel(), in_no_order)
    put_and_merge(resumed, Sequel(), in_no_order[:9])
    resumed.refresh()
    sequel = Sequel()
    merge_ready(resumed, sequel, resumed.all_parts())
    put_and_merge(resumed, sequel, in_no_order[9:])
    assert len(names(early)) < len(spans())
    for run in (late, early, resumed):
        run.finish({})
    assert files(early) == files(late) == files(resumed)


def test_parts_that_are_taken_out_of_a_file_have_the_bytes_that_they_had(start: Callable[..., Run]) -> None:
    loose, run, other = filled(start("loose")), filled(start()), start("other")
    run.finish({})
    merged = Run.open(run.path)
    for part in merged.all_parts():
        other.adopt(merged, part, part.shard_index)
    assert files(other) == files(loose)


@pytest.mark.parametrize("kept", ["scores", "skipped", "both"])
def test_what_a_merging_that_was_stopped_leaves_is_no_row_twice_and_goes_in_the_end(
    start: Callable[..., Run], kept: str
) -> None:
    run, whole = filled(start()), filled(start("whole"))
    before = files(run)
    run.finish({})
    whole.finish({})
    for name, content in before.items():
        if kept in ("both", name.split("/")[0]):
            (run.path / name).write_bytes(content)
    again = start()
    assert [p.span for p in again.all_parts()] == spans()
    assert again.scores().collect().equals(whole.scores().collect())
    assert again.skipped().collect().equals(whole.skipped().collect())
    again.finish({})
    assert files(again) == files(whole)


def test_a_lost_file_is_the_loss_of_its_parts_alone(start: Callable[..., Run]) -> None:
    run, whole = filled(start()), filled(start("whole"))
    for each in (run, whole):
        each.finish({})
    (run.path / "scores" / "00000-00000-to-00001-00000.parquet").unlink()
    again = start()
    assert [p.span for p in again.all_parts()] == spans()[4:]
    filled(again, spans()[:4]).finish({})
    assert files(again) == files(whole)


def test_a_torn_file_is_named(start: Callable[..., Run]) -> None:
    run = filled(start())
    run.finish({})
    path = next((run.path / "scores").glob("*-to-*"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CurateError, match=path.name):
        Run.open(run.path).all_parts()


def test_an_error_while_merging_at_the_end_is_raised_and_costs_no_part(start: Callable[..., Run]) -> None:
    run, whole = filled(start()), filled(start("whole"))
    whole.finish({})
    path = run.path / "scores" / "00002-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(300) + content[304:])  # its footer is whole
    with pytest.raises(OSError, match="page header"):
        run.finish({})
    assert not run.is_finished
    run.close()
    path.write_bytes(content)
    again = start()
    assert [p.span for p in again.all_parts()] == spans()
    again.finish({})
    assert files(again) == files(whole)


def test_a_run_that_is_written_part_by_part_stays_in_order(start: Callable[..., Run]) -> None:
    run = start()
    assert run.all_parts() == []
    for index in (2, 0, 1, 0):
        write(run, "a", 0, rows("a", index, [1.0]), index=index, start=index, end=index + 1, last=index == 2)
    assert [p.index for p in run.parts("a")] == [0, 1, 2]
