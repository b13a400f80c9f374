"""Selections as tokens: what carries loss is what the reader scores, in every format and with another tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate
from curate.cli import main
from curate.documents import Fields, documents, open_pool
from curate.errors import CurateError, SettingsError
from curate.proof.selection import Selected
from curate.proxies.loading import load_tokenizer
from curate.proxies.tokens import Encoder, TokenSettings
from curate.scores.run import Run
from curate.selection.selection import Selection
from curate.training.tokenizer import train_tokenizer
from tests.scoring import TOPICS, make_proxy_folder
from tests.selection.test_megatron import read
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

IGNORED = -100
LONG = "the ship rode a grey swell while gulls cried " * 40  # beyond the proxy's context of 64
LINES = [
    {"text": "the court shall hold that a party may not waive notice"},
    {"prompt": "add three and four to get", "completion": " seven then double"},
    {"messages": [{"role": "user", "content": "add three"}, {"role": "assistant", "content": "seven"}]},
    {"text": LONG},
    {"text": "a"},
]
TEXTS = ["gulls cried over sails", "the sum"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """proxy/, other/ (a tokenizer alone), pool/ of texts, a completion and a conversation, and run/ with its scores."""
    folder = tmp_path_factory.mktemp("project")
    make_proxy_folder(folder / "proxy")
    words = [" ".join(words) + " é" for words in TOPICS.values()]
    train_tokenizer(words, vocab_size=280, context=64).save_pretrained(folder / "other")
    (folder / "pool").mkdir()
    (folder / "pool" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    pq.write_table(pa.table({"text": TEXTS}), folder / "pool" / "b.parquet")
    make_run(folder / "run", folder, model=str(folder / "proxy")).close()
    return folder


def make_run(path: Path, project: Path, **settings) -> Run:
    pool = [str(project / "pool")]
    prints = {**FINGERPRINTS, "pool": open_pool(pool).fingerprint()}
    run = Run.start(path, settings={**SETTINGS, "pool": pool, **settings}, fingerprints=prints)
    for number, (shard, count) in enumerate((("a.jsonl", len(LINES)), ("b.parquet", len(TEXTS)))):
        write(run, shard, number, rows(shard, 0, [float(count - i) for i in range(count)]))
    run.finish({"documents": len(LINES) + len(TEXTS)})
    return run


def selected(project: Path, out: Path, **how) -> Selection:
    return curate.select(Run.open(project / "run"), top="100%", out=out, **{"tokenised": True, **how})


def rows_of(out: Path) -> list[dict]:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(out), cache_dir=str(out.parent / "cache"))["train"].to_list()


def expected(project: Path, tokenizer: str = "proxy") -> list[tuple[list[int], list[int]]]:
    """Whole documents by the reader of scoring, with -100 where it scores no token; without the one of one token."""
    encode = Encoder(load_tokenizer(str(project / tokenizer)), TokenSettings(context=10_000))
    shards = open_pool([str(project / "pool")]).shards
    encoded = [e for s in shards for e in encode(list(documents(s, Fields()))) if e.num_scored]
    return [(e.ids.tolist(), np.where(e.scored, e.ids, IGNORED).tolist()) for e in encoded]


@pytest.mark.parametrize("format", ["arrow", "parquet", "jsonl.zst"])
@pytest.mark.parametrize("tokenizer", ["proxy", "other"])
def test_rows_are_the_readers_tokens_and_carry_the_readers_loss(project, tmp_path, format, tokenizer):
    named = {"tokenizer": project / tokenizer} if tokenizer == "other" else {}
    selection = selected(project, tmp_path / "out", format=format, **named)
    stored, wanted = rows_of(tmp_path / "out"), expected(project, tokenizer)
    assert [(r["input_ids"], r["labels"]) for r in stored] == wanted
    assert all(r["attention_mask"] == [1] * len(r["input_ids"]) for r in stored)
    assert len(stored[3]["input_ids"]) > 64
    count = selection.token_count
    assert count.tokens == sum(len(ids) for ids, _ in wanted)
    assert count.loss_tokens == sum(label != IGNORED for _, labels in wanted for label in labels)
    assert (count.documents, count.end_marks) == (len(wanted), 0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())["tokenised"]
    assert (manifest["loss_tokens"], manifest["pack"]) == (count.loss_tokens, None)
    assert manifest["tokenizer"].endswith(tokenizer)


def test_prompts_and_users_turns_carry_no_loss(project, tmp_path):
    selected(project, tmp_path / "out")
    tokenizer, stored = load_tokenizer(str(project / "proxy")), rows_of(tmp_path / "out")
    learnt = [tokenizer.decode([i for i in r["labels"] if i != IGNORED]) for r in stored]
    assert learnt[:3] == [LINES[0]["text"], LINES[1]["completion"], "seven<|im_end|>"]


def test_packed_rows_hold_every_token_and_mark_every_end(project, tmp_path):
    selection = selected(project, tmp_path / "out", pack=50)
    end = load_tokenizer(str(project / "proxy")).eos_token_id
    wanted: list[list[int]] = [[], []]
    for ids, labels in expected(project):
        wanted[0] += [*ids, end]
        wanted[1] += [*labels, end if labels[-1] != IGNORED else IGNORED]
    stored = rows_of(tmp_path / "out")
    assert [[i for r in stored for i in r[name]] for name in ("input_ids", "labels")] == wanted
    assert {len(r["input_ids"]) for r in stored[:-1]} == {50}
    count = selection.token_count
    assert (count.tokens, count.end_marks) == (len(wanted[0]), len(expected(project)))
    assert count.loss_tokens == sum(label != IGNORED for label in wanted[1])


@pytest.mark.parametrize("how", [{"pack": 50, "format": "parquet"}, {"format": "megatron"}, {"format": "jsonl.zst"}])
def test_the_same_settings_give_the_same_bytes(project, tmp_path, how):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        selected(project, tmp_path / name / "out", **how)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert Path("out/HANDOVER.md") in files
    for path in files:
        if path.name != "manifest.json":  # it says how many seconds it took
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_megatrons_files_hold_every_document_with_its_end_and_say_what_is_not_masked(project, tmp_path):
    selection = selected(project, tmp_path / "out", format="megatron", tokenised=False)
    end = load_tokenizer(str(project / "proxy")).eos_token_id
    wanted = expected(project)
    kind, stored = read(tmp_path / "out" / "train")
    assert kind.itemsize == 2
    assert stored == [[*ids, end] for ids, _ in wanted]
    masked = sum(label == IGNORED for _, labels in wanted for label in labels[1:]) + 1  # the conversation's end mark
    assert f"{masked} tokens that carry no loss" in selection.changes[-1]
    assert "data_files" not in (tmp_path / "out" / "README.md").read_text()


def test_what_a_tokenizer_cannot_take_is_left_out_and_told(project, tmp_path):
    tokenizer = load_tokenizer(str(project / "other"))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    selection = selected(project, tmp_path / "out", tokenizer=tmp_path / "plain")
    assert len(rows_of(tmp_path / "out")) == len(expected(project)) - 1
    assert "1 documents are left out: the chat template refuses them" in selection.changes[0]
    assert "no chat template" in selection.changes[0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tokenised": False, "pack": 50}, "pack is 50"),
        ({"tokenised": False, "tokenizer": "x"}, "tokenizer is x"),
        ({"pack": 1}, "pack is 1"),
        ({"pack": 50, "format": "megatron"}, "Megatron cuts rows itself"),
        ({"tokenizer": "./nowhere"}, "there is no such folder"),
        ({"map": True}, "no place on a map"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(project, tmp_path, how, said):
    with pytest.raises(SettingsError, match=said):
        selected(project, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_ends_need_a_token_for_them(project, tmp_path):
    tokenizer = load_tokenizer(str(project / "other"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(CurateError, match="neither an eos nor a sep token"):
        selected(project, tmp_path / "out", tokenizer=tmp_path / "endless", pack=50)


def test_a_run_without_a_proxy_needs_a_tokenizer(project, tmp_path):
    with make_run(tmp_path / "run", project, model=None) as run:
        with pytest.raises(SettingsError, match="has no proxy"):
            curate.select(run, top=2, out=tmp_path / "out", tokenised=True)
        assert curate.select(run, top=2, out=tmp_path / "out", tokenised=True, tokenizer=project / "other").token_count


def test_the_command_writes_what_the_library_writes_and_prints_the_counts(project, tmp_path, capsys):
    selection = selected(project, tmp_path / "library" / "out", pack=50)
    flags = ["--tokenised", "--pack", "50", "--out", str(tmp_path / "command" / "out")]
    main(["select", str(project / "run"), "--top", "100%", *flags])
    count = selection.token_count
    printed = f"{count.rows} rows of {count.tokens} tokens, {count.end_marks} of them added to end documents;"
    assert f"{printed} {count.loss_tokens} carry loss" in capsys.readouterr().out
    for name in ("HANDOVER.md", "train/00000.arrow"):
        ours, theirs = (tmp_path / by / "out" / name for by in ("library", "command"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_documents_as_they_are_need_no_torch(project, tmp_path):
    code = (
        "import sys, curate; from curate.scores.run import Run\n"
        "curate.select(Run.open(sys.argv[1]), top=2, out=sys.argv[2])\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(project / "run"), str(tmp_path / "plain")], check=False)
    assert done.returncode == 0
    assert Selected.read(tmp_path / "plain").manifest["after"]["documents"] == 2


def test_rows_of_tokens_are_no_documents_to_verify(project, tmp_path):
    selected(project, tmp_path / "tokens", pack=50)
    with pytest.raises(CurateError, match="holds tokens; expected the documents"):
        Selected.read(tmp_path / "tokens")


def test_a_selection_by_a_file_of_sql_is_made_again_by_it(project, tmp_path):
    (tmp_path / "odd.sql").write_text("SELECT * FROM candidates WHERE row % 2 = 1")
    run = Run.open(project / "run")
    made = curate.select(run, filters=[tmp_path / "odd.sql"], top=2, out=tmp_path / "first")
    again = curate.select(run, filters=Selected.read(tmp_path / "first").filters, top=2, out=tmp_path / "again")
    assert again.documents == made.documents == 2
    assert again.stages[1].sql == made.stages[1].sql


def test_weights_of_filters_are_told_to_be_left_out(project, tmp_path):
    (tmp_path / "twice.sql").write_text("SELECT * REPLACE (2.0 AS weight) FROM candidates")
    selection = selected(project, tmp_path / "out", filters=[tmp_path / "twice.sql"])
    assert "weights that filters give are left out" in selection.changes[-1]


def test_a_map_loads_no_proxy_for_filters_that_are_refused(project, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr("curate.proxies.proxy.load_proxy", loads.append)
    with pytest.raises(SettingsError, match="no filter"):
        selected(project, tmp_path / "out", tokenised=False, map=True, filters=["no filter"])
    assert loads == []


@pytest.mark.parametrize("format", ["parquet", "jsonl.zst"])
def test_a_map_gives_each_document_the_place_of_its_mean_embedding(project, tmp_path, format):
    from transformers import AutoModelForCausalLM

    selected(project, tmp_path / "out", tokenised=False, map=True, format=format)
    stored = rows_of(tmp_path / "out")
    weight = AutoModelForCausalLM.from_pretrained(project / "proxy").get_input_embeddings().weight.detach().numpy()
    encode = Encoder(load_tokenizer(str(project / "proxy")), TokenSettings(context=10_000))
    shards = open_pool([str(project / "pool")]).shards
    means = np.stack([weight[e.ids].mean(0) for s in shards for e in encode(list(documents(s, Fields())))])
    places = np.array([[r["x"], r["y"]] for r in stored])
    _, spread, _ = np.linalg.svd(means - means.mean(0))
    np.testing.assert_allclose(np.linalg.norm(places, axis=0), spread[:2], rtol=1e-3)
    assert "`x` and `y`" in (tmp_path / "out" / "README.md").read_text()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("HANDOVER.md", "README.md", "manifest.json", "rejected", "train")
    }


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [("nowhere", "tokenizer is './nowhere'; there is no such folder"), ("pool", "as a tokenizer")],
)
@pytest.mark.parametrize("out", [True, False])
def test_a_wrong_tokenizer_is_named_so_in_a_dry_run_too(project, tmp_path, monkeypatch, tokenizer, said, out):
    monkeypatch.chdir(project)
    with pytest.raises(SettingsError) as refusal:
        selected(project, tmp_path / "out" if out else None, tokenizer=f"./{tokenizer}")
    assert said in refusal.value.message
    assert "causal" not in refusal.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"tokenised": False}, {}], ids=["rows", "tokens"])
def test_several_processes_write_the_same_bytes(project, tmp_path, monkeypatch, how):
    monkeypatch.setattr("curate.selection.left._BLOCK_ROWS", 1)  # every shard is a job
    written = []
    for workers in (1, 2):
        selected(project, tmp_path / f"{workers}", workers=workers, **how)
        written.append({p.name: p.read_bytes() for p in (tmp_path / f"{workers}" / "train").iterdir()})
    assert written[0] == written[1]
