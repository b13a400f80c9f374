import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.documents import Pool, open_pool
from curate.errors import CurateError, SettingsError
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import ProxySettings
from curate.training.fit import FitSettings, fit
from curate.training.moments import read_moments, write_moments
from curate.training.proxies import new_model
from curate.training.schedule import Schedule
from curate.training.settings import Shape, WarmupSettings
from curate.training.tokenizer import train_tokenizer
from curate.training.units import Windows
from curate.training.warmup import STILL_FALLING, Warmup, shortness, warmup
from tests.training.conftest import TINY, sentence

DATA_FILES = ("model.safetensors", "tokenizer.json", "config.json")


def settings(**changes: Any) -> WarmupSettings:
    values = TINY | {"steps": 6} | changes
    if "model" in changes:
        del values["shape"]  # a given model has its own
    return WarmupSettings(**values)


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Warmup:
    """A proxy of 6 steps with three checkpoints, beside its pool; not to be written to."""
    folder = tmp_path_factory.mktemp("six")
    rows = [json.dumps({"id": str(i), "text": sentence(i)}) + "\n" for i in range(60)]
    (folder / "pool.jsonl").write_text("".join(rows), encoding="utf-8")
    return warmup(open_pool(folder / "pool.jsonl"), folder / "proxy", settings=settings(checkpoints=3))


def test_a_proxy_loads_with_from_pretrained_and_its_tokenizer_gives_text_back(tiny_proxy: Warmup):
    model = AutoModelForCausalLM.from_pretrained(tiny_proxy.out)
    tokenizer = AutoTokenizer.from_pretrained(tiny_proxy.out)
    assert sum(p.numel() for p in model.parameters()) == tiny_proxy.parameters
    text = "the cat: naïve 日本語 \u2028 \x00 end"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model(torch.tensor([ids])).logits.shape[-1] == len(tokenizer)


def test_training_lowers_the_loss_of_documents_that_took_no_part(tiny_proxy: Warmup):
    before, after = tiny_proxy.held_out_loss_before, tiny_proxy.held_out_loss_after
    assert before is not None
    assert after is not None
    assert after < before - 0.5
    assert tiny_proxy.curve[-1]["loss"] < tiny_proxy.curve[0]["loss"]
    assert tiny_proxy.documents + tiny_proxy.held_out_documents == 60


def test_the_record_says_by_how_much_the_held_out_loss_still_fell(tiny_proxy: Warmup):
    record = json.loads((tiny_proxy.out / "warmup.json").read_text())
    assert record["loss_fall"] == tiny_proxy.loss_fall
    assert tiny_proxy.loss_fall is not None
    whole = tiny_proxy.held_out_loss_before - tiny_proxy.held_out_loss_after  # type: ignore[operator]
    assert 0 < tiny_proxy.loss_fall < whole
    assert record["tokens_per_parameter"] == pytest.approx(
        tiny_proxy.tokens_seen / tiny_proxy.trained_parameters, abs=1e-3
    )


def test_a_proxy_is_said_to_have_seen_little_where_its_loss_was_still_falling(tiny_proxy: Warmup):
    falling = replace(tiny_proxy, loss_fall=STILL_FALLING + 0.2, steps=170, held_out_loss_after=6.05)
    message = shortness(falling)
    assert message is not None
    assert "after 170 steps" in message
    assert "6.05 nats per token, was still falling by 0.90 per doubling" in message
    assert shortness(replace(falling, loss_fall=STILL_FALLING - 0.2)) is None
    assert shortness(replace(falling, loss_fall=None)) is None


def test_measuring_on_the_way_changes_no_weight(tiny_proxy: Warmup, pool: Pool, tmp_path: Path, monkeypatch):
    given = settings(model=str(_with_dropout(tiny_proxy.out, tmp_path / "dropping")), steps=4)
    measured = warmup(pool, tmp_path / "a", settings=given)
    assert measured.loss_fall is not None
    monkeypatch.setattr("curate.training.fit.partial", lambda *_: None)  # nothing is measured on the way
    plain = warmup(pool, tmp_path / "b", settings=given)
    assert plain.loss_fall is None
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def _with_dropout(proxy: Path, folder: Path) -> Path:
    shutil.copytree(proxy, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    return folder


def test_conversations_that_a_given_models_template_refuses_are_left_out_with_a_word(
    tiny_proxy: Warmup, pool: Pool, tmp_path: Path
):
    model = shutil.copytree(tiny_proxy.out, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ raise_exception('no chat today') }}")
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    texts = [{"text": sentence(i)} for i in range(40)]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*texts, {"messages": chat}]))
    with pytest.warns(UserWarning, match="1 of 41 documents left out: .*no chat today"):
        made = warmup(open_pool(tmp_path / "mixed.jsonl"), tmp_path / "p", settings=settings(model=str(model), steps=2))
    assert made.steps == 2
    assert made.documents + made.held_out_documents == 40


def test_the_held_out_loss_is_that_of_the_saved_weights(six_steps: Warmup):
    made = six_steps
    model = AutoModelForCausalLM.from_pretrained(made.out)
    tokenizer = AutoTokenizer.from_pretrained(made.out)
    # The same documents, found by hand: the seeded shuffle of the whole pool, its first 3.
    import random

    texts = [sentence(i) for i in range(60)]
    random.Random(0).shuffle(texts)
    ids = [i for t in texts[: made.held_out_documents] for i in [*tokenizer(t)["input_ids"][1:], 0]]
    windows = torch.tensor(ids[: len(ids) // 16 * 16]).view(-1, 16)
    with torch.no_grad():
        loss = model(input_ids=windows, labels=windows).loss.item()
    assert made.held_out_loss_after == pytest.approx(loss, rel=1e-5)


def test_the_record_holds_settings_pool_and_curve(six_steps: Warmup):
    made, pool = six_steps, open_pool(six_steps.out.parent / "pool.jsonl")
    record = json.loads((made.out / "warmup.json").read_text())
    assert record["pool"]["fingerprint"] == pool.fingerprint()
    assert record["settings"]["steps"] == made.steps == 6
    assert record["settings"]["learning_rate"] == 2e-3
    assert [e["step"] for e in record["curve"]] == [1, 2, 3, 4, 5, 6]
    assert record["tokens_seen"] == 6 * 256
    assert record["checkpoints"] == ["checkpoints/step-2", "checkpoints/step-4", "checkpoints/step-6"]
    assert made.ended_by == "steps"


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(
    six_steps: Warmup, pool: Pool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    first = six_steps
    torch.manual_seed(12345)  # whatever the process drew before must not matter
    again = warmup(pool, tmp_path / "b", settings=settings(checkpoints=3))
    assert capfd.readouterr().out == ""  # nothing is printed
    other = warmup(pool, tmp_path / "c", settings=settings(checkpoints=3, seed=1))
    for name in (*DATA_FILES, "checkpoints/step-6/optimizer.safetensors"):
        assert (first.out / name).read_bytes() == (again.out / name).read_bytes(), name
    assert (first.out / DATA_FILES[0]).read_bytes() != (other.out / DATA_FILES[0]).read_bytes()


def test_moments_belong_to_the_parameters_they_are_named_after(tmp_path: Path):
    """After one step Adam's moments are (1-β₁)g and (1-β₂)g² of the clipped gradient, here found by hand."""
    tokenizer = train_tokenizer([sentence(i) for i in range(20)], vocab_size=300, context=16)
    model = new_model(Shape(vocab_size=300, layers=2, width=16, heads=2), tokenizer, context=16, seed=0)
    windows = torch.randint(0, len(tokenizer), (8, 16), generator=torch.Generator().manual_seed(0))
    model(input_ids=windows, labels=windows).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    def save(step: int, optimizer: torch.optim.Optimizer, learning_rate: float, mean_learning_rate: float) -> None:
        write_moments(
            tmp_path, model, optimizer, step=step, learning_rate=learning_rate, mean_learning_rate=mean_learning_rate
        )

    class Task:
        def advance(self, amount: float) -> None: ...

        def set_total(self, total: float | None) -> None: ...

    one = FitSettings(
        batch=8,
        at_once=4,
        learning_rate=0.5,
        weight_decay=0.1,
        seed=0,
        device="cpu",
        bfloat16=False,
        checkpoints=1,
    )
    fit(model, Windows(windows.tolist()), None, Schedule(steps=1), one, task=Task(), save=save)
    moments = read_moments(tmp_path)
    assert set(moments.exp_avg) == set(moments.exp_avg_sq) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(moments.exp_avg[name], 0.1 * gradient, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(moments.exp_avg_sq[name], 0.001 * gradient**2, rtol=1e-3, atol=1e-12)
    assert (moments.step, moments.betas, moments.eps, moments.learning_rate) == (1, (0.9, 0.999), 1e-8, 0.5)


def test_a_checkpoint_keeps_weights_of_its_step_and_the_mean_rate_since_the_last(tiny_proxy: Warmup):
    middle, last = (tiny_proxy.out / c for c in tiny_proxy.checkpoints)
    assert [p.name for p in (middle, last)] == ["step-10", "step-20"]
    weights = load_file(last / "model.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in load_file(tiny_proxy.out / "model.safetensors").items())
    assert any(not torch.equal(v, weights[k]) for k, v in load_file(middle / "model.safetensors").items())
    rates = [e["lr"] for e in tiny_proxy.curve]
    assert read_moments(middle).mean_learning_rate == pytest.approx(sum(rates[:10]) / 10)
    assert read_moments(last).mean_learning_rate == pytest.approx(sum(rates[10:]) / 10)
    names = {n for n, _ in AutoModelForCausalLM.from_pretrained(last).named_parameters()}
    assert set(read_moments(last).exp_avg) == names


def test_fine_tuning_goes_on_from_the_given_model(tiny_proxy: Warmup, pool: Pool, tmp_path: Path):
    made = warmup(pool, tmp_path / "p", settings=settings(model=str(tiny_proxy.out), learning_rate=1e-3))
    assert made.held_out_loss_before == pytest.approx(tiny_proxy.held_out_loss_after, rel=1e-4)
    assert made.held_out_loss_after is not None
    assert made.held_out_loss_after < made.held_out_loss_before
    assert made.trained_parameters == made.parameters == tiny_proxy.parameters
    AutoModelForCausalLM.from_pretrained(made.out)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading
def test_adapters_train_alone_and_load_as_a_proxy(tiny_proxy: Warmup, pool: Pool, tmp_path: Path):
    given = settings(model=str(tiny_proxy.out), lora=2, learning_rate=1e-2, steps=10)
    made = warmup(pool, tmp_path / "p", settings=given)
    assert 0 < made.trained_parameters < made.parameters
    assert made.held_out_loss_before is not None
    assert made.held_out_loss_after is not None
    assert made.held_out_loss_after < made.held_out_loss_before
    proxy = load_proxy(ProxySettings(model=str(made.out), device="cpu"))
    lora = {n for n, _ in proxy.model.named_parameters() if "lora_" in n}
    assert set(read_moments(made.out / made.checkpoints[-1]).exp_avg) == lora
    base = load_file(tiny_proxy.out / "model.safetensors")
    loaded = {n.replace(".base_layer", ""): p for n, p in proxy.model.named_parameters()}
    assert all(torch.equal(loaded[n], v) for n, v in base.items())


def test_rows_of_every_form_train_together(write_pool: Callable[[list[dict[str, object]]], Pool], tmp_path: Path):
    turns = [{"role": "user", "content": "who sat"}, {"role": "assistant", "content": "the cat sat"}]
    forms = [{"text": sentence(0)}, {"messages": turns}, {"prompt": "the old ", "completion": sentence(1)}]
    made = warmup(write_pool(forms * 20), tmp_path / "p", settings=settings())
    tokenizer = AutoTokenizer.from_pretrained(made.out)
    coded = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    answer = [i for i, m in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(answer) == "the cat sat<|im_end|>"


def test_a_time_limit_ends_the_training_and_still_leaves_a_whole_proxy(pool: Pool, tmp_path: Path):
    made = warmup(pool, tmp_path / "p", settings=settings(steps=None, minutes=0.02, checkpoints=2))
    assert made.ended_by == "time"
    assert made.steps >= 1
    assert made.checkpoints[-1] == f"checkpoints/step-{made.steps}"
    AutoModelForCausalLM.from_pretrained(made.out)


def test_a_loss_that_is_not_a_number_is_an_error_and_leaves_nothing(pool: Pool, tmp_path: Path):
    with pytest.raises(CurateError, match="loss became nan") as caught:
        warmup(pool, tmp_path / "p", settings=settings(learning_rate=1e30))
    assert "--learning-rate" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["pool.jsonl"]


def test_a_sample_shorter_than_a_window_says_so(write_pool: Callable[[list[dict[str, object]]], Pool], tmp_path: Path):
    short = write_pool([{"text": "hi"}, {"text": "ho"}])
    with pytest.raises(CurateError, match="shorter than one window of 16 tokens"):
        warmup(short, tmp_path / "p", settings=settings())


def test_a_missing_model_is_named(pool: Pool, tmp_path: Path):
    with pytest.raises(CurateError, match=r"\./nowhere"):
        warmup(pool, tmp_path / "p", settings=settings(model="./nowhere"))


def test_adapters_as_the_model_to_fine_tune_are_refused(pool: Pool, tmp_path: Path):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text("{}")
    with pytest.raises(CurateError, match="holds adapters"):
        warmup(pool, tmp_path / "p", settings=settings(model=str(tmp_path / "adapters")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"documents": 0}, "documents is 0"),
        ({"minutes": -1.0}, "minutes is -1"),
        ({"tokens": 10, "steps": 1}, "both say how long"),
        ({"epochs": 2, "steps": 1}, "steps and epochs both say how long"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"documents": 10, "share": 0.5}, "documents and share both say how large"),
        ({"share": 0}, "share is 0; expected above 0"),
        ({"warmup": 1}, "warmup is 1; expected less than 1"),
        ({"batch_documents": 8}, "batch_documents is 8, but this training is on windows"),
        ({"chat_template": "shipped"}, "chat_template needs a given model"),
        ({"context": 512, "batch_tokens": 256}, "context is 512"),
        ({"lora": 4}, "lora needs a model"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"checkpoints": -1}, "checkpoints is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_built(change: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        replace(WarmupSettings(), **change)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"vocab_size": 100}, "at least 260"),
        ({"width": 30, "heads": 4}, "Heads that fit this width: 1, 3, 5, 15"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: dict[str, Any], said: str):
    with pytest.raises(SettingsError) as caught:
        Shape(**shape)
    assert said in str(caught.value)
