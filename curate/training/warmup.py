"""Make a proxy on a sample of the pool: from scratch or by fine-tuning."""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import __version__
from curate.amounts import counted
from curate.documents import Pool, check_fields, draw_sample, estimated_size, look
from curate.documents.check import refusal
from curate.documents.set_aside import sentences
from curate.errors import CurateError, SettingsError
from curate.folders.local import path_or_url
from curate.progress import Reporter, Silent
from curate.schema import Document
from curate.training.folder import RECORD, new_folder
from curate.training.proxies import Base, base_of
from curate.training.settings import DEFAULT_DOCUMENTS, DEFAULT_TOKENS, Decided, Unit, WarmupSettings

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from curate.training.fit import Fitted
    from curate.training.units import TrainingSet

HELD_OUT, MAX_HELD_OUT = 0.05, 200
STILL_FALLING = 0.7
"""Nats per token by which the held-out loss falls in the last doubling of the tokens, from which on more are advised:
where it falls by half a nat, scores by a new model of 1.3 M parameters rank retrainings well."""
ENDLESS = 10**8  # steps: more than any clock allows


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The outcome of a warm-up; `warmup.json` in the proxy's folder holds the same."""

    out: Path | str
    """A URL where it lies in an object store."""
    parameters: int
    trained_parameters: int
    vocabulary: int
    unit: str
    """'windows' or 'documents'."""
    context: int
    documents: int
    held_out_documents: int
    steps: int
    tokens_seen: int
    held_out_loss_before: float | None
    """Mean nats per scored token on documents of the sample that took no part; None when they fill no window."""
    held_out_loss_after: float | None
    loss_fall: float | None
    """Nats per token by which the held-out loss fell in the last doubling of the tokens; None where it is not known."""
    tokens_per_parameter: float
    """Tokens seen, of each parameter that was trained."""
    seconds: float
    training_seconds: float
    ended_by: str
    """'steps' or 'time'."""
    checkpoints: list[str]
    curve: list[dict[str, float]]


def warmup(pool: Pool, out: Path | str, *, settings: WarmupSettings, reporter: Reporter | None = None) -> Warmup:
    """Train a proxy on a sample of `pool` and save it in `out`, for `from_pretrained`.

    The folder appears whole, at the end; a warm-up that was killed starts anew. A proxy that an earlier
    warm-up left in `out` is replaced; any other folder that is not empty is refused. Holds the sample in
    memory, not the pool.
    """
    from curate.proxies.devices import choose_device
    from curate.proxies.proxy import keep_freed_memory

    started = time.monotonic()
    reporter = reporter or Silent()
    out = path_or_url(out)
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index:
        raise SettingsError(
            f"device is {settings.device!r}; expected 'cuda': a warm-up runs on the first CUDA device that it sees.",
            hint=f"Use CUDA_VISIBLE_DEVICES={device.index} curate warmup --device cuda ….",
        )
    keep_freed_memory()
    with new_folder(out) as folder, _without_bars():
        size, documents = _sample(pool, settings, reporter)
        decided = settings.decided(_unit(documents, settings, reporter))
        base = base_of(documents, decided, reporter)
        num_held_out = min(max(round(HELD_OUT * len(documents)), 1), MAX_HELD_OUT, len(documents) - 1)
        data = _training_set(documents[num_held_out:], documents[:num_held_out], base, decided, reporter)
        _remark_on_length(data, decided, reporter)
        model, fitted = _trained(base.make, data, folder, decided, reporter, started)
        tokenizer = base.tokenizer
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        result = Warmup(
            out=out,
            parameters=sum(p.numel() for p in model.parameters()),
            trained_parameters=trained_parameters,
            vocabulary=len(tokenizer),
            unit=decided.unit,
            context=base.context,
            documents=data.documents,
            held_out_documents=data.held_out_documents,
            steps=fitted.steps,
            tokens_seen=fitted.tokens,
            held_out_loss_before=fitted.held_out_before,
            held_out_loss_after=fitted.held_out_after,
            loss_fall=_fall(fitted),
            tokens_per_parameter=round(fitted.tokens / trained_parameters, 3),
            seconds=round(time.monotonic() - started, 3),
            training_seconds=round(fitted.seconds, 3),
            ended_by=fitted.ended_by,
            checkpoints=[f"checkpoints/step-{s}" for s in fitted.saved],
            curve=fitted.curve,
        )
        _write_record(folder / RECORD, result, decided.as_dict() | {"documents": size}, pool)
    if short := shortness(result):
        reporter.warn(short)
    return result


def _fall(fitted: "Fitted") -> float | None:
    """Return by how much the held-out loss fell in the last doubling of the tokens."""
    middle, after = fitted.held_out_middle, fitted.held_out_after
    if middle is None or after is None:
        return None
    return (middle - after) / math.log2(fitted.tokens / fitted.middle_tokens)


def shortness(result: Warmup) -> str | None:
    """Say where a proxy saw so little that its gradients tell little; None where it saw enough, or nothing is known."""
    if result.loss_fall is None or result.loss_fall < STILL_FALLING:
        return None
    return (
        f"the proxy saw little: after {counted(result.steps, 'step')} and {result.tokens_per_parameter:.2g} tokens per"
        f" trained parameter its held-out loss, {result.held_out_loss_after:.2f} nats per token, was still falling by"
        f" {result.loss_fall:.2f} per doubling of the tokens (expected below {STILL_FALLING}). Train it on several"
        f" times its {result.tokens_seen:,} tokens: --tokens, --epochs or --minutes."
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own: progress belongs to the reporter."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


def _sample(pool: Pool, settings: WarmupSettings, reporter: Reporter) -> tuple[int, list[Document]]:
    """Return how many documents to draw, and those that there are."""
    if not pool.is_one_file:
        reporter.note(f"pool: {pool.listing}.")
    check_fields(pool, settings.fields)
    if (first_rows := look(pool, settings.fields)) is not None:
        reporter.note(f"pool read as: {first_rows}.")
    if problem := refusal(pool, settings.fields):
        reporter.warn(f"pool: {problem}")
    with reporter.stage("sampling the pool"):
        size = settings.documents or DEFAULT_DOCUMENTS
        if settings.share is not None:
            rows = estimated_size(pool, settings.seed)
            size = max(round(settings.share * rows), 1)
            reporter.note(f"a sample of {size:,}: {100 * settings.share:g} % of about {rows:,} rows.")
        sample = draw_sample(pool, size, settings.seed, settings.fields)
    for sentence in sentences(sample.skipped, "pool"):
        reporter.warn(sentence)
    documents = sample.documents
    if len(documents) < 2:
        raise CurateError(
            f"{', '.join(pool.address)}: the pool has {len(documents)} document(s);"
            " expected at least 2: one to train on, one to hold out."
        )
    random.Random(settings.seed).shuffle(documents)  # the sample comes shard by shard
    return size, documents


def _unit(documents: Sequence[Document], settings: WarmupSettings, reporter: Reporter) -> Unit:
    """Choose documents for a given model where most rows say what is to be answered, windows otherwise."""
    if settings.certain_unit is not None:
        return settings.certain_unit
    if 2 * sum(d.text is None for d in documents) <= len(documents):
        return "windows"
    reporter.note(
        "trains on documents, with loss on completions and assistant turns alone; --unit windows packs whole texts."
    )
    return "documents"


def _write_record(path: Path, result: Warmup, settings_record: dict[str, Any], pool: Pool) -> None:
    del settings_record["pool"]  # recorded with its fingerprint
    record = {
        "curate": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "pool": {"address": list(pool.address), "fingerprint": pool.fingerprint()},
        "settings": settings_record,
        **{k: v for k, v in asdict(result).items() if k != "out"},
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _training_set(
    training: Sequence[Document],
    held_out: Sequence[Document],
    base: Base,
    decided: Decided,
    reporter: Reporter,
) -> "TrainingSet":
    from curate.proxies.tokens import TokenSettings
    from curate.training.units import documents_of, windows_of

    with reporter.stage("tokenising", total=len(training) + len(held_out)) as task:
        if decided.unit == "windows":
            size = {"context": base.context, "batch_tokens": decided.batch}
            data = windows_of(training, held_out, base.tokenizer, **size, reporter=reporter)
        else:
            tokens = TokenSettings(context=base.context, vocabulary=base.vocabulary)
            data = documents_of(training, held_out, base.tokenizer, tokens, batch=decided.batch, reporter=reporter)
        task.advance(len(training) + len(held_out))
    return data


# Of the sample, from which on a training is said to be long.
MANY_PASSES = 10


def _remark_on_length(data: "TrainingSet", decided: Decided, reporter: Reporter) -> None:
    """Say where a training is much longer than its sample, or too short to learn anything."""
    settings, steps = decided.settings, _steps(decided.settings, data)
    if steps == 1 and decided.schedule != "cosine" and decided.warmup:
        reporter.warn(
            "the training is one step, at the beginning of the rate's rise: it learns nothing."
            " Give more --epochs, a smaller --batch-documents, or --warmup 0."
        )
    sample, asked = data.training.tokens, round(steps * data.step_tokens)
    if settings.minutes is None and settings.epochs is None and asked > MANY_PASSES * sample:
        reporter.note(
            f"{asked:,} tokens are {asked / sample:,.0f} passes over the {sample:,} of the sample;"
            " --epochs, --tokens or --minutes make the training shorter."
        )


def _trained(
    make_model: Callable[[], "PreTrainedModel"],
    data: "TrainingSet",
    folder: Path,
    decided: Decided,
    reporter: Reporter,
    started: float,
) -> tuple["PreTrainedModel", "Fitted"]:
    """Return a model after its training, which begins anew with less at once when the device's memory is out."""
    from curate import threads
    from curate.errors import memory_is_out
    from curate.memory import release_memory
    from curate.proxies.devices import choose_device

    at_once = data.at_once
    while True:
        model = make_model()
        threads.choose(sum(p.numel() for p in model.parameters()))
        try:
            return model, _train(model, data, folder, at_once, decided, reporter, started)
        except Exception as error:
            if not memory_is_out(error) or at_once == 1:
                raise
        del model  # after the error, which holds on to what was computed
        release_memory(choose_device(decided.settings.device))
        at_once = max(n for n in range(1, at_once // 2 + 1) if data.batch % n == 0)
        reporter.note(
            f"memory ran out: training begins anew with {at_once} of a batch's {data.batch} {decided.unit} at a time."
        )


def _train(
    model: "PreTrainedModel",
    data: "TrainingSet",
    folder: Path,
    at_once: int,
    decided: Decided,
    reporter: Reporter,
    started: float,
) -> "Fitted":
    from curate.proxies.devices import choose_device
    from curate.training.fit import FitSettings, fit
    from curate.training.moments import write_moments
    from curate.training.schedule import Schedule

    settings = decided.settings
    seconds_left = None if settings.minutes is None else settings.minutes * 60 - (time.monotonic() - started)
    steps = _steps(settings, data)

    def save(step: int, optimizer: "Optimizer", learning_rate: float, mean_learning_rate: float) -> None:
        checkpoint = folder / "checkpoints" / f"step-{step}"
        model.save_pretrained(checkpoint)
        write_moments(
            checkpoint, model, optimizer, step=step, learning_rate=learning_rate, mean_learning_rate=mean_learning_rate
        )

    total = steps * data.step_tokens if steps < ENDLESS else None
    with reporter.stage("training", total=total, unit="tokens") as task:
        return fit(
            model,
            data.training,
            data.held_out,
            Schedule(
                steps=steps,
                seconds=seconds_left,
                shape=decided.schedule,
                warm_up=decided.warmup,
            ),
            FitSettings(
                batch=data.batch,
                at_once=at_once,
                learning_rate=decided.learning_rate,
                weight_decay=decided.weight_decay,
                seed=settings.seed,
                device=choose_device(settings.device).type,
                bfloat16=settings.dtype == "bfloat16",
                checkpoints=decided.checkpoints,
            ),
            task=task,
            save=save,
        )


def _steps(settings: WarmupSettings, data: "TrainingSet") -> int:
    """Return the number of steps, ENDLESS where only the clock ends the training."""
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is not None:
        return settings.epochs * data.steps
    if settings.tokens is None and settings.minutes is not None:
        return ENDLESS
    return max(math.ceil((settings.tokens or DEFAULT_TOKENS) / data.step_tokens), 1)
