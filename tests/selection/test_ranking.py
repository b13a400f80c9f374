from pathlib import Path

import pyarrow as pa
import pytest

from curate.errors import SettingsError
from curate.scores.run import Run
from curate.selection.ranking import ranking_column
from curate.selection.select import select
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

COLUMNS = ["score", "score_law", "score_code"]


def stage(sql: str = "SELECT * FROM candidates", **values) -> dict:
    return {"values": values, "sql": sql}


TOP = stage(share=0.05, count=None, score="score_law")
DEDUP = stage(by="content_hash", score="score")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([TOP], "score_law"),
        ([TOP, DEDUP], "score_law"),  # dedup's column decides between copies
        ([DEDUP, stage(tokens=10, score="score_code")], "score_code"),
        ([DEDUP], "score"),
        ([stage(tokens=30)], "score"),  # min_tokens has no column
        ([], "score"),
        ([stage("SELECT * FROM candidates WHERE score_law / n_tokens > 1 -- not score_code")], "score_law"),
        ([stage("SELECT * FROM candidates WHERE score_law > score_code")], "score"),  # whose ranking is not told
    ],
)
def test_a_selection_was_ranked_by_the_column_that_its_size_was_filled_by(filters: list[dict], expected: str) -> None:
    assert ranking_column(filters, COLUMNS) == expected


# Eight documents: (score, score_law, score_web, tokens). By score per token the order is another one.
TABLE = [
    (8.0, 1.0, 4.0, 100),
    (6.0, 9.0, 1.0, 300),
    (5.0, 2.0, 8.0, 10),
    (4.0, 3.0, 2.0, 20),
    (3.0, 8.0, 6.0, 40),
    (2.0, 5.0, 3.0, 5),
    (-1.0, -2.0, -4.0, 50),
    (-9.0, float("nan"), -8.0, 1000),
]
COUNT = 3


def make_run(path: Path, **settings: object) -> Run:
    details = {"columns": ["score", "score_law", "score_web"]}
    run = Run.start(path, settings={**SETTINGS, **settings}, fingerprints=FINGERPRINTS, details=details)
    for number, part in enumerate((TABLE[:4], TABLE[4:])):
        score, law, web, tokens = (list(column) for column in zip(*part, strict=True))
        columns = {"score_law": law, "score_web": web}
        arrays = {name: pa.array(values, pa.float32()) for name, values in columns.items()}
        table = rows(f"s{number}", 0, score, n_tokens=pa.array(tokens, pa.int32()), **arrays)
        write(run, f"s{number}", number, table)
    run.finish({"documents": len(TABLE), "tokens": sum(row[3] for row in TABLE)})
    return run


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("summed") / "run", method_settings={"normalize": "none"})


@pytest.fixture(scope="module")
def user_filter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filters") / "mine.sql"
    path.write_text(f"SELECT * FROM candidates WHERE isfinite(score) ORDER BY score DESC LIMIT {COUNT}")
    return path


def best(column: int, *, per_token: bool) -> list[int]:
    """The places of the best documents, worked out by hand."""
    values = {i: row[column] / (row[3] if per_token else 1) for i, row in enumerate(TABLE)}
    values = {i: value for i, value in values.items() if value == value}
    return sorted(sorted(values, key=lambda i: -values[i])[:COUNT])


def kept(run: Run, monkeypatch: pytest.MonkeyPatch, **how: object) -> list[int]:
    """The places that a selection keeps, read from its funnel."""
    from curate.selection import funnel

    places: list[int] = []

    class Watched(funnel.Funnel):
        def composition(self, by: str, column: str) -> list[tuple]:
            pos = self.session.connection.sql("SELECT pos >> 40, pos & 1023 FROM _kept ORDER BY pos").fetchall()
            places.extend(4 * shard + row for shard, row in pos)
            return super().composition(by, column)

    monkeypatch.setattr("curate.selection.select.Funnel", Watched)
    select(run, **how)
    return places


@pytest.mark.parametrize(("group", "column"), [(None, 0), ("law", 1), ("web", 2)])
@pytest.mark.parametrize("rank_by", ["score", "density"])
def test_every_way_of_ranking_takes_the_groups_column_and_divides_it_by_tokens(
    summed: Run, user_filter: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, column: int, rank_by: str
) -> None:
    expected = best(column, per_token=rank_by == "density")
    asked = {"group": group, "rank_by": rank_by}
    tokens = sum(TABLE[i][3] for i in expected)
    assert kept(summed, monkeypatch, top=COUNT, **asked) == expected
    assert kept(summed, monkeypatch, budget=tokens, **asked)[:COUNT] == expected
    assert kept(summed, monkeypatch, filters=[user_filter], **asked) == expected
    mixed = [("mix_random", {"count": COUNT, "random": "0%"})]
    assert kept(summed, monkeypatch, filters=mixed, **asked) == expected
    drawn = [("sample", {"count": COUNT, "temperature": 0})]
    assert kept(summed, monkeypatch, filters=drawn, **asked) == expected


def test_groups_that_choose_in_turn_rank_per_token_too(summed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = kept(summed, monkeypatch, top=2, aggregate="round-robin", rank_by="density")
    assert turns == [2, 5]  # the densest of law is 5, that of web 2
    assert kept(summed, monkeypatch, top=2, aggregate="round-robin") == [1, 2]


def test_whole_shards_rank_by_all_of_their_score_per_all_of_their_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ([(4.0, 100), (1.0, 300), (2.0, 20)], [(6.0, 40), (-4.0, 50)])  # 7 of 420 and 2 of 90
    run = Run.start(
        tmp_path / "r",
        settings={**SETTINGS, "method_settings": {"normalize": "none"}},
        fingerprints=FINGERPRINTS,
        details={"columns": ["score"]},
    )
    for number, shard in enumerate(shards):
        tokens = pa.array([row[1] for row in shard], pa.int32())
        write(run, f"s{number}", number, rows(f"s{number}", 0, [row[0] for row in shard], n_tokens=tokens))
    run.finish({"documents": 5})
    assert kept(run, monkeypatch, unit="shard", top=1) == [0, 1, 2]  # mean 2.33 against 1
    assert kept(run, monkeypatch, unit="shard", top=1, rank_by="density") == [4, 5]
    # Of the documents' own densities, .04, .003 and .1 against .15 and -.08, the largest is in the second.
    assert kept(run, monkeypatch, unit="shard", shard_score="max", top=1, rank_by="density") == [4, 5]
    assert kept(run, monkeypatch, unit="shard", shard_score="q05", top=1, rank_by="density") == [0, 1, 2]


def test_the_record_says_what_ranked_and_averages_it(summed: Run) -> None:
    selection = select(summed, top=COUNT, group="law", rank_by="density", by="shard")
    record = selection.record()
    assert record["ranking"] == {"by": "density", "group": "law", "column": "score_law"}
    assert selection.ranked_by == "score_law per token"
    assert [s["ranked_by"] for s in record["filters"]] == [[], ["score_law per token"]]
    means = {row["value"]: row["mean_score"] for row in record["composition"]["rows"]}
    dense = best(1, per_token=True)
    for shard, places in (("s0", range(4)), ("s1", range(4, 8))):
        values = [TABLE[i][1] / TABLE[i][3] for i in dense if i in places]
        assert means[shard] == pytest.approx(sum(values) / len(values))


def test_the_column_of_a_parameter_is_what_the_record_averages(summed: Run) -> None:
    selection = select(summed, filters=[("top", {"count": COUNT, "score": "score_web"})], by="doc_id")
    assert selection.ranked_by == "score_web"
    assert {c.mean_score for c in selection.composition if c.documents} == {4.0, 8.0, 6.0}


def test_a_group_that_the_run_lacks_is_refused_with_the_nearest(summed: Run) -> None:
    with pytest.raises(SettingsError, match="has no group 'lw'; expected one of law, web") as refused:
        select(summed, top=1, group="lw")
    assert "law" in (refused.value.hint or "")
    with pytest.raises(SettingsError, match="every group chooses"):
        select(summed, top=1, group="law", aggregate="round-robin")


def test_a_group_is_refused_where_there_is_one_score_column(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "r", settings=SETTINGS, fingerprints=FINGERPRINTS, details={"columns": ["score"]})
    with pytest.raises(SettingsError, match="has one score column"):
        select(run, top=1, group="law")


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("bm25", {"k1": 1.5}, "scores of 'bm25' are no sums over tokens"),
        ("ekfac", {"normalize": "length"}, "are divided already"),
    ],
)
def test_density_is_refused_where_scores_do_not_add_up_over_tokens(
    tmp_path: Path, method: str, settings: dict, message: str
) -> None:
    run = make_run(tmp_path / "r", method=method, method_settings=settings)
    with pytest.raises(SettingsError, match=message):
        select(run, top=1, rank_by="density")
