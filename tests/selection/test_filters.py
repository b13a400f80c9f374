"""Contract of every shipped filter, found by looking into filters/; then what each of them does."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CurateError, SettingsError
from curate.scores.neighbours import SCHEMA
from curate.scores.run import Run
from curate.scores.session import open_session
from curate.selection.filters import Filter, bind, filters_folder, find_filter, named_filters, read_filter
from curate.selection.funnel import Funnel
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

FILTERS = sorted(p.stem for p in filters_folder().glob("*.sql"))
# What a filter needs to run: only what has no default.
NEEDED = {
    "top": {"count": 3},
    "token_budget": {"tokens": 300},
    "min_tokens": {"tokens": 30},
    "max_tokens": {"tokens": 60},
    "quota": {"by": "source"},
}
SIZE = {"share": 0.4}


def near(folder: Path, *pairs: tuple[tuple[str, int], tuple[str, int], float]) -> Path:
    """A file of pairs of near documents, each both ways round."""
    both = [pair for a, b, cosine in pairs for pair in ((*a, *b, cosine), (*b, *a, cosine))]
    columns = list(zip(*both, strict=True)) if both else [[]] * 5
    path = folder / "pairs.parquet"
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA), path)
    return path


def some_pairs(run: Run) -> Path:
    """Pairs of every document with the one that comes three later."""
    places = run.scores().select("shard", "row").collect().rows()
    return near(run.path.parent, *((a, b, 0.5 + 0.4 * (i % 2)) for i, (a, b) in enumerate(pairwise(places[::3]))))


def apply(
    run: Run,
    name: str,
    given: dict | None = None,
    *,
    size: dict | None = None,
    threads: int = 2,
    pairs: Path | None = None,
):
    """(doc_id, weight) that the filter keeps, in pool order, and the stage."""
    if pairs is None and find_filter(name).needs == "":
        pairs = some_pairs(run)
    with open_session(run, threads=threads, neighbours=pairs) as session:
        funnel = Funnel(session)
        chosen = find_filter(name)
        given = NEEDED.get(Path(name).stem, {}) if given is None else given
        stage = funnel.apply(
            bind(chosen, given, funnel.columns, total=funnel.total, size=SIZE if size is None else size)
        )
        kept = session.query("SELECT doc_id, weight FROM candidates ORDER BY _pos").rows()
    return [k[0] for k in kept], stage


def filled(run: Run, name: str) -> list[str]:
    return apply(run, name)[0]


def made(path: Path, table: pa.Table, shard: str = "s") -> Run:
    run = Run.start(path, settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, shard, 0, table)
    return run


def test_every_filter_is_found():
    assert set(FILTERS) >= {
        "top", "token_budget", "threshold", "quota", "round_robin", "sample", "min_tokens", "max_tokens", "dedup",
        "decontaminate", "mix_random",
    }  # fmt: skip
    assert list(named_filters()) == FILTERS


@pytest.mark.parametrize("name", FILTERS)
def test_header_says_everything(name):
    shipped = find_filter(name)
    assert shipped.summary
    for param in shipped.params:
        assert len(param.meaning) > 10
        is_column = param.type in ("column", "columns")
        assert ("{" + param.name + "}" if is_column else "$" + param.name) in shipped.sql


@pytest.mark.parametrize("name", FILTERS)
def test_keeps_a_subset_and_says_how_many(run, name):
    kept, stage = apply(run, name)
    with open_session(run) as session:
        everything = [r[0] for r in session.query("SELECT doc_id FROM scores").rows()]
    assert set(kept) <= set(everything)
    assert len(set(kept)) == len(kept) == stage.kept == stage.documents > 0
    assert stage.kept + stage.dropped == len(everything)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Run:
    """Enough rows, and ties, for several threads to have work."""
    rng = np.random.default_rng(0)
    run = Run.start(tmp_path_factory.mktemp("wide") / "run", settings=SETTINGS, fingerprints=FINGERPRINTS)
    for shard in range(3):
        n = 4000
        table = rows(
            f"s{shard}",
            0,
            np.round(rng.standard_normal(n), 1).tolist(),
            n_tokens=pa.array(rng.integers(1, 100, n), pa.int32()),
            score_a=pa.array(np.round(rng.standard_normal(n), 1), pa.float32()),
            score_b=pa.array(np.round(rng.standard_normal(n), 1), pa.float32()),
            source=rng.choice(["x", "y", "z"], n).tolist(),
            content_hash=[f"{h:032x}" for h in rng.integers(0, 5000, n)],
            target_overlap=pa.array(rng.random(n), pa.float32()),
        )
        write(run, f"s{shard}", shard, table)
    return run


@pytest.mark.parametrize("name", FILTERS)
def test_same_documents_for_one_thread_and_four(wide, name):
    given = {**NEEDED.get(name, {}), **({"tokens": 5000} if name == "token_budget" else {})}
    assert apply(wide, name, given, threads=1)[0] == apply(wide, name, given, threads=4)[0]


@pytest.mark.parametrize("name", ["top", "token_budget", "dedup", "quota", "round_robin", "mix_random"])
def test_ties_break_by_doc_id(tmp_path, name):
    ids = ["m", "z", "b", "y", "a", "k"]
    columns = {"doc_id": ids, "score_a": [1.0] * 6, "score_b": [1.0] * 6, "source": ["w"] * 6}
    table = rows("s", 0, [1.0] * 6, n_tokens=pa.array([10] * 6, pa.int32()), content_hash=["same"] * 6, **columns)
    given = {
        "dedup": {},
        "token_budget": {"tokens": 20},
        "quota": {"by": "source", "count": 2},
        "mix_random": {"count": 2, "random": 0},
    }
    kept, _ = apply(made(tmp_path / "r", table), name, given.get(name, {"count": 2}))
    assert sorted(kept) == (["a"] if name == "dedup" else ["a", "b"])


@pytest.mark.parametrize("name", FILTERS)
def test_no_candidates_are_no_error(run, name):
    with open_session(run, neighbours=some_pairs(run)) as session:
        funnel = Funnel(session)
        none = bind(find_filter("threshold"), {"min": 99}, funnel.columns, total=10, size={})
        assert funnel.apply(none).kept == 0
        stage = funnel.apply(bind(find_filter(name), NEEDED.get(name, {}), funnel.columns, total=10, size=SIZE))
        assert (stage.kept, stage.dropped) == (0, 0)


@pytest.mark.parametrize("name", [n for n in FILTERS if any(p.name == "score" for p in find_filter(n).params)])
def test_nan_and_null_scores_never_win(run, name):
    given = {**NEEDED.get(name, {}), "score": "score_math"}
    size = {"count": 2}
    if name == "dedup":
        return
    kept, _ = apply(run, name, given, size=size)
    assert kept
    assert not {"a.jsonl/3", "c.jsonl/1"} & set(kept)  # NaN in score_math
    kept, _ = apply(run, name, {**given, "score": "score_code"}, size=size)
    assert "c.jsonl/0" not in kept  # null in score_code


def test_top_takes_a_share_of_the_run_or_a_number(run):
    assert apply(run, "top", {"count": 3})[0] == ["a.jsonl/1", "a.jsonl/2", "b.parquet/0"]
    assert apply(run, "top", {"share": "30%"})[0] == ["a.jsonl/1", "a.jsonl/2", "b.parquet/0"]
    assert apply(run, "top", {"share": "0.1", "score": "score_math"})[0] == ["a.jsonl/4"]


def test_token_budget_is_never_exceeded(run):
    kept, stage = apply(run, "token_budget", {"tokens": "109"})
    assert (kept, stage.tokens) == (["a.jsonl/1", "b.parquet/0"], 80)


def test_threshold_keeps_its_bounds(run):
    assert apply(run, "threshold", {"min": 0.5, "max": 1.5})[0] == [
        "a.jsonl/0",
        "b.parquet/1",
        "b.parquet/2",
        "c.jsonl/0",
    ]


def test_min_and_max_tokens(run):
    assert len(filled(run, "min_tokens")) == 8
    assert len(filled(run, "max_tokens")) == 6


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({"shares": "equal", "count": 3}, {"web": 1, "code": 1, "wiki": 1, None: 0}),
        ({"shares": "equal", "count": 8}, {"web": 3, "code": 2, "wiki": 2, None: 1}),  # what is short goes to others
        ({"shares": "proportional", "count": 5}, {"web": 3, "code": 1, "wiki": 1, None: 0}),
        ({"shares": "proportional"}, {"web": 5, "code": 2, "wiki": 2, None: 1}),
        ({"shares": "equal"}, {"web": 1, "code": 1, "wiki": 1, None: 1}),
        ({"shares": "web:0.5, wiki:0.5", "share": "40%"}, {"web": 2, "wiki": 2}),
        ({"shares": "web:0.75,wiki:0.25", "count": 4}, {"web": 3, "wiki": 1}),
        ({"shares": "web:0.9,wiki:0.1", "count": 7}, {"web": 5, "wiki": 2}),
    ],
)
def test_quota_gives_every_value_its_share(run, given, counts):
    if given.get("shares") == "equal" and given.get("count") == 3:
        counts = None  # four values share three documents: which value goes without is decided by name
    kept, stage = apply(run, "quota", {"by": "source", **given}, size={})
    with open_session(run) as session:
        source = dict(session.query("SELECT doc_id, source FROM scores").rows())
    found = {v: sum(source[k] == v for k in kept) for v in {source[k] for k in source}}
    if counts is None:
        assert stage.kept == 3
        assert max(found.values()) == 1
    else:
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in counts.items() if v}


def test_quota_takes_the_best_of_every_value_within_tokens(run):
    kept, stage = apply(run, "quota", {"by": "source", "shares": "web:0.5,wiki:0.5", "tokens": 260}, size={})
    assert set(kept) == {"a.jsonl/2", "c.jsonl/0", "a.jsonl/0", "b.parquet/0", "b.parquet/1"}
    assert stage.tokens <= 260


def test_round_robin_lets_every_group_choose(run):
    # best by math (least score, not NaN): a/4; by code: b/0
    assert set(apply(run, "round_robin", {"count": 2})[0]) == {"a.jsonl/4", "b.parquet/0"}
    assert set(apply(run, "round_robin", {"count": 1, "groups": "score_math"})[0]) == {"a.jsonl/4"}


def test_sample_depends_on_its_seed_and_temperature(wide):
    first, _ = apply(wide, "sample", {"count": 500})
    other, _ = apply(wide, "sample", {"count": 500, "seed": 1})
    assert len(first) == len(other) == 500
    assert first != other
    cold, _ = apply(wide, "sample", {"count": 500, "temperature": 1e-6})
    best, _ = apply(wide, "top", {"count": 500})
    with open_session(wide) as session:
        score = dict(session.query("SELECT doc_id, score FROM scores").rows())
    assert sorted(score[k] for k in cold) == sorted(score[k] for k in best)
    mean = {
        t: np.mean([score[k] for k in apply(wide, "sample", {"count": 500, "temperature": t})[0]])
        for t in (0.3, 1, 1e9)
    }
    assert mean[0.3] > mean[1] > mean[1e9]
    assert abs(mean[1e9]) < 0.15  # pure chance: the mean of all, which is 0


def test_sample_follows_the_gumbel_distribution(tmp_path):
    # One draw picks i with probability softmax(score / (temperature · spread)).
    scores = [0.0, 1.0, 2.0, 3.0]
    run = made(tmp_path / "r", rows("s", 0, scores))
    spread = (np.quantile(scores, 0.75) - np.quantile(scores, 0.25)) / 1.349
    wins = np.zeros(4)
    with open_session(run) as session:
        funnel = Funnel(session)
        for seed in range(120):
            bound = bind(find_filter("sample"), {"count": 1, "seed": seed}, funnel.columns, total=4, size={})
            sql = bound.sql.replace("SELECT * EXCLUDE (gumbel)", "SELECT row")
            used = {k: v for k, v in bound.binding.items() if f"${k}" in sql}
            wins[session.connection.execute(sql, used).fetchall()[0][0]] += 1
    expected = np.exp(np.array(scores) / spread)
    expected /= expected.sum()
    assert np.abs(wins / 120 - expected).max() < 0.13


def test_dedup_keeps_the_best(tmp_path):
    table = rows("s", 0, [1.0, 3.0, 2.0, 3.0], content_hash=["x", "x", "y", "x"])
    assert filled(made(tmp_path / "r", table), "dedup") == ["s/1", "s/2"]


def test_decontaminate_drops_what_holds_target_rows(tmp_path):
    overlap = pa.array([0.0, 0.49, 0.5, 1.0], pa.float32())
    table = rows("s", 0, [1.0] * 4, target_exact=[True, False, False, False], target_overlap=overlap)
    run = made(tmp_path / "r", table)
    assert filled(run, "decontaminate") == ["s/1"]
    assert apply(run, "decontaminate", {"overlap": 0.9})[0] == ["s/1", "s/2"]


def test_mix_random_leaves_a_share_to_chance(wide):
    best, _ = apply(wide, "top", {"count": 1000})
    mixed, stage = apply(wide, "mix_random", {"count": 1000, "random": "20%"})
    assert stage.kept == 1000
    common = len(set(best) & set(mixed))
    assert 800 <= common < 860
    assert mixed != apply(wide, "mix_random", {"count": 1000, "random": "20%", "seed": 1})[0]
    _, by_tokens = apply(wide, "mix_random", {"tokens": 20_000, "random": "50%"})
    assert 19_800 < by_tokens.tokens <= 20_000


def write_filter(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_own_filter_may_give_weights_and_read_other_views(run, tmp_path):
    sql = "SELECT c.* REPLACE (2.5 AS weight) FROM candidates c JOIN shards s USING (shard) WHERE documents > 2;"
    own = write_filter(tmp_path / "own.sql", f"-- summary: of large shards\n{sql}\n-- the end")
    kept, stage = apply(run, own, {})
    assert (stage.name, len(kept)) == ("own", 8)


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("SELECT * REPLACE (row + 100 AS row) FROM candidates", "10 rows that are not among"),
        ("SELECT * FROM candidates UNION ALL SELECT * FROM candidates", "10 rows twice"),
        ("SELECT doc_id FROM candidates", "no column 'shard'"),
        ("SELECT * FROM candidates WHERE score > $least", r"\$least, which its header does not declare"),
        ("COPY candidates TO 'x.csv'", "COPY is not a query"),
        ("SELECT * FROM candidats", "own.*candidats"),
        ("SELECT * FROM candidates c JOIN read_text('/etc/hostname') t ON true", "own.*"),
    ],
)
def test_broken_filters_are_named(run, tmp_path, sql, seen):
    own = write_filter(tmp_path / "own.sql", sql)
    with pytest.raises(CurateError, match=seen):
        apply(run, own, {})


@pytest.mark.parametrize(
    ("name", "given", "message", "hint"),
    [
        ("top", {"shar": "5%"}, "no parameter 'shar'", "'share'"),
        ("top", {"share": "5 apples"}, "expected a share such as 5%", "share of all"),
        ("top", {"share": "500%"}, "between 0 and 1", ""),
        ("top", {"share": "5%", "count": 3}, "has share and count; expected one of share, count", ""),
        ("top", {"count": "few"}, "expected a whole number", ""),
        ("top", {"count": 3, "score": "scor"}, "no column 'scor'", "'score'"),
        ("top", {"count": 3, "score": 'score" DESC; --'}, "no column", ""),
        ("quota", {}, "needs 'by'", "-p by="),
        ("sample", {}, "needs one of share, count, tokens", "--budget"),
        ("round_robin", {"count": 1, "groups": "grade_*"}, "No column matches 'grade_*'", ""),
    ],
)
def test_wrong_parameters_are_named(run, name, given, message, hint):
    with pytest.raises(SettingsError) as error:
        apply(run, name, given, size={})
    assert message in error.value.message
    assert hint in (error.value.hint or "")


def test_unknown_filter_names_the_nearest():
    with pytest.raises(SettingsError) as error:
        find_filter("dedupe")
    assert "'dedup'" in error.value.hint


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("-- param: x int", "line 1 is 'x int'; expected"),
        ("-- param: x integer null meaning", "the type is 'integer'; expected one of int"),
        ("-- param: total int null meaning", "given by curate"),
        ("-- param: x int --topp meaning", "the default is --topp; expected"),
        ("-- one of: x", "which is no param"),
    ],
)
def test_broken_headers_are_named(tmp_path, line, seen):
    with pytest.raises(CurateError, match=seen):
        read_filter(Path(write_filter(tmp_path / "own.sql", f"{line}\nSELECT 1")))


def test_values_are_bound_and_columns_quoted(tmp_path):
    odd = 'a "b; DROP'
    run = made(tmp_path / "r", rows("s", 0, [1.0, 2.0], **{odd: [2.0, 1.0]}))
    assert apply(run, "top", {"count": 1, "score": odd})[0] == ["s/0"]
    assert isinstance(find_filter("top"), Filter)


NEAR = {"score": [3.0, 2.0, 1.0, 4.0, 0.5], "ids": ["a", "b", "c", "d", "e"]}


def near_run(tmp_path: Path, *pairs: tuple[int, int, float], **columns) -> tuple[Run, Path]:
    """A run of five documents, and pairs of them by row."""
    run = made(tmp_path / "run", rows("s", 0, NEAR["score"], doc_id=NEAR["ids"], **columns))
    return run, near(tmp_path, *((("s", a), ("s", b), cosine) for a, b, cosine in pairs))


def test_dedup_keeps_the_best_of_documents_that_are_near_directly_or_through_others(tmp_path):
    run, pairs = near_run(tmp_path, (0, 1, 0.98), (1, 2, 0.99), (3, 4, 0.9))
    assert apply(run, "dedup", {"near": 0.97}, pairs=pairs)[0] == ["a", "d", "e"]
    assert apply(run, "dedup", {"near": 0.985}, pairs=pairs)[0] == ["a", "b", "d", "e"]
    assert apply(run, "dedup", {"near": 0.5}, pairs=pairs)[0] == ["a", "d"]
    assert apply(run, "dedup", {}, pairs=pairs)[0] == ["a", "b", "c", "d", "e"]


def test_dedup_takes_copies_and_near_documents_together(tmp_path):
    run, pairs = near_run(tmp_path, (1, 2, 0.99), content_hash=["x", "x", "y", "z", "z"])
    assert apply(run, "dedup", {"near": 0.97}, pairs=pairs)[0] == ["a", "d"]


def test_near_documents_that_are_no_candidates_any_more_link_nothing(tmp_path):
    run, pairs = near_run(tmp_path, (0, 1, 0.98), (1, 2, 0.99), n_tokens=pa.array([9, 1, 9, 9, 9], pa.int32()))
    with open_session(run, neighbours=pairs) as session:
        funnel = Funnel(session)
        for name, given in (("min_tokens", {"tokens": 5}), ("dedup", {"near": 0.97})):
            funnel.apply(bind(find_filter(name), given, funnel.columns, total=funnel.total, size={}))
        assert [r[0] for r in session.query("SELECT doc_id FROM candidates ORDER BY _pos").rows()] == [
            "a",
            "c",
            "d",
            "e",
        ]


def test_diverse_prefers_documents_that_no_better_one_is_like(tmp_path):
    run, pairs = near_run(tmp_path, (3, 0, 0.9), (0, 1, 0.1))
    assert apply(run, "diverse", {"count": 2, "strength": 0}, pairs=pairs)[0] == ["a", "d"]
    assert apply(run, "diverse", {"count": 2, "strength": 1}, pairs=pairs)[0] == ["b", "d"]  # a says what d says
    assert apply(run, "diverse", {"count": 2, "strength": 1}, pairs=near(tmp_path))[0] == ["a", "d"]


def test_diverse_fills_a_token_budget(tmp_path):
    run, pairs = near_run(tmp_path, (3, 0, 0.9), n_tokens=pa.array([10, 10, 10, 10, 10], pa.int32()))
    assert apply(run, "diverse", {"tokens": 25}, pairs=pairs)[0] == ["b", "d"]


@pytest.mark.parametrize(("name", "given"), [("dedup", {"near": 0.9}), ("diverse", {"count": 2})])
def test_without_a_store_a_filter_on_likeness_says_how_to_make_one(tmp_path, name, given):
    run, _ = near_run(tmp_path)
    with open_session(run) as session:
        funnel = Funnel(session)
        with pytest.raises(CurateError, match="no pairs of near documents") as error:
            funnel.apply(bind(find_filter(name), given, funnel.columns, total=funnel.total, size={}))
    assert "curate index" in str(error.value)


def test_a_filter_says_what_it_needs(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text("-- summary: s\n-- needs: neighbours when near\nSELECT * FROM candidates\n")
    with pytest.raises(CurateError, match="'needs' names 'near', which is no param"):
        read_filter(path)
    path.write_text("-- summary: s\n-- needs: friends\nSELECT * FROM candidates\n")
    with pytest.raises(CurateError, match="line 2 is 'friends'; expected `-- needs: neighbours`"):
        read_filter(path)


@pytest.mark.parametrize("name", ["label", "content", "nearest", "iqr", "worth", "place", "similarity", "near_row"])
def test_a_pools_own_columns_may_have_the_names_that_filters_on_likeness_use(tmp_path, name):
    run, pairs = near_run(tmp_path, (0, 1, 0.98), **{name: ["x"] * 5})
    assert apply(run, "dedup", {"near": 0.97}, pairs=pairs)[0] == ["a", "c", "d", "e"]
    assert len(apply(run, "diverse", {"count": 2}, pairs=pairs)[0]) == 2
