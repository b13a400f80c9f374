"""The model that a warm-up trains: a new one, or a given one."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import CurateError
from curate.training.settings import Shape
from curate.training.tokenizer import END_OF_TEXT, PAD

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


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


def given_model(address: str, revision: str | None, device: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal LM with its tokenizer as `score` does, and make every weight trainable, in float32."""
    from curate.proxies.proxy import load_proxy
    from curate.proxies.settings import ProxySettings

    if (Path(address).expanduser() / "adapter_config.json").exists():
        raise CurateError(
            f"{address} holds adapters; expected a whole model.",
            hint="Give the model that they belong to; --lora-rank makes new adapters for it.",
        )
    # Half-precision weights cannot hold an optimiser's small steps.
    proxy = load_proxy(ProxySettings(model=address, revision=revision, device=device, dtype="float32"))
    return proxy.model.requires_grad_(True), proxy.tokenizer


def with_adapters(model: "PreTrainedModel", rank: int, *, seed: int) -> "PreTrainedModel":
    """Freeze the model and add LoRA adapters to every linear layer of its decoder; α = 2·rank."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft uses a name that transformers will drop; users cannot change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)  # type: ignore[return-value]


def _rounded(value: float, multiple: int) -> int:
    return max(round(value / multiple), 1) * multiple
