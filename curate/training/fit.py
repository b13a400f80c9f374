"""Drive transformers' Trainer: next-token training on windows or documents, with named checkpoints on the way."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from curate.errors import CurateError
from curate.progress import Task
from curate.proxies.devices import products
from curate.proxies.tokens import IGNORED
from curate.training.schedule import Schedule
from curate.training.units import Documents, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState

Save = Callable[[int, torch.optim.Optimizer, float, float], None]
"""Called with (step, optimizer, learning rate, mean rate since the last checkpoint)."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to train; data and folder are given apart."""

    batch: int
    """Windows or documents of a step."""
    at_once: int
    """Those that go through the model together; divides the batch."""
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
    held_out_middle: float | None = None
    """Halfway through the schedule, after `middle_tokens`; None where that is its end."""
    middle_tokens: int = 0
    held_out_after: float | None = None


def fit(
    model: "PreTrainedModel",
    training: Windows | Documents,
    held_out: Windows | Documents | None,
    schedule: Schedule,
    settings: FitSettings,
    *,
    task: Task,
    save: Save,
) -> Fitted:
    """Train `model` in place until the schedule is used up, calling `save` at even shares of it.

    The loss of a step is the mean over all scored tokens of its batch, however many go through the model at once.
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
        step_tokens=settings.batch * training.context if isinstance(training, Windows) else None,
    )
    started = schedule.clock()
    with tempfile.TemporaryDirectory(prefix="curate-warmup-") as scratch:
        trainer = Trainer(
            model=model,
            args=_arguments(scratch, schedule.steps, settings, count_tokens=isinstance(training, Documents)),
            train_dataset=training,
            eval_dataset=held_out,
            data_collator=training.padded if isinstance(training, Documents) else None,
            optimizers=(optimizer, scheduler),
            callbacks=[watch],
        )
        # These print to stdout, which belongs to results.
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        with products("tf32"):
            if held_out is not None:
                fitted.held_out_before = _held_out_loss(trainer, held_out)
                watch.held_out_loss = partial(_held_out_loss, trainer, held_out)
            schedule.start(margin=3 * (schedule.clock() - started))  # leaves time to measure twice again, and to save
            torch.manual_seed(settings.seed)  # of dropout, whatever the held-out loss drew
            trainer.train()
            if held_out is not None:
                fitted.held_out_after = _held_out_loss(trainer, held_out)
    return fitted


def _held_out_loss(trainer: Trainer, held_out: Windows | Documents) -> float:
    """Return the mean loss per scored token."""
    if isinstance(held_out, Windows):
        return trainer.evaluate()["eval_loss"]
    # The Trainer's own mean gives every batch its number of documents as weight, not its tokens.
    model: Any = trainer.model
    model.eval()
    total, num_scored = 0.0, 0
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in trainer.get_eval_dataloader():
            count = int((batch["labels"] != IGNORED).sum())
            total += float(model(**batch).loss) * count
            num_scored += count
    return total / num_scored


def _arguments(scratch: str, steps: int, settings: FitSettings, *, count_tokens: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=settings.at_once,
        gradient_accumulation_steps=settings.batch // settings.at_once,
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
        include_num_input_tokens_seen="non_padding" if count_tokens else "no",
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
        step_tokens: int | None,
    ) -> None:
        self._fitted, self._schedule, self._optimizer = fitted, schedule, optimizer
        self._settings, self._task, self._save = settings, task, save
        self._step_tokens = step_tokens
        self._rates: list[float] = []
        self._shares_saved = 0
        self.held_out_loss: Callable[[], float] | None = None

    def on_optimizer_step(self, args: Any, state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        self._rates.append(self._optimizer.param_groups[0]["lr"])  # the rate just used: the scheduler steps next

    def on_step_end(self, args: Any, state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        fitted = self._fitted
        fitted.steps = state.global_step
        tokens = self._step_tokens or state.num_input_tokens_seen - fitted.tokens
        fitted.tokens += tokens
        fitted.seconds = self._schedule.elapsed
        self._task.advance(tokens)
        progress = self._schedule.progress(state.global_step)
        due = int(progress * self._settings.checkpoints + 1e-9)
        if due > self._shares_saved:
            rates, self._rates = self._rates, []
            self._save(state.global_step, self._optimizer, rates[-1], sum(rates) / len(rates))
            fitted.saved.append(state.global_step)
            self._shares_saved = due
        if 0.5 <= progress < 1.0 and fitted.held_out_middle is None and self.held_out_loss is not None:
            due_now = dict(vars(control))  # an evaluation takes what is due after this step for done
            with torch.random.fork_rng(devices=[]):  # a loader draws a seed, which the training must not miss
                fitted.held_out_middle, fitted.middle_tokens = self.held_out_loss(), fitted.tokens
            vars(control).update(due_now)
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
