"""Make a proxy on a sample of the pool: from scratch or by fine-tuning."""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from curate import __version__
from curate.documents import Pool, check_fields, draw_sample, look
from curate.documents.check import refusal
from curate.documents.set_aside import sentences
from curate.errors import CurateError, SettingsError
from curate.progress import Reporter, Silent
from curate.schema import Document
from curate.training.folder import RECORD, new_folder
from curate.training.proxies import given_model, new_model, with_adapters
from curate.training.settings import DEFAULT_TOKENS, WarmupSettings
from curate.training.tokenizer import encode_packed, train_tokenizer, training_text

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from curate.training.fit import Fitted, Windows

# The tokenizer learns little from more text than this, and its training holds every distinct word in memory.
TOKENIZER_CHARS = 32_000_000
HELD_OUT, MAX_HELD_OUT = 0.05, 200
ENDLESS = 10**8  # steps: more than any clock allows


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The outcome of a warm-up; `warmup.json` in the proxy's folder holds the same."""

    out: Path
    parameters: int
    trained_parameters: int
    vocabulary: int
    context: int
    documents: int
    held_out_documents: int
    steps: int
    tokens_seen: int
    held_out_loss_before: float | None
    """Mean nats per token on documents of the sample that took no part; None when they fill no window."""
    held_out_loss_after: float | None
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
    out = Path(out)
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index:
        raise SettingsError(
            f"device is {settings.device!r}; expected 'cuda': a warm-up runs on the first CUDA device that it sees.",
            hint=f"Use CUDA_VISIBLE_DEVICES={device.index} curate warmup --device cuda ….",
        )
    keep_freed_memory()
    with new_folder(out) as folder, _without_bars():
        documents = _sample(pool, settings, reporter)
        make_model, tokenizer, context = _model(documents, settings, reporter)
        windows, held_out, num_held_out = _windows(documents, tokenizer, context, reporter)
        model, fitted = _trained(make_model, windows, held_out, folder, settings, reporter, started)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        result = Warmup(
            out=out,
            parameters=sum(p.numel() for p in model.parameters()),
            trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            vocabulary=len(tokenizer),
            context=context,
            documents=len(documents) - num_held_out,
            held_out_documents=num_held_out,
            steps=fitted.steps,
            tokens_seen=fitted.tokens,
            held_out_loss_before=fitted.held_out_before,
            held_out_loss_after=fitted.held_out_after,
            seconds=round(time.monotonic() - started, 3),
            training_seconds=round(fitted.seconds, 3),
            ended_by=fitted.ended_by,
            checkpoints=[f"checkpoints/step-{s}" for s in fitted.saved],
            curve=fitted.curve,
        )
        _write_record(folder / RECORD, result, settings, pool)
    return result


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


def _sample(pool: Pool, settings: WarmupSettings, reporter: Reporter) -> list[Document]:
    if not pool.is_one_file:
        reporter.note(f"pool: {pool.listing}.")
    check_fields(pool, settings.fields)
    if (first_rows := look(pool, settings.fields)) is not None:
        reporter.note(f"pool read as: {first_rows}.")
    if problem := refusal(pool, settings.fields):
        reporter.warn(f"pool: {problem}")
    with reporter.stage("sampling the pool"):
        sample = draw_sample(pool, settings.documents, settings.seed, settings.fields)
    for sentence in sentences(sample.skipped, "pool"):
        reporter.warn(sentence)
    documents = sample.documents
    if len(documents) < 2:
        raise CurateError(
            f"{', '.join(pool.address)}: the pool has {len(documents)} document(s);"
            " expected at least 2: one to train on, one to hold out."
        )
    random.Random(settings.seed).shuffle(documents)  # the sample comes shard by shard
    return documents


def _write_record(path: Path, result: Warmup, settings: WarmupSettings, pool: Pool) -> None:
    settings_record = asdict(settings) | {"learning_rate": settings.peak_learning_rate}
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


def _model(
    documents: Sequence[Document], settings: WarmupSettings, reporter: Reporter
) -> tuple[Callable[[], "PreTrainedModel"], "PreTrainedTokenizerBase", int]:
    """Return what makes the model to train, its tokenizer, and the length of its training windows."""
    if settings.model is None:
        tokenizer = _new_tokenizer(documents, settings, reporter)
        make = partial(new_model, settings.shape, tokenizer, context=settings.context, seed=settings.seed)
        return make, tokenizer, settings.context
    given = given_model(settings.model, settings.revision, settings.device)
    config, tokenizer = given[0].config.get_text_config(), given[1]
    longest = getattr(config, "max_position_embeddings", None) or settings.context
    if settings.context > longest:
        reporter.note(f"windows of {longest} tokens, the longest that the model takes.")
    loaded = [given[0]]
    del given

    def make_from_given() -> "PreTrainedModel":
        address, revision = str(settings.model), settings.revision
        model = loaded.pop() if loaded else given_model(address, revision, settings.device)[0]
        return model if settings.lora_rank is None else with_adapters(model, settings.lora_rank, seed=settings.seed)

    return make_from_given, tokenizer, min(settings.context, longest)


def _new_tokenizer(
    documents: Sequence[Document], settings: WarmupSettings, reporter: Reporter
) -> "PreTrainedTokenizerFast":
    with reporter.stage("training the tokenizer", total=len(documents)) as task:

        def texts() -> Iterator[str]:
            room = TOKENIZER_CHARS
            for document in documents:
                text = document.plain_text[:room]
                room -= len(text)
                task.advance(1)
                if text:
                    yield text.encode("utf-8", "replace").decode()

        return train_tokenizer(texts(), vocab_size=settings.shape.vocab_size, context=settings.context)


def _windows(
    documents: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    reporter: Reporter,
) -> tuple["Windows", "Windows | None", int]:
    """Pack the sample; return the training windows, the held-out ones, and the number of held-out documents."""
    from curate.training.fit import Windows

    num_held_out = min(max(round(HELD_OUT * len(documents)), 1), MAX_HELD_OUT, len(documents) - 1)
    with reporter.stage("tokenising", total=len(documents)) as task:
        texts = list(_texts(documents, tokenizer, reporter))
        held_out = encode_packed([t for t in texts[:num_held_out] if t], tokenizer, context)
        windows = encode_packed([t for t in texts[num_held_out:] if t], tokenizer, context)
        task.advance(len(documents))
    if not windows:
        raise CurateError(
            f"The sample's {len(documents) - num_held_out} training documents are together shorter than one window of"
            f" {context} tokens.",
            hint="Lower --context, or give a larger pool.",
        )
    if not held_out:
        reporter.warn(
            f"no held-out loss: {num_held_out} held-out documents do not fill one window of {context} tokens."
        )
    return Windows(windows), Windows(held_out) if held_out else None, num_held_out


def _texts(documents: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", reporter: Reporter) -> Iterator[str]:
    """Yield training texts; a conversation that the chat template refuses gives an empty one."""
    refusals: list[CurateError] = []
    for document in documents:
        try:
            yield training_text(document, tokenizer)
        except CurateError as error:
            refusals.append(error)
            yield ""
    if refusals:
        reporter.warn(f"{len(refusals)} of {len(documents)} documents left out: {refusals[0].message}")


# Of the sample, from which on a training is said to be long.
MANY_PASSES = 10


def _trained(
    make_model: Callable[[], "PreTrainedModel"],
    windows: "Windows",
    held_out: "Windows | None",
    folder: Path,
    settings: WarmupSettings,
    reporter: Reporter,
    started: float,
) -> tuple["PreTrainedModel", "Fitted"]:
    """Return a model after its training, which begins anew with less at once when the device's memory is out."""
    from curate import threads
    from curate.errors import memory_is_out
    from curate.memory import release_memory
    from curate.proxies.devices import choose_device

    batch = min(settings.batch_tokens // windows.context, len(windows))
    at_once = batch
    sample, asked = len(windows) * windows.context, _steps(settings, batch * windows.context) * batch * windows.context
    if settings.minutes is None and asked > MANY_PASSES * sample:
        reporter.note(
            f"{asked:,} tokens are {asked / sample:,.0f} passes over the {sample:,} of the sample;"
            " --tokens or --minutes make the training shorter."
        )
    while True:
        model = make_model()
        threads.choose(sum(p.numel() for p in model.parameters()))
        try:
            return model, _train(model, windows, held_out, folder, batch, at_once, settings, reporter, started)
        except Exception as error:
            if not memory_is_out(error) or at_once == 1:
                raise
        del model  # after the error, which holds on to what was computed
        release_memory(choose_device(settings.device))
        at_once = max(n for n in range(1, at_once // 2 + 1) if batch % n == 0)
        reporter.note(f"memory ran out: training begins anew with {at_once} of a batch's {batch} windows at a time.")


def _train(
    model: "PreTrainedModel",
    windows: "Windows",
    held_out: "Windows | None",
    folder: Path,
    batch: int,
    at_once: int,
    settings: WarmupSettings,
    reporter: Reporter,
    started: float,
) -> "Fitted":
    from curate.proxies.devices import choose_device
    from curate.training.fit import FitSettings, fit
    from curate.training.moments import write_moments
    from curate.training.schedule import Schedule

    context = windows.context
    seconds_left = None if settings.minutes is None else settings.minutes * 60 - (time.monotonic() - started)
    steps = _steps(settings, batch * context)

    def save(step: int, optimizer: "Optimizer", learning_rate: float, mean_learning_rate: float) -> None:
        checkpoint = folder / "checkpoints" / f"step-{step}"
        model.save_pretrained(checkpoint)
        write_moments(
            checkpoint, model, optimizer, step=step, learning_rate=learning_rate, mean_learning_rate=mean_learning_rate
        )

    total = steps * batch * context if steps < ENDLESS else None
    with reporter.stage("training", total=total, unit="tokens") as task:
        return fit(
            model,
            windows.whole_batches(batch),
            held_out,
            Schedule(steps=steps, seconds=seconds_left),
            FitSettings(
                batch_windows=batch,
                at_once=at_once,
                learning_rate=settings.peak_learning_rate,
                weight_decay=settings.weight_decay,
                seed=settings.seed,
                device=choose_device(settings.device).type,
                bfloat16=settings.dtype == "bfloat16",
                checkpoints=settings.checkpoints,
            ),
            task=task,
            save=save,
        )


def _steps(settings: WarmupSettings, batch_tokens: int) -> int:
    """Return the number of steps, ENDLESS where only the clock ends the training."""
    if settings.steps is not None:
        return settings.steps
    if settings.tokens is None and settings.minutes is not None:
        return ENDLESS
    return max(math.ceil((settings.tokens or DEFAULT_TOKENS) / batch_tokens), 1)
