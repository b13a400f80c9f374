"""The hand-over's lines are run as they stand: MODEL alone is replaced, and a trainer is told to take two steps."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import curate
from curate.documents import open_pool
from curate.fields import Fields
from curate.scores.run import Run
from curate.selection.handover import of_rows
from curate.selection.kinds import Kind, Kinds, sorted_kinds
from tests.scoring import make_proxy_folder
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

TURNS = [{"role": "user", "content": "add three"}, {"role": "assistant", "content": "seven then double"}]
SAID = [{"from": "human", "value": "add three"}, {"from": "gpt", "value": "seven then double"}]
CALLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
ROWS: dict[str, dict[str, Any]] = {
    "text": {"text": "the court shall hold that a party may not waive notice"},
    "completion": {"prompt": "add three and four", "completion": " to get seven"},
    "chat": {"messages": TURNS},
    "said": {"conversations": SAID},
    "turns": {"prompt": TURNS[:1], "completion": TURNS[1:]},
}
TRL_WARNS = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
TRAINERS = ["TRL", "axolotl", "LLaMA-Factory", "transformers.Trainer"]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory) -> Path:
    return make_proxy_folder(tmp_path_factory.mktemp("proxy") / "proxy")


def select_all(folder: Path, proxy: Path, lines: list[dict[str, Any]], **how) -> Path:
    """Select the rows of a pool of these lines; return the dump."""
    (folder / "pool.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pool = [str(folder / "pool.jsonl")]
    prints = {**FINGERPRINTS, "pool": open_pool(pool).fingerprint()}
    run = Run.start(folder / "run", settings={**SETTINGS, "pool": pool, "model": str(proxy)}, fingerprints=prints)
    write(run, "pool.jsonl", 0, rows("pool.jsonl", 0, [1.0] * len(lines)))
    run.finish({"documents": len(lines)})
    with run:
        curate.select(run, top="100%", out=folder / "out", decontaminate=False, **how)
    return folder / "out"


def blocks(text: str) -> dict[str, str]:
    """The block of lines of each trainer's section; none for one without."""
    sections = dict(re.findall(r"^### (.+)\n\n((?:(?!^##).*\n)*)", text, re.MULTILINE))
    found = {trainer: re.search(r"```\w*\n(.*?)```", section, re.DOTALL) for trainer, section in sections.items()}
    return {trainer: match[1] for trainer, match in found.items() if match}


def train(text: str, dump: Path, proxy: Path, monkeypatch) -> Any:
    """Take two steps by a section's lines, in the folder above the dump; return the trainer."""
    monkeypatch.chdir(dump.parent)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(dump.parent / "cache"))
    options = 'report_to="none", use_cpu=True, max_steps=2, per_device_train_batch_size=2'
    assert 'output_dir="trained"' in text
    lines = text.replace("MODEL", str(proxy)).replace(
        'output_dir="trained"', f'output_dir="{dump.parent / "trained"}", {options}'
    )
    names: dict[str, Any] = {}
    exec(lines, names)
    return names["trainer"]


def assert_trained(trainer: Any) -> None:
    assert trainer.state.global_step == 2
    (record,) = [r for r in trainer.state.log_history if "train_loss" in r]
    assert 0 < record["train_loss"] < 20


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        ([ROWS["text"]], [Kind("text", ("text",))]),
        ([ROWS["completion"]], [Kind("completion", ("prompt", "completion"))]),
        ([ROWS["chat"]], [Kind("chat", ("messages",))]),
        ([ROWS["said"]], [Kind("chat", ("conversations",), ("from", "value"))]),
        ([ROWS["turns"]], [Kind("turns", ("prompt", "completion"))]),
        ([ROWS["chat"], {**ROWS["chat"], "tools": CALLS}], [Kind("chat", ("messages",), tools=True)]),
        ([ROWS["text"], ROWS["chat"]], [Kind("chat", ("messages",)), Kind("text", ("text",))]),
        ([{"instruction": "add", "output": "seven"}], [Kind("other", (), title="Alpaca instructions")]),
    ],
)
def test_kinds_are_those_of_the_rows_from_lines_and_from_tables(lines, kinds):
    names = dict.fromkeys(name for line in lines for name in line)
    table = pa.table({name: [line.get(name) for line in lines] for name in names})
    for learn in (lambda k: k.learn(lines), lambda k: k.learn_table(table)):
        found = Kinds(Fields())
        learn(found)
        assert sorted_kinds(found.kinds) == kinds


def test_columns_of_other_names_are_renamed_for_trl_and_named_to_the_others():
    found = Kinds(Fields(prompt="ask", completion="answer"))
    found.learn([{"ask": "add", "answer": "seven"}])
    lines = blocks(of_rows(sorted_kinds(found.kinds), "out"))
    assert 'rename_columns({"ask": "prompt", "answer": "completion"})' in lines["TRL"]
    assert yaml.safe_load(lines["axolotl"])["datasets"][0]["type"]["field_instruction"] == "ask"
    entry = json.loads(lines["LLaMA-Factory"])["out"]
    assert entry["columns"] == {"prompt": "ask", "response": "answer"}


def test_rows_that_no_trainer_reads_are_handed_over_as_tokens():
    text = of_rows([Kind("other", (), title="Alpaca instructions")], "out")
    assert "Rows are Alpaca instructions" in text
    assert "--tokenised" in text
    assert not blocks(text)


@pytest.mark.parametrize("format", ["arrow", "parquet", "jsonl.zst"])
@pytest.mark.parametrize("kind", ["text", "completion", "chat", "said"])
def test_axolotl_and_llama_factory_find_the_dump_and_its_columns(tmp_path, proxy, monkeypatch, kind, format):
    """They load a folder by `load_from_disk`, else `load_dataset`, and a `script_url` by `load_dataset`."""
    import datasets

    datasets.disable_progress_bars()
    dump = select_all(tmp_path, proxy, [ROWS[kind]] * 2, format=format)
    lines = blocks((dump / "HANDOVER.md").read_text())
    assert list(lines) == TRAINERS
    (axolotl,) = yaml.safe_load(lines["axolotl"])["datasets"]
    (factory,) = json.loads(lines["LLaMA-Factory"]).values()
    monkeypatch.chdir(dump.parent)
    cache = str(tmp_path / "cache")
    table = datasets.load_dataset(axolotl["path"], split=axolotl["split"], cache_dir=cache)
    entry = datasets.load_dataset(str(Path(".") / factory["script_url"]), split="train", cache_dir=cache)
    if format == "arrow":
        table = datasets.load_from_disk(axolotl["path"])[axolotl["split"]]
    assert list(table) == list(entry)
    type_of = {"text": "completion", "chat": "chat_template", "said": "chat_template"}
    assert axolotl["type"] == type_of.get(kind, axolotl["type"])
    named = set(factory["columns"].values()) | {axolotl.get("field") or axolotl.get("field_messages")} - {None}
    assert named == set(ROWS[kind])
    if kind in ("chat", "said"):
        turn = table[0][axolotl["field_messages"]][0]
        assert {*axolotl["message_property_mappings"].values()} == set(turn)
        assert {factory["tags"]["role_tag"], factory["tags"]["content_tag"]} == set(turn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
def test_a_plain_trainer_takes_two_steps_on_rows(tmp_path, proxy, monkeypatch, kind):
    dump = select_all(tmp_path, proxy, [ROWS[kind]] * 4)
    lines = blocks((dump / "HANDOVER.md").read_text())
    trainer = train(lines["transformers.Trainer"], dump, proxy, monkeypatch)
    assert_trained(trainer)
    labels = trainer.train_dataset[0]["labels"]
    learnt = trainer.processing_class or trainer.data_collator.tokenizer
    words = learnt.decode([i for i in labels if i != -100])
    assert ("add three" in words) == (kind == "text" and "add three" in ROWS["text"]["text"])
    assert any(label != -100 for label in labels)


@pytest.mark.slow
@TRL_WARNS
@pytest.mark.parametrize("kind", ROWS)
def test_trl_takes_two_steps_on_rows(tmp_path, proxy, monkeypatch, kind):
    pytest.importorskip("trl", reason="TRL is not installed")
    dump = select_all(tmp_path, proxy, [ROWS[kind]] * 4)
    assert_trained(train(blocks((dump / "HANDOVER.md").read_text())["TRL"], dump, proxy, monkeypatch))


@pytest.mark.slow
@TRL_WARNS
@pytest.mark.parametrize("how", [{"format": "arrow"}, {"format": "parquet", "pack": 16}, {"format": "jsonl.zst"}])
@pytest.mark.parametrize("name", ["TRL", "transformers.Trainer"])
def test_rows_of_tokens_are_trained_on_with_their_labels_as_they_are(tmp_path, proxy, monkeypatch, name, how):
    if name == "TRL":
        pytest.importorskip("trl", reason="TRL is not installed")
    dump = select_all(tmp_path, proxy, [ROWS["text"], ROWS["completion"], ROWS["chat"]] * 2, tokenised=True, **how)
    trainer = train(blocks((dump / "HANDOVER.md").read_text())[name], dump, proxy, monkeypatch)
    assert_trained(trainer)
    import datasets

    stored = datasets.load_dataset(str(dump), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(trainer.train_dataset["labels"]) == sorted(stored["labels"])
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    for i in range(2):
        labels = trainer.train_dataset[i]["labels"]
        assert batch["labels"][i, : len(labels)].tolist() == labels
        assert set(batch["labels"][i, len(labels) :].tolist()) <= {-100}


@pytest.mark.slow
@TRL_WARNS
@pytest.mark.parametrize("name", ["TRL", "transformers.Trainer"])
def test_tokens_beside_other_columns_are_trained_on(tmp_path, proxy, monkeypatch, name):
    if name == "TRL":
        pytest.importorskip("trl", reason="TRL is not installed")
    import datasets

    ids = list(range(5, 15))
    table = {"text": ["a"] * 4, "ids": [ids] * 4, "labels": [[-100] * 4 + ids[4:]] * 4}
    (tmp_path / "out").mkdir()
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "out" / "train.parquet")
    lines = blocks(of_rows([Kind("tokens", ("ids", "labels"))], "out"))
    assert list(lines) == ["TRL", "transformers.Trainer"]
    trainer = train(lines[name], tmp_path / "out", proxy, monkeypatch)
    assert_trained(trainer)
    assert trainer.train_dataset["labels"][:] == table["labels"]


def test_tokenised_arrow_is_what_llama_factory_loads_from_disk(tmp_path, proxy, monkeypatch):
    import datasets

    dump = select_all(tmp_path, proxy, [ROWS["completion"]] * 2, tokenised=True)
    lines = blocks((dump / "HANDOVER.md").read_text())
    monkeypatch.chdir(dump.parent)
    table = datasets.load_from_disk(yaml.safe_load(lines["LLaMA-Factory"])["tokenized_path"])["train"]
    axolotl = yaml.safe_load(lines["axolotl"])
    assert axolotl["datasets"] == [{"path": "./out", "split": "train", "type": None}]
    assert axolotl["sequence_len"] == max(map(len, table["input_ids"]))
    assert {"input_ids", "attention_mask", "labels"} == set(table.column_names)  # by which axolotl knows tokens
