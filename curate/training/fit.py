"""Drive transformers' Trainer: next-token training on packed windows, with named checkpoints on the way."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from curate.errors import CurateError
from curate.progress import Task
from curate.proxies.devices import products
from curate.training.schedule import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState

Save = Callable[[int, torch.optim.Optimizer, float, float], None]
"""Called with (step, optimizer, learning rate, mean rate since the last checkpoint)."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to train; data and folder are given apart."""

    batch_windows: int
    at_once: int
    """Windows that go through the model together; divides those of a batch."""
    learning_rate: float
    weight_decay: float
    seed: int
    device: str
    bfloat16: bool
    checkpoints: int


@dataclass(kw_only=True)
class Fitted:
    """The outcome of a training, besides the model's weights."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ended_by: str = "steps"
    saved: list[int] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    """Every few steps: step, mean loss since the entry before (nats per token), learning rate."""
    held_out_before: float | None = None
    held_out_after: float | None = None


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Windows of equal length, each its own labels (the model shifts them)."""

    def __init__(self, windows: Sequence[Sequence[int]] | torch.Tensor) -> None:
        # 32 bits hold any vocabulary; the sample is kept in half the memory.
        self._ids = torch.as_tensor(windows, dtype=torch.int32)

    @property
    def context(self) -> int:
        return self._ids.shape[1]

    def __len__(self) -> int:
        return len(self._ids)

    def whole_batches(self, size: int) -> "Windows":
        """Leave out the last windows that would make a smaller batch, so that every step weighs the same."""
        return Windows(self._ids[: len(self._ids) // size * size])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self._ids[index].long()
        return {"input_ids": ids, "labels": ids}


def fit(
    model: "PreTrainedModel",
    windows: Windows,
    held_out: Windows | None,
    schedule: Schedule,
    settings: FitSettings,
    *,
    task: Task,
    save: Save,
) -> Fitted:
    """Train `model` in place until the schedule is used up, calling `save` at even shares of it.

    Raises CurateError as soon as the loss is not a number. The time limit is checked between steps.
    """
    fitted = Fitted()
    optimizer = torch.optim.AdamW(
        _decay_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    watch = _Watch(
        fitted,
        schedule,
        optimizer,
        settings,
        task,
        save,
        step_tokens=settings.batch_windows * windows.context,
    )
    started = schedule.clock()
    with tempfile.TemporaryDirectory(prefix="curate-warmup-") as scratch:
        trainer = Trainer(
            model=model,
            args=_arguments(scratch, schedule.steps, settings),
            train_dataset=windows,
            eval_dataset=held_out,
            optimizers=(optimizer, scheduler),
            callbacks=[watch],
        )
        # These print to stdout, which belongs to results.
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        with products("tf32"):
            if held_out is not None:
                fitted.held_out_before = trainer.evaluate()["eval_loss"]
            schedule.start(margin=2 * (schedule.clock() - started))  # leaves time to measure again, and to save
            trainer.train()
            if held_out is not None:
                fitted.held_out_after = trainer.evaluate()["eval_loss"]
    return fitted


def _arguments(scratch: str, steps: int, settings: FitSettings) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=settings.at_once,
        gradient_accumulation_steps=settings.batch_windows // settings.at_once,
        per_device_eval_batch_size=settings.at_once,
        dataloader_num_workers=0,
        dataloader_pin_memory=settings.device == "cuda",
        max_grad_norm=1.0,
        logging_strategy="steps",
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,  # such a loss is an error here: see on_log
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=settings.device == "cpu",
        bf16=settings.bfloat16,
        prediction_loss_only=True,
    )
    # With several GPUs the Trainer would split each batch among them; one is enough for a proxy.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _decay_groups(model: "PreTrainedModel", weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices alone: shrinking a norm's gain or a bias only hurts."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


class _Watch(TrainerCallback):
    """Report progress, keep the loss curve, stop on time, and save at even shares of the schedule."""

    def __init__(
        self,
        fitted: Fitted,
        schedule: Schedule,
        optimizer: torch.optim.Optimizer,
        settings: FitSettings,
        task: Task,
        save: Save,
        step_tokens: int,
    ) -> None:
        self._fitted, self._schedule, self._optimizer = fitted, schedule, optimizer
        self._settings, self._task, self._save = settings, task, save
        self._step_tokens = step_tokens
        self._rates: list[float] = []
        self._shares_saved = 0

    def on_optimizer_step(self, args: Any, state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        self._rates.append(self._optimizer.param_groups[0]["lr"])  # the rate just used: the scheduler steps next

    def on_step_end(self, args: Any, state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        fitted = self._fitted
        fitted.steps = state.global_step
        fitted.tokens += self._step_tokens
        fitted.seconds = self._schedule.elapsed
        self._task.advance(self._step_tokens)
        progress = self._schedule.progress(state.global_step)
        due = int(progress * self._settings.checkpoints + 1e-9)
        if due > self._shares_saved:
            rates, self._rates = self._rates, []
            self._save(state.global_step, self._optimizer, rates[-1], sum(rates) / len(rates))
            fitted.saved.append(state.global_step)
            self._shares_saved = due
        if progress >= 1.0:
            fitted.ended_by = "steps" if state.global_step >= self._schedule.steps else "time"
            control.should_log = True  # so that the loss of the last steps is checked, too
            control.should_training_stop = True

    def on_log(
        self,
        args: Any,
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise CurateError(
                f"The training loss became {logs['loss']} by step {state.global_step}.",
                hint="Lower --learning-rate, or use --dtype float32.",
            )
        entry = {"step": state.global_step, "loss": logs["loss"], "lr": logs["learning_rate"]}
        self._fitted.curve.append(entry)
