"""The model that a warm-up trains: a new one, or a given one."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import CurateError, SettingsError, nearest
from curate.progress import Reporter
from curate.schema import Document
from curate.training.lora import Lora
from curate.training.settings import Decided, Shape, WarmupSettings
from curate.training.tokenizer import END_OF_TEXT, PAD, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


# The tokenizer learns little from more text than this, and its training holds every distinct word in memory.
TOKENIZER_CHARS = 32_000_000


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model before its training, with what reads and writes its texts."""

    make: Callable[[], "PreTrainedModel"]
    tokenizer: "PreTrainedTokenizerBase"
    vocabulary: int
    """Tokens that the model has embeddings for."""
    context: int
    """Tokens of a window, or of a document at most."""


def base_of(documents: Sequence[Document], decided: Decided, reporter: Reporter) -> Base:
    """Make ready the model to train: a new one whose tokenizer learns from the documents, or the given one."""
    settings, context = decided.settings, decided.context
    if settings.model is None:
        tokenizer = _new_tokenizer(documents, decided, reporter)
        make = partial(new_model, settings.shape, tokenizer, context=context, seed=settings.seed)
        return Base(make=make, tokenizer=tokenizer, vocabulary=len(tokenizer), context=context)
    from curate.proxies.proxy import vocabulary_of

    given = given_model(settings)
    config, tokenizer, vocabulary = given[0].config.get_text_config(), given[1], vocabulary_of(given[0])
    longest = getattr(config, "max_position_embeddings", None) or context
    if context > longest:
        reporter.note(f"{decided.unit} of {longest} tokens, the longest that the model takes.")
    loaded = [given[0]]
    del given

    def make_from_given() -> "PreTrainedModel":
        model = loaded.pop() if loaded else given_model(settings)[0]
        return model if settings.lora is None else with_adapters(model, settings.lora, seed=settings.seed)

    return Base(make=make_from_given, tokenizer=tokenizer, vocabulary=vocabulary, context=min(context, longest))


def _new_tokenizer(documents: Sequence[Document], decided: Decided, reporter: Reporter) -> "PreTrainedTokenizerFast":
    with reporter.stage("training the tokenizer", total=len(documents)) as task:

        def texts() -> Iterator[str]:
            room = TOKENIZER_CHARS
            for document in documents:
                text = document.plain_text[:room]
                room -= len(text)
                task.advance(1)
                if text:
                    yield text.encode("utf-8", "replace").decode()

        return train_tokenizer(texts(), vocab_size=decided.settings.shape.vocab_size, context=decided.context)


def new_model(shape: Shape, tokenizer: "PreTrainedTokenizerFast", *, context: int, seed: int) -> "PreTrainedModel":
    """Make a model of random weights, in float32; the same seed gives the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=_rounded(shape.width * 8 / 3, 32),  # SwiGLU at the size of a 4x feed-forward
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=ids[END_OF_TEXT],
        eos_token_id=ids[END_OF_TEXT],
        pad_token_id=ids[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def given_model(settings: WarmupSettings) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal LM with its tokenizer as `score` does, and make every weight trainable, in float32."""
    from curate.proxies.loading import find
    from curate.proxies.proxy import load_proxy
    from curate.proxies.settings import ProxySettings

    address = str(settings.model)
    if (Path(find(address)) / "adapter_config.json").exists():
        raise CurateError(
            f"{address} holds adapters; expected a whole model.",
            hint="Give the model that they belong to; --lora makes new adapters for it.",
        )
    # Half-precision weights cannot hold an optimiser's small steps.
    proxy = load_proxy(
        ProxySettings(
            model=address,
            revision=settings.revision,
            chat_template=settings.chat_template,
            device=settings.device,
            dtype="float32",
        )
    )
    return proxy.model.requires_grad_(True), proxy.tokenizer


def with_adapters(model: "PreTrainedModel", lora: Lora, *, seed: int) -> "PreTrainedModel":
    """Freeze the model and add LoRA adapters. Raises SettingsError for a target that is the name of no linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model

    _check_targets(model, lora.targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.scale,  # type: ignore[arg-type]  # peft divides it by the rank
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft uses a name that transformers will drop; users cannot change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)  # type: ignore[return-value]


def _check_targets(model: "PreTrainedModel", targets: Sequence[str]) -> None:
    from curate.proxies.probes import decoder_of, linear_layers

    layers, _ = linear_layers(decoder_of(model))
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise SettingsError(
                f"lora: no linear layer's name ends with {target!r} (targets).", hint=nearest(target, ends)
            )


def _rounded(value: float, multiple: int) -> int:
    return max(round(value / multiple), 1) * multiple
