"""Adam's moments in a checkpoint of transformers' Trainer, found by order and shape.

`optimizer.pt` numbers parameters in the order in which they were handed to the optimiser. The Trainer hands over those
that decay, then the others, each in the model's order; other trainings have one group, or go by dimensions. The one of
these that fits the numbers and shapes in the file gives the names; two that fit are the same.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import CurateError
from curate.training.moments import Moments

STATE_FILE, RECORD_FILE = "optimizer.pt", "trainer_state.json"
# As get_decay_parameter_names of transformers' Trainer has them, now and before 4.50; the classes of norms that it also
# leaves out have one dimension.
_NORMS = (r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", r"bias")
_LEARNT = re.compile(r"\.lora_|\.modules_to_save\.")
_ADAM = ("exp_avg", "exp_avg_sq")


def read_trainer_moments(folder: Path, model: nn.Module) -> Moments:
    """Read the optimiser's state by the names of a model's parameters. Raises CurateError where they cannot be told.

    `model` is the checkpoint's own, or any of the same training.
    """
    content = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    states, groups = content.get("state"), content.get("param_groups")
    if not states or not groups or not all(isinstance(s, Mapping) and set(_ADAM) <= set(s) for s in states.values()):
        raise CurateError(
            f"{folder / STATE_FILE} holds no moments of Adam by parameter.",
            hint="Train with AdamW as PyTorch has it, or score without moments: --set correction=none.",
        )
    names = _names(folder, states, [g["params"] for g in groups], model)
    first = groups[0]
    return Moments(
        exp_avg={names[i]: s["exp_avg"] for i, s in states.items()},
        exp_avg_sq={names[i]: s["exp_avg_sq"] for i, s in states.items()},
        step=int(max(float(s.get("step", 0)) for s in states.values())),
        betas=tuple(first["betas"]),
        eps=first["eps"],
        learning_rate=float(first["lr"]),
        mean_learning_rate=float(first["lr"]),
    )


def mean_learning_rates(folders: Sequence[Path]) -> list[float | None]:
    """Return every checkpoint's mean learning rate since the one before, from the Trainer's log; None without one.

    The log has the rate of every `logging_steps`th step.
    """
    rates: list[float | None] = []
    before = 0
    for folder in folders:
        step = int(folder.name.rpartition("-")[2])
        path = folder / RECORD_FILE
        log = json.loads(path.read_text(encoding="utf-8")).get("log_history", []) if path.exists() else []
        logged = [e["learning_rate"] for e in log if "learning_rate" in e and before < e.get("step", 0) <= step]
        rates.append(sum(logged) / len(logged) if logged else None)
        before = step
    return rates


def _names(
    folder: Path, states: Mapping[int, Mapping[str, Any]], groups: Sequence[Sequence[int]], model: nn.Module
) -> dict[int, str]:
    """Return each numbered parameter's name."""
    named = dict(model.named_parameters())
    learnt = {n: p for n, p in named.items() if _LEARNT.search(n)} or named
    count = sum(len(g) for g in groups)
    if count != len(learnt):
        raise CurateError(
            f"{folder / STATE_FILE} holds {count} parameters, the model {len(learnt)} that may have been trained.",
            hint="Which of them were trained is not recorded there: make the proxy with `curate warmup`, which keeps"
            " moments by name, or score without them (--set correction=none).",
        )
    numbers = [i for g in groups for i in g]
    for orders in _orders(learnt):
        names = dict(zip(numbers, [n for order in orders for n in order], strict=True))
        fits = [len(order) for order in orders if order] == [len(g) for g in groups if g]
        if fits and all(learnt[names[i]].shape == s["exp_avg"].shape for i, s in states.items()):
            return names
    raise CurateError(
        f"The numbered parameters of {folder / STATE_FILE} fit the model's in no order that is known, so that moments"
        " cannot be told apart.",
        hint="Make the proxy with `curate warmup`, which keeps moments by name, or score without them"
        " (--set correction=none).",
    )


def _orders(parameters: Mapping[str, Tensor]) -> list[list[list[str]]]:
    """Return the groups of names that trainings hand to an optimiser."""

    def split(decays: Mapping[str, bool]) -> list[list[str]]:
        return [[n for n in parameters if decays[n] == first] for first in (True, False)]

    by_dimensions = {n: p.ndim >= 2 for n, p in parameters.items()}
    by_name = [{n: not re.search(pattern, n.lower()) for n in parameters} for pattern in _NORMS]
    without_norms = {n: by_name[1][n] and by_dimensions[n] for n in parameters}
    return [[list(parameters)], *(split(decays) for decays in (*by_name, without_norms, by_dimensions))]
