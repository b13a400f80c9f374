"""What happens to the architectures of transformers: a table of names, configurations and outcomes.

python -m tests.architectures > examples/measured/architectures.md
"""

from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from curate.errors import CurateError
from curate.gradients.frozen import FrozenPass
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import ProxySettings
from tests.small_models import assert_autograds_gradients, tiny_tokenizer

# Every name that some configuration gives to a size; each reads its own.
_SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_key_value_heads"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    "n_positions": 64,
}
_HEAD = {"head_dim": 8}
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 8),
}
_LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_STATE = {"state_size": 4, "mamba_d_state": 4, "mamba_expand": 2, "mamba_d_conv": 4, "chunk_size": 8, "n_groups": 1}
_BAMBA = _STATE | {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_num_heads": 4, "mamba_head_dim": 16}
_T5 = {"num_layers": 1, "num_decoder_layers": 1, "d_ff": 24, "d_kv": 8, "num_heads": 4}
_EAGER = {"attn_implementation": "eager"}
_EYES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_GEMMA_3 = {"text_config": _SMALL | _HEAD, "vision_config": _EYES}
_LLAVA = {
    "text_config": _SMALL | {"model_type": "llama"},
    "vision_config": _EYES | {"model_type": "siglip_vision_model"},
}

# A kind, the model types of that kind, and what their configurations need beside the small sizes.
_KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("dense", "apertus arcee bitnet cwm diffllama exaone4 glm glm4 granite helium hunyuan_v1_dense llama", _HEAD),
    ("dense", "ministral nanochat nemotron olmo olmo2 qwen2 qwen3 seed_oss", _HEAD),
    ("dense", "biogpt bloom falcon gpt2 gpt_bigcode gpt_neox gpt_neox_japanese mpt openai-gpt opt persimmon", {}),
    ("dense", "phi phi3 stablelm", {}),
    ("dense", "codegen gptj", {"rotary_dim": 4}),
    ("latent attention", "minicpm3", _LATENT),
    ("tied embeddings", "cohere ernie4_5 gemma smollm3 starcoder2", _HEAD),
    ("sliding window", "cohere2 doge gemma3_text mistral olmo3", _HEAD),
    ("soft-capped", "gemma2 vaultgemma", _HEAD | _EAGER),
    ("hybrid, soft-capped", "recurrent_gemma", {"lru_width": 32, "block_types": ["recurrent", "attention"]}),
    ("mixture of experts", "afmoe cohere2_moe dots1 ernie4_5_moe flex_olmo glm4_moe gpt_oss", _HEAD | _EXPERTS),
    ("mixture of experts", "granitemoe granitemoeshared hunyuan_v1_moe llama4_text mixtral", _HEAD | _EXPERTS),
    ("mixture of experts", "olmoe phimoe qwen2_moe qwen3_moe", _HEAD | _EXPERTS),
    ("mixture of experts", "jetmoe", _EXPERTS | {"kv_channels": 8}),
    ("mixture of experts, latent attention", "deepseek_v2 deepseek_v3", _EXPERTS | _LATENT | {"head_dim": 4}),
    ("state space", "falcon_mamba mamba", _STATE),
    ("state space", "mamba2", _STATE | {"num_heads": 8, "head_dim": 8, "expand": 2}),
    ("recurrent", "rwkv", {}),
    ("hybrid", "bamba lfm2 olmo_hybrid", _HEAD | _BAMBA),
    ("hybrid, mixture of experts", "granitemoehybrid jamba minimax", _BAMBA | _EXPERTS),
    ("decoder with a transformed head", "modernbert-decoder", {}),
    ("encoder", "bert electra rembert roberta roformer xlm-roberta", {}),
    ("encoder-decoder", "bart blenderbot mbart pegasus", {}),
    ("encoder-decoder", "t5", _T5),
    ("vision-language wrapper", "gemma3", _GEMMA_3),
    ("vision-language wrapper", "llava", _LLAVA),
]
TABLE = {name: (kind, options) for kind, names, options in _KINDS for name in names.split()}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What happened to one architecture."""

    share: float | None
    """The share of its parameters that is tracked, where documents' gradients equal autograd's; None where refused."""
    uncovered: tuple[str, ...] = ()
    """Matrices of the decoder that are not tracked."""
    refusal: str = ""


def outcome(name: str) -> Outcome:
    """Save a tiny random model, load it as a user would, and compare documents' gradients with autograd's.

    Raises AssertionError where they differ: that is neither of the outcomes that there may be.
    """
    with TemporaryDirectory() as folder:
        tiny(name).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        try:
            proxy = load_proxy(ProxySettings(model=folder, dtype="float64", device="cpu"))
            FrozenPass(proxy)
        except CurateError as error:
            return Outcome(share=None, refusal=error.message.replace(folder, "The folder"))
    assert_autograds_gradients(proxy)
    return Outcome(share=proxy.coverage.share, uncovered=tuple(proxy.coverage.uncovered))


def tiny(name: str) -> PreTrainedModel:
    """Return a tiny model of that type, every parameter of which matters."""
    _, options = TABLE[name]
    config = AutoConfig.for_model(name, **({} if "text_config" in options else _SMALL) | options)
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM if causal else AutoModel
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def main() -> None:
    """Print the table as Markdown."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("# Architectures\n")
    print(
        "Tiny random models of transformers, saved and loaded as a user's would be. Of each that is scored, losses and"
        "\nwhole gradients of documents in one batch equal autograd's, taken one document after the other. Made by\n"
        "`python -m tests.architectures`; `tests/test_architectures.py` checks every row.\n"
    )
    print("| model type | kind | tracked | not tracked, or why it is refused |\n| --- | --- | ---: | --- |")
    for name in sorted(TABLE):
        result = outcome(name)
        tracked = "refused" if result.share is None else f"{result.share:.0%}"
        told = result.refusal or ", ".join(f"`{n}`" for n in result.uncovered)
        print(f"| {name} | {TABLE[name][0]} | {tracked} | {told} |")


if __name__ == "__main__":
    main()
