"""LESS against its formula, one document at a time by autograd, on checkpoints that transformers' Trainer left."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import peft
import pytest
import torch
import transformers
from torch import Tensor

import curate
from curate import methods
from curate.errors import CurateError
from curate.gradients.aggregation import Aggregation
from curate.gradients.whole_projections import whole_projection
from curate.methods.contract import Inputs
from curate.methods.less import FeaturePlan, Settings
from curate.methods.shared.features import AdamStep
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded
from curate.selection.select import select
from curate.training.moments import Moments
from curate.training.states import checkpoints_of, sharing
from tests.methods.preparing import make_inputs
from tests.scoring import make_project
from tests.small_models import model_loss, random_documents

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
POOL = random_documents([12, 3, 9, 2, 24, 12], seed=1)
TARGET = random_documents([8, 11, 5, 7, 9], seed=2)
GROUPS = ["law", "code", "law", "law", "code"]


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = torch.from_numpy(random_documents([16], seed=10 + i)[0].ids).long()
        return {"input_ids": ids, "labels": ids}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose proxy has LoRA adapters and two checkpoints, as people leave them who know nothing of curate."""
    folder = make_project(tmp_path_factory.mktemp("less"), 6)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "proxy")
    config = peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=TARGETS, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(base, config)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "tuned"), num_train_epochs=2, per_device_train_batch_size=2, learning_rate=1e-2,
        save_strategy="epoch", logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "proxy")
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), processing_class=tokenizer)
    trainer.train()
    return folder


def proxy_settings(trained: Path) -> ProxySettings:
    return ProxySettings(model=str(trained / "tuned" / "checkpoint-8"), dtype="float64", device="cpu")


@pytest.fixture
def inputs(trained: Path, tmp_path: Path) -> Inputs:
    settings = proxy_settings(trained)
    made = make_inputs(load_proxy(settings), tmp_path, TARGET, [], groups=GROUPS)
    return replace(made, checkpoints=checkpoints_of(settings), aggregation=methods.get("less").AGGREGATION)


class Literal:
    """The formula, with the names that the Trainer's own model has."""

    def __init__(self, folder: Path, checkpoint: Path, settings: Settings) -> None:
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "proxy", dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.model = peft.PeftModel.from_pretrained(
                base, checkpoint, is_trainable=True, autocast_adapter_dtype=False
            ).eval()
        self.learnt = [p for n, p in self.model.named_parameters() if "lora_" in n]
        for parameter in self.learnt:
            parameter.data = parameter.data.double()
        content = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        states = [content["state"][i] for i in range(len(self.learnt))]
        self.m, self.v = (torch.cat([s[k].double().flatten() for s in states]) for k in ("exp_avg", "exp_avg_sq"))
        self.betas = content["param_groups"][0]["betas"]
        self.project = whole_projection(settings.projection, settings.dim, settings.seed)

    def gradient(self, document: Encoded) -> Tensor:
        self.model.zero_grad()
        (model_loss(self.model, document) / document.num_scored).backward()
        return torch.cat([p.grad.flatten() for p in self.learnt])  # type: ignore[union-attr]

    def unit(self, gradient: Tensor) -> Tensor:
        feature = self.project(gradient[None])[0]
        return feature / feature.norm()

    def step(self, gradient: Tensor) -> Tensor:
        b1, b2 = self.betas
        return (b1 * self.m + (1 - b1) * gradient) / (b2 * self.v + (1 - b2) * gradient**2 + 1e-8).sqrt()


def literal_scores(trained: Path, settings: Settings, target: list[Encoded], groups: list[str]) -> Tensor:
    log = json.loads((trained / "tuned" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    rates = torch.tensor([[e["learning_rate"] for e in log if "learning_rate" in e]]).double().view(2, 4).mean(1)
    by_row = torch.zeros(len(POOL), len(target), dtype=torch.float64)
    for weight, step in zip(rates / rates.sum(), (4, 8), strict=True):
        formula = Literal(trained, trained / "tuned" / f"checkpoint-{step}", settings)
        rows = torch.stack([formula.unit(formula.gradient(t)) for t in target])
        for i, document in enumerate(POOL):
            gradient = formula.gradient(document)
            if settings.correction == "adam":
                gradient = formula.step(gradient)
            by_row[i] += weight * (rows @ formula.unit(gradient))
    by_group = [by_row[:, [j for j, g in enumerate(groups) if g == n]].mean(1) for n in sorted(set(groups))]
    return torch.stack([torch.stack(by_group).amax(0), *by_group], 1)


@pytest.mark.parametrize(
    ("projection", "correction"),
    [
        ("hadamard", "adam"),
        ("signs", "none"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("hadamard", "none"), ("signs", "adam"))),
    ],
)
def test_scores_are_the_formulas(inputs: Inputs, trained: Path, correction: Any, projection: Any) -> None:
    settings = Settings(dim=64, correction=correction, projection=projection)
    scored = methods.get("less").prepare(inputs, settings)(POOL, inputs.batching)
    expected = literal_scores(trained, settings, TARGET, GROUPS)
    # Cosines; Llama takes its norms in float32, whatever its type.
    torch.testing.assert_close(scored.scores, expected, rtol=1e-8, atol=2e-9)
    assert scored.scores.abs().min() > 1e-4
    assert list(scored.more) == [f"at_step_{s}{g}" for s in (4, 8) for g in ("", "_code", "_law")]
    torch.testing.assert_close(scored.more["at_step_8"], torch.stack(
        [scored.more["at_step_8_code"], scored.more["at_step_8_law"]]).amax(0))  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "rows"),
    [
        ("max", "mean"),
        ("mean", "max"),
        *(pytest.param(how, how, marks=pytest.mark.slow) for how in ("mean", "max")),
    ],
)
def test_rows_and_groups_are_aggregated_as_asked(inputs: Inputs, tmp_path: Path, rows: Any, groups: Any) -> None:
    settings, how = Settings(dim=64), Aggregation(rows=rows, groups=groups)
    scored = methods.get("less").prepare(replace(inputs, aggregation=how), settings)(POOL, inputs.batching)
    single = make_inputs(inputs.proxy, tmp_path / "single", TARGET, [], groups=[str(i) for i in range(5)])
    single = replace(single, checkpoints=inputs.checkpoints)
    by_row = methods.get("less").prepare(single, settings)(POOL, inputs.batching).scores[:, 1:]
    members = [by_row[:, [i for i, g in enumerate(GROUPS) if g == n]] for n in ("code", "law")]
    by_group = torch.stack([m.mean(1) if rows == "mean" else m.amax(1) for m in members], 1)
    whole = {
        ("mean", "mean"): by_row.mean(1), ("max", "mean"): by_group.mean(1),
        ("mean", "max"): by_group.amax(1), ("max", "max"): by_row.amax(1),
    }[rows, groups]  # fmt: skip
    torch.testing.assert_close(scored.scores, torch.cat([whole[:, None], by_group], 1), rtol=1e-9, atol=1e-12)


def test_steps_of_any_gradient_move_along_it_where_moments_are_empty(inputs: Inputs) -> None:
    (proxy,) = sharing(inputs.proxy, inputs.checkpoints[:1])
    moments = inputs.checkpoints[0].moments(proxy.model)
    empty = replace(moments, exp_avg={n: torch.zeros_like(t) for n, t in moments.exp_avg.items()})
    step = AdamStep.of(proxy, empty)
    gradient = torch.randn(2, len(step.first), dtype=torch.float64)
    moved = step(gradient.clone())
    assert ((moved * gradient) > 0).all()
    assert not moved.allclose(gradient)


def test_states_share_the_base_model(inputs: Inputs) -> None:
    states = sharing(inputs.proxy, inputs.checkpoints)
    ours = dict(inputs.proxy.model.named_parameters())
    first, last = (dict(s.model.named_parameters()) for s in states)
    base = [n for n in ours if "lora_" not in n]
    assert all(first[n].data_ptr() == ours[n].data_ptr() for n in base)
    moved = [n for n in ours if "lora_" in n]
    assert all(not first[n].equal(ours[n]) and last[n].equal(ours[n]) for n in moved)


def test_a_run_on_a_trainers_checkpoints_has_columns_of_groups_and_steps(trained: Path, tmp_path: Path) -> None:
    run = curate.score(
        method="less", model=str(trained / "tuned" / "checkpoint-8"), target=trained / "val.jsonl", group_by="task",
        pool=trained / "pool", out=tmp_path / "run", device="cpu", dim=256, context=64,
    )  # fmt: skip
    table = run.scores().collect()
    assert run.record.settings["aggregate"] == "max"
    steps = [f"at_step_{s}{g}" for s in (4, 8) for g in ("", "_a", "_b")]
    assert set(steps) < set(table.columns)
    assert (
        table["score"].to_list()
        == table.select(best="score_a").with_columns(b=table["score_b"]).max_horizontal().to_list()
    )
    chosen = select(run, top=4, out=tmp_path / "chosen")
    assert chosen.documents == 4
    turns = select(run, top=4, aggregate="round-robin")
    assert turns.stages[-1].name == "round_robin"


def test_the_published_rds_goes_by_turns(trained: Path, tmp_path: Path) -> None:
    run = curate.score(
        method="rds", model=str(trained / "proxy"), target=trained / "val.jsonl", group_by="task",
        pool=trained / "pool", out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    assert (run.record.settings["aggregate"], run.record.settings["aggregate_rows"]) == ("round-robin", "max")
    assert select(run, top=4).stages[-1].name == "round_robin"
    assert select(run, top=4, aggregate="score").stages[-1].name == "top"


def test_a_trainers_checkpoint_in_an_object_store_has_the_states_before_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = proxy_settings(trained)
    fsspec.filesystem("memory").put(str(trained / "tuned"), "/less-states/tuned", recursive=True)
    there = checkpoints_of(replace(settings, model="memory://less-states/tuned/checkpoint-8"))
    assert [state.step for state in there] == [4, 8]
    assert [state.fingerprint() for state in there] == [state.fingerprint() for state in checkpoints_of(settings)]


def test_a_proxy_without_moments_or_rates_is_refused_with_what_to_do(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "tuned", tmp_path / "tuned")
    settings = replace(proxy_settings(trained), model=str(folder / "checkpoint-8"))
    inputs = make_inputs(load_proxy(settings), tmp_path / "run", TARGET, [])
    for checkpoint in folder.iterdir():
        (checkpoint / "trainer_state.json").unlink()
    without_rates = replace(inputs, checkpoints=checkpoints_of(settings))
    with pytest.raises(CurateError, match="does not say at which learning rate it was trained") as error:
        methods.get("less").prepare(without_rates, Settings(dim=64))
    assert "--set weights=equal" in str(error.value)
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    without_moments = replace(inputs, checkpoints=checkpoints_of(settings))
    with pytest.raises(CurateError, match="checkpoint-4 holds no optimiser state") as error:
        methods.get("less").prepare(without_moments, Settings(dim=64, weights="equal"))
    assert "--set correction=none" in str(error.value)
    plain = methods.get("less").prepare(without_moments, Settings(dim=64, weights="equal", correction="none"))
    assert plain(POOL, inputs.batching).scores.isfinite().all()


def test_moments_of_other_layers_are_refused(inputs: Inputs) -> None:
    (proxy,) = sharing(inputs.proxy, inputs.checkpoints[:1])
    moments: Moments = inputs.checkpoints[0].moments(proxy.model)
    name = next(iter(moments.exp_avg))
    lacking = replace(moments, exp_avg={n: t for n, t in moments.exp_avg.items() if n != name})
    with pytest.raises(CurateError, match=f"no moments of {name}, which is tracked"):
        AdamStep.of(proxy, lacking)


def test_a_plan_says_memory_as_people_say_it() -> None:
    plan = FeaturePlan(entries=4096, group=608, group_bytes=9_961_472, checkpoint_bytes=98_304)
    assert list(plan.rows().values()) == [4096, 608, "10 MB", "98 kB"]
