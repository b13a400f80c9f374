"""Keep a checkpoint's weights and its optimiser state **by parameter name**.

PyTorch numbers optimiser state by the order in which parameters were handed over, which changes with the
trainer, weight-decay groups and adapters; a name does not. Names are those that the model has after
`from_pretrained` of the checkpoint's folder, for adapters too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import CurateError

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

STATE_FILE, RECORD_FILE = "optimizer.safetensors", "optimizer.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
# What peft puts in front of every name, and transformers' own adapter loading does not.
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Adam's state at one checkpoint: `exp_avg[name]` and `exp_avg_sq[name]` have the parameter's shape."""

    exp_avg: "dict[str, Tensor]"
    exp_avg_sq: "dict[str, Tensor]"
    step: int
    betas: tuple[float, float]
    eps: float
    learning_rate: float
    """At this step."""
    mean_learning_rate: float
    """Over the steps since the checkpoint before: η of LESS (arXiv 2402.04333, §4)."""


def write_moments(
    folder: Path,
    model: "nn.Module",
    optimizer: "optim.Optimizer",
    *,
    step: int,
    learning_rate: float,
    mean_learning_rate: float,
) -> None:
    """Write the state of every trained parameter to `folder`; see `read_moments`."""
    from safetensors.torch import save_file

    names = {id(p): n.removeprefix(_PEFT_PREFIX) for n, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    order: list[str] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state, name = optimizer.state.get(parameter), names[id(parameter)]
            if not state:  # never had a gradient, so never moved
                continue
            order.append(name)
            for moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = state[moment].detach().cpu().contiguous()
    save_file(tensors, folder / STATE_FILE)
    defaults = optimizer.defaults
    record: dict[str, Any] = {
        "optimizer": type(optimizer).__name__,
        "step": step,
        "betas": list(defaults["betas"]),
        "eps": defaults["eps"],
        "weight_decay": defaults["weight_decay"],
        "lr": learning_rate,
        "mean_lr": mean_learning_rate,
        "names": order,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_moments(folder: Path) -> Moments:
    """Read what `write_moments` wrote. Raises CurateError when the folder holds none."""
    from safetensors.torch import load_file

    if not (folder / STATE_FILE).is_file() or not (folder / RECORD_FILE).is_file():
        raise CurateError(
            f"{folder} holds no optimiser state: expected {STATE_FILE} and {RECORD_FILE}, or the Trainer's"
            " optimizer.pt.",
            hint="`curate warmup --checkpoints N` keeps it; LESS also works without: --set correction=none.",
        )
    record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    tensors = load_file(folder / STATE_FILE)
    return Moments(
        exp_avg={n: tensors[f"exp_avg.{n}"] for n in record["names"]},
        exp_avg_sq={n: tensors[f"exp_avg_sq.{n}"] for n in record["names"]},
        step=record["step"],
        betas=tuple(record["betas"]),
        eps=record["eps"],
        learning_rate=record["lr"],
        mean_learning_rate=record["mean_lr"],
    )
