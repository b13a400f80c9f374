"""Warm-ups on documents of their own: against transformers' Trainer, and what they learn from which tokens."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from curate.documents import Fields, Pool, sample_rows
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.proxies.tokens import TokenSettings
from curate.training import units
from curate.training.moments import read_moments
from curate.training.schedule import straight_rate_at
from curate.training.settings import WarmupSettings
from curate.training.units import Documents, documents_of
from curate.training.warmup import Warmup, warmup
from tests.small_models import document, tiny_model, tiny_tokenizer
from tests.training.conftest import WORDS, sentence

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading

LORA = {"r": 2, "alpha": 8, "targets": ["q_proj", "v_proj"]}
# 22 documents, one of which is held out: 4 steps of 6 make a pass, and the last is half as large.
WARMED = {"lora": LORA, "epochs": 2, "batch_documents": 6, "learning_rate": 1e-2, "warmup": 0.25, "device": "cpu"}
Write = Callable[[list[dict[str, object]]], Pool]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("given")
    tiny_model(vocab_size=300).float().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def answers(count: int) -> list[dict[str, object]]:
    rng = random.Random(0)
    return [
        {
            "prompt": " ".join(rng.choices(WORDS, k=1 + i % 3)),
            "completion": " " + " ".join(rng.choices(WORDS, k=2 + i % 4)),
        }
        for i in range(count)
    ]


def warm(pool: Pool, out: Path, model: str, **changes: Any) -> Warmup:
    return warmup(pool, out, settings=WarmupSettings(**(WARMED | {"model": model} | changes)))


def rows_by_hand(pool: Pool, model: str) -> list[dict[str, list[int]]]:
    """The sample in the order in which the warm-up shuffles it, prompts masked by their number of characters."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    sample = sample_rows(pool, 100, 0, Fields())
    random.Random(0).shuffle(sample)
    rows = []
    for row in sample:
        assert row.prompt is not None
        coded = tokenizer(f"{row.prompt}{row.completion}", return_offsets_mapping=True)
        pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        labels = [token if end > len(row.prompt) else -100 for token, (_, end) in pairs]
        rows.append({"input_ids": coded["input_ids"], "labels": labels})
    return rows


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(r["input_ids"]) for r in rows)

    def padded(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([r[name] + [filler] * (longest - len(r[name])) for r in rows])

    mask = [[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows]
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": torch.tensor(mask)}


def trained_by_hand(pool: Pool, model: str, scratch: Path) -> Trainer:
    adapted = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(adapted, config)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=2,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        warmup_steps=0.25,
        weight_decay=0.0,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
        seed=0,
        data_seed=0,
    )
    rows = rows_by_hand(pool, model)[1:]
    trainer = Trainer(model=adapted, args=arguments, train_dataset=rows, data_collator=collate)  # type: ignore[arg-type]
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "tokens_at_once", [pytest.param(4096, marks=pytest.mark.slow), 60, pytest.param(1, marks=pytest.mark.slow)]
)
def test_weights_rates_and_steps_are_those_of_transformers_trainer(
    write_pool: Write, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens_at_once: int
):
    pool = write_pool(answers(22))
    trainer = trained_by_hand(pool, model, tmp_path / "scratch")
    trainer.model.save_pretrained(tmp_path / "by-hand")  # type: ignore[union-attr]
    monkeypatch.setattr(units, "AT_ONCE_TOKENS", tokens_at_once)
    made = warm(pool, tmp_path / "p", model)
    logged = [e for e in trainer.state.log_history if "loss" in e]
    assert made.steps == trainer.state.global_step == len(logged) == 8
    assert [e["lr"] for e in made.curve] == [e["learning_rate"] for e in logged]
    assert [e["loss"] for e in made.curve] == pytest.approx([e["loss"] for e in logged], abs=1e-4)
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (made.out, tmp_path / "by-hand"))
    assert ours.keys() == theirs.keys()
    assert {n.split(".")[-3] for n in ours} == {"q_proj", "v_proj"}
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=2e-3, atol=2e-5, msg=name)
    assert made.tokens_seen == 2 * sum(len(r["input_ids"]) for r in rows_by_hand(pool, model)[1:])


def test_epochs_keep_a_checkpoint_each_with_its_mean_rate(write_pool: Write, model: str, tmp_path: Path):
    made = warm(write_pool(answers(22)), tmp_path / "p", model)
    assert made.checkpoints == ["checkpoints/step-4", "checkpoints/step-8"]
    for checkpoint, epoch in zip(made.checkpoints, range(2), strict=True):
        steps = range(4 * epoch, 4 * epoch + 4)
        mean = sum(1e-2 * straight_rate_at(i, 8, warm_up=0.25, falls=True) for i in steps) / 4
        assert read_moments(made.out / checkpoint).mean_learning_rate == pytest.approx(mean)
    one = warm(write_pool(answers(22)), tmp_path / "q", model, checkpoints=1)
    assert one.checkpoints == ["checkpoints/step-8"]


def test_the_held_out_loss_is_of_the_completions_tokens(write_pool: Write, model: str, tmp_path: Path):
    pool = write_pool(answers(60))
    made = warm(pool, tmp_path / "p", model, epochs=1)
    assert made.held_out_documents == 3
    total = count = 0
    given = AutoModelForCausalLM.from_pretrained(model)
    for row in rows_by_hand(pool, model)[:3]:
        ids, labels = (torch.tensor([row[n]]) for n in ("input_ids", "labels"))
        scored = int((labels != -100).sum())
        total += given(input_ids=ids, labels=labels).loss.item() * scored
        count += scored
    assert made.held_out_loss_before == pytest.approx(total / count, rel=1e-5)
    assert made.held_out_loss_after is not None
    assert made.held_out_loss_after < total / count


def test_prompts_users_turns_and_padding_carry_no_loss():
    tokenizer = tiny_tokenizer()
    turns = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "the lazy dog"}]
    chat, answer = document(messages=turns), document(prompt="the fox", completion=" jumps")
    tokens = TokenSettings(context=64)
    data = documents_of([chat, answer], [answer], tokenizer, tokens, batch=2, reporter=Silent())
    assert isinstance(data.training, Documents)
    batch = data.training.padded([data.training[0], data.training[1]])
    learnt = [tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learnt == ["the lazy dog<|im_end|>", " jumps"]
    lengths = [len(data.training[i]["input_ids"]) for i in range(2)]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert data.training.tokens == sum(lengths)
    longer = batch["input_ids"].shape[1]
    assert longer % units.ROUND == 0
    assert batch["labels"][1, lengths[1] :].tolist() == [-100] * (longer - lengths[1])


@pytest.mark.slow
def test_dropout_is_drawn_from_the_seed(write_pool: Write, model: str, tmp_path: Path):
    pool, dropped = write_pool(answers(22)), {"lora": LORA | {"dropout": 0.5}}
    one = warm(pool, tmp_path / "a", model, **dropped)
    torch.manual_seed(12345)  # whatever the process drew before must not matter
    again = warm(pool, tmp_path / "b", model, **dropped)
    without = warm(pool, tmp_path / "c", model)
    for name in ("adapter_model.safetensors", "checkpoints/step-4/optimizer.safetensors"):
        assert (one.out / name).read_bytes() == (again.out / name).read_bytes(), name
        assert (one.out / name).read_bytes() != (without.out / name).read_bytes(), name
    assert json.loads((one.out / "adapter_config.json").read_text())["lora_dropout"] == 0.5


def test_a_share_is_of_the_pools_rows_and_the_record_holds_all_that_was_decided(
    write_pool: Write, model: str, tmp_path: Path
):
    settings = WarmupSettings(model=model, share="50%", epochs=2, lora="r=2,targets=q_proj", device="cpu")  # type: ignore[arg-type]
    made = warmup(write_pool(answers(40)), tmp_path / "p", settings=settings)
    assert (made.documents, made.held_out_documents, made.steps, made.unit) == (19, 1, 2, "documents")
    record = json.loads((made.out / "warmup.json").read_text())["settings"]
    literal = {"unit": "documents", "context": 2048, "batch_documents": 128, "learning_rate": 2e-5, "warmup": 0.03}
    literal |= {"schedule": "linear", "weight_decay": 0.0, "checkpoints": 2, "share": 0.5, "documents": 20}
    literal |= {"lora": {"r": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}, "batch_tokens": None}
    assert {n: record[n] for n in literal} == literal


CHAT = {"messages": [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "the dog"}]}


@pytest.mark.parametrize(
    ("rows", "changes", "unit"),
    [
        pytest.param(answers(20), {}, "documents", marks=pytest.mark.slow),
        pytest.param([CHAT] * 12 + [{"text": sentence(i)} for i in range(8)], {}, "documents", marks=pytest.mark.slow),
        ([CHAT] * 8 + [{"text": sentence(i)} for i in range(12)], {"batch_documents": None}, "windows"),
        pytest.param(
            [CHAT] * 20,
            {"unit": "windows", "batch_documents": None, "context": 8},
            "windows",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [{"text": sentence(i)} for i in range(20)], {"unit": "documents"}, "documents", marks=pytest.mark.slow
        ),
    ],
)
def test_rows_to_be_answered_are_learnt_as_documents_unless_the_unit_is_given(
    write_pool: Write, model: str, tmp_path: Path, rows: list[dict[str, object]], changes: dict[str, Any], unit: str
):
    texts = [{**row, "id": str(i)} for i, row in enumerate(rows)]
    assert warm(write_pool(texts), tmp_path / "p", model, steps=2, epochs=None, **changes).unit == unit


def test_a_new_model_is_trained_on_windows_whatever_the_rows(write_pool: Write, tmp_path: Path):
    small = {"shape": {"vocab_size": 300, "layers": 1, "width": 16, "heads": 2}, "context": 16, "batch_tokens": 64}
    made = warmup(write_pool(answers(100)), tmp_path / "p", settings=WarmupSettings(**small, epochs=2))  # type: ignore[arg-type]
    assert made.unit == "windows"
    assert made.checkpoints == [f"checkpoints/step-{made.steps // 2}", f"checkpoints/step-{made.steps}"]
    assert made.tokens_seen == made.steps * 64
    rates = [e["lr"] for e in made.curve]
    assert min(rates[-3:]) > 1e-4  # a cosine that ends at a tenth


def test_a_batch_of_the_other_unit_is_refused_before_the_model_loads(write_pool: Write, tmp_path: Path):
    with pytest.raises(SettingsError, match="batch_documents is 6, but this training is on windows") as caught:
        warm(write_pool([{"text": sentence(i)} for i in range(9)]), tmp_path / "p", "./nowhere")
    assert "--unit documents" in str(caught.value)
    with pytest.raises(SettingsError, match="batch_tokens is 64, but this training is on documents"):
        warm(write_pool(answers(9)), tmp_path / "p", "./nowhere", batch_documents=None, batch_tokens=64)


def test_a_target_that_is_no_linear_layer_is_named_with_the_nearest(write_pool: Write, model: str, tmp_path: Path):
    with pytest.raises(SettingsError, match="ends with 'q_porj'") as caught:
        warm(write_pool(answers(9)), tmp_path / "p", model, lora={"r": 2, "targets": ["v_proj", "q_porj"]})
    assert "'q_proj'" in str(caught.value)


def test_documents_without_a_token_to_learn_are_left_out_with_a_word(write_pool: Write, model: str, tmp_path: Path):
    beyond = {"prompt": "the old dog " * 40, "completion": "sat"}
    pool = write_pool([*answers(20), *[beyond | {"id": str(i)} for i in range(4)]])
    with pytest.warns(UserWarning, match="4 of 24 documents left out: no token carries loss"):
        made = warm(pool, tmp_path / "p", model, epochs=1)
    assert made.steps == 4  # of 19 documents
    assert made.documents + made.held_out_documents == 20


@pytest.mark.slow
def test_conversations_that_a_template_refuses_are_left_out_with_what_else_would_write_them(
    write_pool: Write, tmp_path: Path
):
    tiny_model(vocab_size=300).float().save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    pool = write_pool([*answers(20), CHAT])
    with pytest.warns(UserWarning, match="1 of 21 documents left out: .*--chat-template shipped"):
        made = warm(pool, tmp_path / "p", str(tmp_path / "base"), epochs=1)
    assert made.documents + made.held_out_documents == 20


@pytest.mark.slow
def test_a_single_step_that_has_no_rate_is_said_aloud(write_pool: Write, model: str, tmp_path: Path):
    pool = write_pool(answers(6))
    with pytest.warns(UserWarning, match="learns nothing"):
        made = warm(pool, tmp_path / "p", model, epochs=1)
    assert made.held_out_loss_after == made.held_out_loss_before
    made = warm(pool, tmp_path / "q", model, epochs=1, warmup=0)
    assert made.held_out_loss_after != made.held_out_loss_before


def test_conversations_need_a_template_or_the_shipped_one(write_pool: Write, tmp_path: Path):
    tiny_model(vocab_size=300).float().save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    pool = write_pool([CHAT | {"id": str(i)} for i in range(12)])
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(CurateError, match="None of the sample's 11") as caught,
    ):
        warm(pool, tmp_path / "p", str(tmp_path / "base"))
    assert "--chat-template shipped" in str(caught.value)
    made = warm(pool, tmp_path / "p", str(tmp_path / "base"), chat_template="shipped")
    assert made.unit == "documents"
    assert AutoTokenizer.from_pretrained(made.out).chat_template
