"""Moments that PyTorch numbers, told apart by order and shape, or refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from curate.errors import CurateError
from curate.training.trainer_moments import read_trainer_moments


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, attention_bias=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(model: nn.Module, groups: list[dict], folder: Path) -> dict[str, torch.Tensor]:
    """Take two steps of AdamW, save its state, and return the true first moments by name."""
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for seed in range(2):
        torch.manual_seed(seed)
        ids = torch.randint(0, 30, (2, 9))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return {n: optimizer.state[p]["exp_avg"] for n, p in model.named_parameters() if p in optimizer.state}


def one_group(model: nn.Module) -> list[dict]:
    return [{"params": list(model.parameters())}]


def trainers(model: nn.Module) -> list[dict]:
    arguments = TrainingArguments(output_dir="unused", report_to="none", use_cpu=True, weight_decay=0.1)
    groups = Trainer(model=model, args=arguments).create_optimizer().param_groups  # type: ignore[arg-type]
    return [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]


def by_dimensions(model: nn.Module) -> list[dict]:
    return [{"params": [p for p in model.parameters() if (p.ndim >= 2) == matrices]} for matrices in (True, False)]


@pytest.mark.parametrize("groups", [one_group, trainers, by_dimensions])
def test_moments_have_their_names_back(groups: Callable[[nn.Module], list[dict]], tmp_path: Path) -> None:
    model = small_model()
    expected = train(model, groups(model), tmp_path)
    moments = read_trainer_moments(tmp_path, small_model())
    assert moments.exp_avg.keys() == expected.keys() == dict(model.named_parameters()).keys()
    assert all(moments.exp_avg[n].equal(expected[n]) for n in expected)
    assert all((moments.exp_avg_sq[n] >= 0).all() for n in expected)
    assert (moments.step, moments.betas) == (2, (0.9, 0.999))


def test_an_order_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    model = small_model()
    train(model, [{"params": list(model.parameters())[::-1]}], tmp_path)
    with pytest.raises(CurateError, match="fit the model's in no order that is known"):
        read_trainer_moments(tmp_path, model)


def test_a_training_of_some_parameters_is_refused(tmp_path: Path) -> None:
    model = small_model()
    train(model, [{"params": list(model.parameters())[:-1]}], tmp_path)
    with pytest.raises(CurateError, match="holds 28 parameters, the model 29 that may have been trained") as error:
        read_trainer_moments(tmp_path, model)
    assert "--set correction=none" in str(error.value)


def test_another_optimisers_state_is_refused(tmp_path: Path) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ids = torch.ones(1, 4, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(CurateError, match="holds no moments of Adam by parameter"):
        read_trainer_moments(tmp_path, model)
