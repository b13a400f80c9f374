import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curate.documents import open_pool
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.scores.run import Run
from curate.selection import funnel
from curate.selection.card import Described, card
from curate.selection.select import select
from tests.selection.conftest import make_run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

KINDS = ["arrow", "parquet", "jsonl.zst"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def load(folder: Path, cache: Path):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


@pytest.mark.parametrize("kind", KINDS)
def test_dump_loads_with_datasets(run, tmp_path, kind):
    out = tmp_path / "selected"
    selection = select(run, top=5, out=out, format=kind)
    found = load(out, tmp_path / "cache")
    assert list(found) == ["train"]
    table = found["train"]
    assert table["text"] == ["a 1", "a 2", "b 0", "b 2", "c 0"]  # pool order
    assert table["curate_score"] == [2.0, 2.0, 3.0, 1.0, 1.5]
    assert table["score"] == [None, None, 7, 9, None]  # the pool's own column of that name stays
    assert table["id"] == ["1", "2", "x", "z", None]  # numbers in one shard, strings in the other
    assert table["meta"][0] == {"k": 1, "z": None}
    assert table["meta"][4] == {"k": None, "z": [1.5]}
    assert table["tags"][:3] == [["t"], ["t"], None]
    assert {"score_math", "score_code"} <= set(table.column_names)
    assert selection.documents == 5
    assert sorted(p.name for p in out.iterdir() if p.name != "dataset_dict.json") == [
        "HANDOVER.md", "README.md", "manifest.json", "rejected", "train"
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".selected")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_rewritten_selection_does_not_load_from_the_cache_of_the_earlier_one(run, tmp_path, kind):
    out, cache = tmp_path / "selected", tmp_path / "cache"
    for shares, texts in (("web:1", ["a 0", "a 2", "c 0"]), ("wiki:1,code:1", ["a 1", "b 0", "b 2"])):
        select(
            run, filters=[("quota", {"by": "source", "shares": shares})], top=3, out=out, format=kind, overwrite=True
        )
        assert load(out, cache)["train"]["text"] == texts


def test_arrow_dump_loads_from_disk_and_keeps_types(run, tmp_path):
    import datasets

    select(run, top=5, out=tmp_path / "selected")
    table = datasets.load_from_disk(str(tmp_path / "selected"))["train"]
    assert str(table.features["when"].dtype) == "timestamp[us, tz=UTC]"
    assert table.num_rows == 5
    assert table["curate_score"][2] == 3.0


def test_same_selection_has_the_same_bytes(run, tmp_path, monkeypatch):
    for name, threads, rows_at_once in (("one", 1, 1_000_000), ("four", 4, 1)):
        monkeypatch.setattr(funnel, "_ROWS_AT_ONCE", rows_at_once)
        select(run, filters=["sample"], top="50%", out=tmp_path / name, threads=threads)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "train").iterdir()]
    for path in [*files, Path("rejected", "rejected.parquet")]:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "four" / path).read_bytes(), path


def test_rejected_documents_keep_the_filter_that_dropped_them(run, tmp_path):
    select(run, filters=[("max_tokens", {"tokens": 80})], top=3, out=tmp_path / "s")
    table = pl.read_parquet(tmp_path / "s" / "rejected" / "rejected.parquet")
    assert dict(table.group_by("filter").len().iter_rows()) == {"max_tokens": 2, "top": 5}
    assert table.columns == ["doc_id", "shard", "row", "filter", "score"]


@pytest.mark.filterwarnings("ignore:--budget is 100 tokens")
def test_manifest_says_what_was_asked(run, tmp_path):
    select(run, filters=[("quota", {"by": "source"})], budget=100, out=tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert [f["name"] for f in manifest["filters"]] == ["decontaminate", "quota", "token_budget"]
    assert manifest["filters"][1]["values"]["tokens"] == 100  # taken from the budget of the whole selection
    assert "SELECT" in manifest["filters"][1]["sql"]
    assert manifest["run"]["settings"] == run.record.settings
    assert manifest["run"]["fingerprints"] == run.record.json["fingerprints"]
    assert manifest["before"] == {"documents": 10, "tokens": 550}
    assert manifest["after"]["tokens"] <= 100
    assert manifest["seconds"] > 0
    card = (tmp_path / "s" / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n")
    assert "| quota | by=source" in card


def test_dry_run_writes_nothing_and_shows_the_funnel(run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    selection = select(run, filters=["dedup"], top="20%")
    assert sorted(tmp_path.rglob("*")) == before
    assert [(s.name, s.kept, s.dropped) for s in selection.stages] == [
        ("decontaminate", 10, 0),
        ("dedup", 10, 0),
        ("top", 2, 8),
    ]
    web, code, wiki = (next(c for c in selection.composition if c.value == v) for v in ("web", "code", "wiki"))
    assert (web.documents, web.pool_documents, code.documents, wiki.documents) == (0, 5, 1, 1)
    assert wiki.enrichment == pytest.approx((1 / 2) / (2 / 10))


def test_a_selection_is_counted_by_moments_with_a_zone(tmp_path):
    run = Run.start(tmp_path / "r", settings=SETTINGS, fingerprints=FINGERPRINTS)
    when = pa.array([0, 0, None], pa.timestamp("us", "Asia/Tokyo"))
    write(run, "s", 0, rows("s", 0, [1.0, 2.0, 3.0], when=when))
    run.finish({"documents": 3})
    selection = select(run, top="100%", by="when", decontaminate=False)
    counts = {c.value: c.documents for c in selection.composition}
    assert counts == {datetime(1970, 1, 1, tzinfo=UTC): 2, None: 1}


def test_decontamination_comes_first_and_can_be_switched_off(tmp_path):
    run = Run.start(tmp_path / "r", settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, "s", 0, rows("s", 0, [1.0, 2.0], target_exact=[False, True]))
    run.finish({})
    assert select(run, top=1).stages[0].dropped == 1
    assert [s.name for s in select(run, top=1, decontaminate=False).stages] == ["top"]
    own = select(run, filters=["dedup", "decontaminate"], top=1)
    assert [s.name for s in own.stages] == ["dedup", "decontaminate", "top"]


def test_whole_shards_are_chosen_by_their_mean(run, tmp_path):
    selection = select(run, unit="shard", top=1, out=tmp_path / "s")
    assert [(s.name, s.unit, s.kept) for s in selection.stages] == [
        ("decontaminate", "document", 10),
        ("top", "shard", 1),
    ]
    assert load(tmp_path / "s", tmp_path / "cache")["train"]["text"] == ["b 0", "b 1", "b 2"]
    best = {f: select(run, unit="shard", shard_score=f, top=1, by="shard").composition[0].value for f in ("sum", "q95")}
    assert best == {"sum": "b.parquet", "q95": "b.parquet"}
    same = select(
        run,
        unit="shard",
        filters=[
            ("threshold", {"min": 1, "score": "documents"}),
            ("quota", {"by": "shard", "count": 2, "shares": "equal"}),
        ],
    )
    assert same.stages[-1].kept == 2


@pytest.mark.parametrize("unit", ["document", "shard"])
def test_runs_by_token_and_without_losses_are_selected_from(tmp_path, pool, unit):
    run = make_run(tmp_path / "tokens", pool, by_token=True)
    other = make_run(tmp_path / "run", pool)
    dumps = {}
    for name, chosen in (("tokens", run), ("plain", other)):
        out = tmp_path / f"selected-{name}"
        select(chosen, unit=unit, top=1, filters=["dedup"], out=out, format="parquet")
        dumps[name] = pq.read_table(out / "train")
    assert dumps["tokens"].equals(dumps["plain"])  # the lists stay in the run


def test_filters_see_missing_losses_as_null(tmp_path, pool):
    run = make_run(tmp_path / "tokens", pool, by_token=True)
    (tmp_path / "calm.sql").write_text("SELECT * FROM candidates WHERE loss IS NULL AND grad_norm IS NULL")
    assert select(run, filters=[tmp_path / "calm.sql"], unit="shard").documents == 10


def test_a_folder_that_is_no_selection_is_never_replaced(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(SettingsError, match="is not a selection"):
        select(run, top=1, out=mine, overwrite=True)
    select(run, top=1, out=tmp_path / "s")
    with pytest.raises(SettingsError) as error:
        select(run, top=2, out=tmp_path / "s")
    assert "--overwrite" in error.value.hint
    select(run, top=2, out=tmp_path / "s", overwrite=True)
    assert load(tmp_path / "s", tmp_path / "cache")["train"].num_rows == 2


def test_a_failed_dump_leaves_the_earlier_one(run, pool, tmp_path):
    select(run, top=1, out=tmp_path / "s")
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    (pool / "c.jsonl").write_text("{}\n")
    with pytest.raises(CurateError, match="not the pool that"):
        select(run, top=9, out=tmp_path / "s", overwrite=True)
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_moved_pool_is_found_by_option(run, pool, tmp_path):
    pool.rename(tmp_path / "elsewhere")
    with pytest.raises(CurateError):
        select(run, top=1, out=tmp_path / "s")
    select(run, top=1, out=tmp_path / "s", pool=[str(tmp_path / "elsewhere")])


def test_unfinished_runs_are_refused_unless_asked(tmp_path):
    run = Run.start(tmp_path / "r", settings=SETTINGS, fingerprints=FINGERPRINTS)
    with pytest.raises(CurateError, match="no scores yet"):
        select(run, top=1)
    write(run, "s", 0, rows("s", 0, [1.0, 2.0]), last=False)
    with pytest.raises(CurateError, match="1 parts are there, 0 shards") as error:
        select(run, top=1)
    assert "--partial" in error.value.hint
    assert select(run, top=1, partial=True).documents == 1


def test_nothing_asked_and_nothing_left_are_errors(run, tmp_path):
    with pytest.raises(SettingsError, match="No filter was given"):
        select(run)
    for choice in ({"quota": {"by": "source"}}, ("quota",), ("quota", "source"), None):
        with pytest.raises(SettingsError, match="expected a name, or a name with its parameters"):
            select(run, filters=[choice])
    with pytest.raises(CurateError, match="Nothing is left after the filter 'threshold'"):
        select(run, filters=[("threshold", {"min": 99})], out=tmp_path / "s")


def test_weights_reach_the_dump(run, tmp_path):
    own = tmp_path / "own.sql"
    own.write_text("SELECT * REPLACE (score * 2 AS weight) FROM candidates WHERE score > 0")
    select(run, filters=[own], top=2, out=tmp_path / "s", format="parquet")
    table = pq.read_table(tmp_path / "s" / "train")
    assert table.column("weight").to_pylist() == [4.0, 6.0]


def test_a_pools_own_weight_is_not_taken_for_a_filters(tmp_path):
    run = Run.start(tmp_path / "r", settings=SETTINGS, fingerprints=FINGERPRINTS)
    write(run, "s", 0, rows("s", 0, [1.0, 2.0], weight=pa.array([9.0, 8.0])))
    run.finish({})
    own = tmp_path / "own.sql"
    own.write_text("SELECT * FROM candidates WHERE pool_weight > 8.5")
    selection = select(run, filters=[own], decontaminate=False)
    assert selection.stages[0].kept == 1


def test_selecting_never_imports_torch(run):
    code = (
        "import sys; from curate.scores.run import Run; from curate.selection.select import select\n"
        "select(Run.open(sys.argv[1]), top=2, out=sys.argv[1] + '-out')\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], env={**os.environ}, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("size", "told"), [({"budget": "9B"}, "9,000,000,000 tokens"), ({"top": 10**6}, "1,000,000 documents")]
)
def test_a_size_beyond_the_run_is_said_and_keeps_all(run, size, told):
    heard: list[str] = []

    class Heard(Silent):
        def warn(self, message: str) -> None:
            heard.append(message)

    chosen = select(run, decontaminate=False, reporter=Heard(), **size)
    assert chosen.documents == chosen.documents_before
    assert len(heard) == 1
    assert told in heard[0]


def test_control_characters_of_the_pool_are_shown_on_the_card(start, tmp_path):
    run = start("runs/x")
    write(run, "a\x1b[31m.jsonl", 0, rows("a\x1b[31m.jsonl", 0, [1.0], source=["b\x9b\u202e"]))
    selection = select(run, top=1, decontaminate=False, partial=True)
    text = card(
        selection.record() | {"fingerprint": ""},
        "arrow",
        Described(scores=["score\x07"], features=None, changes=("`\x9b` is text.",)),
    )
    assert not set("\x1b\x9b\x07\u202e") & set(text)
    assert "| b\\x9b\\u202e | 1 | 1 |" in text


def selected_from(folder: Path, shards: dict[str, int], **options) -> Path:
    """Select every row of a pool in a folder, whose shards have so many rows."""
    address = [str(folder)]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    run = Run.start(folder.parent / "r", settings={**SETTINGS, "pool": address}, fingerprints=prints)
    for number, (shard, count) in enumerate(shards.items()):
        write(run, shard, number, rows(shard, 0, [1.0] * count))
    run.finish({"documents": sum(shards.values())})
    select(run, top="100%", out=folder.parent / "s", **options)
    return folder.parent / "s"


def labelled(names: list[str]):
    import datasets

    features = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=names),
        "tr": datasets.Translation(["en", "de"]),
        "grid": datasets.Array2D((2, 2), "int32"),
        "picture": datasets.Image(),
        "spans": datasets.List({"at": datasets.Value("int32"), "kind": datasets.ClassLabel(names=["x", "y"])}),
    }
    row = {"text": "a", "label": 1, "tr": {"en": "a", "de": "b"}, "grid": [[1, 2], [3, 4]]}
    row |= {"picture": {"bytes": b"x", "path": None}, "spans": [{"at": 1, "kind": 0}]}
    return datasets.Dataset.from_list([row, row], features=datasets.Features(features))


def write_parquet(dataset, path: Path) -> None:
    pq.write_table(dataset.data.table.replace_schema_metadata(dataset.features.arrow_schema.metadata), path)


@pytest.mark.parametrize("stored", ["saved", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_datasets_outlive_a_selection(tmp_path, kind, stored):
    import datasets

    datasets.disable_progress_bars()
    (tmp_path / "pool").mkdir()
    pool = labelled(["bad", "good"])
    if stored == "saved":
        pool = pool.remove_columns("picture")  # `datasets` cannot save one beside a Translation
        pool.save_to_disk(str(tmp_path / "pool"))
    else:
        write_parquet(pool, tmp_path / "pool" / "a.parquet")
    (shard,) = open_pool(str(tmp_path / "pool")).shards
    out = selected_from(tmp_path / "pool", {shard.name: 2}, format=kind)
    features = load(out, tmp_path / "cache")["train"].features
    kept = ["label", "tr", "spans"] if kind == "jsonl.zst" else list(pool.features)
    assert {n: features[n] for n in kept} == {n: pool.features[n] for n in kept}
    told = (out / "README.md").read_text()
    assert all((f"`{n}` is no" in told) == (n not in kept) for n in pool.features if n != "text")
    if kind == "arrow":
        assert datasets.load_from_disk(str(out))["train"].features["label"].int2str(1) == "good"


def test_labels_that_differ_between_shards_are_numbers_and_told(tmp_path):
    (tmp_path / "pool").mkdir()
    for shard, names in (("a", ["bad", "good"]), ("b", ["good", "bad"])):
        write_parquet(labelled(names), tmp_path / "pool" / f"{shard}.parquet")
    out = selected_from(tmp_path / "pool", {"a.parquet": 2, "b.parquet": 2}, format="parquet")
    features = load(out, tmp_path / "cache")["train"].features
    assert (features["label"].dtype, type(features["label"]).__name__) == ("int64", "Value")
    assert features["tr"].languages == ["de", "en"] or features["tr"].languages == ["en", "de"]
    assert "`label` has different features" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_columns_and_keys_that_come_after_the_first_megabytes_load(tmp_path, kind):
    (tmp_path / "pool").mkdir()
    early, late = {"text": "x" * 4000, "n": 1}, {"text": "t", "n": None, "more": {"a": [1]}}
    lines = "".join(json.dumps(row) + "\n" for row in [*[early] * 4000, late])
    (tmp_path / "pool" / "a.jsonl").write_text(lines)
    out = selected_from(tmp_path / "pool", {"a.jsonl": 4001}, format=kind)
    table = load(out, tmp_path / "cache")["train"]
    assert table[4000]["more"] == {"a": [1]}
    assert table[0]["more"] is None


def test_rows_of_lines_and_of_tables_are_lines_of_one_type_per_column(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text('{"n": 1, "text": "a", "deep": {"k": 1}}\n{"text": "b", "x": NaN}\n')
    pq.write_table(pa.table({"text": ["c"], "n": ["z"], "at": pa.array([0], pa.date32())}), tmp_path / "pool/b.parquet")
    out = selected_from(tmp_path / "pool", {"a.jsonl": 2, "b.parquet": 1}, format="jsonl.zst")
    packed = (out / "train" / "00000.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(packed).splitlines()
    assert lines[0].startswith(b'{"n": "1", "text": "a", "deep": {"k": 1}')
    assert lines[1].startswith(b'{"text": "b", "x": NaN,')
    assert json.loads(lines[2])["n"] == "z"
    told = (out / "README.md").read_text()
    assert "`n` holds values of several types" in told
    assert "`at` is text" in told


@pytest.mark.parametrize("kind", KINDS)
def test_messages_beside_plain_prompts_stay_lists_in_lines_and_become_told_text_in_arrow(tmp_path, kind):
    (tmp_path / "pool").mkdir()
    asked, plain = [{"role": "user", "content": "two?"}], "two, said plainly"
    first = [json.dumps({"prompt": asked, "n": 1}), json.dumps({"prompt": plain, "n": 2})]
    (tmp_path / "pool" / "a.jsonl").write_text("\n".join(first) + "\n")
    pq.write_table(pa.table({"prompt": [plain], "n": ["x"]}), tmp_path / "pool" / "b.parquet")
    pq.write_table(pa.table({"prompt": [asked], "n": ["y"]}), tmp_path / "pool" / "c.parquet")
    out = selected_from(tmp_path / "pool", {"a.jsonl": 2, "b.parquet": 1, "c.parquet": 1}, format=kind)
    prompts, told = load(out, tmp_path / "cache")["train"]["prompt"], (out / "README.md").read_text()
    if kind == "jsonl.zst":
        assert list(prompts) == [asked, plain, plain, asked]
        assert "`prompt`" not in told
        assert "`n` holds values of several types" in told
    else:
        assert list(prompts) == [json.dumps(asked), plain, plain, json.dumps(asked)]
        assert "`prompt` holds values of several types" in told


def test_a_key_that_every_object_has_is_told_to_be_missing_in_none(tmp_path):
    (tmp_path / "pool").mkdir()
    rows = [{"text": "a", "m": {"k": None, "l": [{"x": None}]}}, {"text": "b", "m": {"k": 1, "l": [{"x": 1, "y": 2}]}}]
    (tmp_path / "pool" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "c"}]))
    out = selected_from(tmp_path / "pool", {"a.jsonl": 3}, format="parquet")
    told = (out / "README.md").read_text()
    assert "`m.l[].y` is null where an object has no such key" in told
    assert told.count("no such key") == 1


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


@pytest.mark.parametrize(
    ("filters", "budget", "reason"),
    [
        ([("quota", {"by": "source"})], 300, "'quota' keeps whole documents of each source up to its share"),
        ([], 55, "whole documents are kept, and the next best one does not fit"),
        ([("threshold", {"min": 1.5})], 400, "after 'threshold' no more than 200 are left"),
        ([], 110, None),
    ],
)
def test_a_budget_that_is_not_reached_is_told_with_the_reason(run, filters, budget, reason):
    heard = Heard()
    selection = select(run, filters=filters, budget=budget, reporter=heard)
    assert selection.tokens <= budget
    told = [w for w in heard.warnings if "--budget" in w]
    assert len(told) == (reason is not None)
    if reason:
        assert reason in told[0]
        assert f"--budget is {budget} tokens; {selection.tokens} are kept" in told[0]
        assert f"{1 - selection.tokens / budget:.0%} less" in told[0]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_not_utf8_in_a_column_of_csv_do_not_stop_a_selection(tmp_path, kind):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.csv").write_bytes(b"text,note\none,caf\xe9\ntwo,fine\n")
    out = selected_from(tmp_path / "pool", {"a.csv": 2}, format=kind)
    if kind != "jsonl.zst":
        (file,) = (p for p in (out / "train").iterdir() if p.suffix == f".{kind}")
        table = pq.ParquetFile(file).read() if kind == "parquet" else pa.ipc.open_stream(file).read_all()
        assert table["note"].cast(pa.binary()).to_pylist() == [b"caf\xe9", b"fine"]
    else:
        assert list(load(out, tmp_path / "cache")["train"]["note"]) == ["caf\ufffd", "fine"]
