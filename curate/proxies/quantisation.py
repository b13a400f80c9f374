"""Quantised models: which can be read in full precision here, and why others cannot."""

from typing import Any

from curate.errors import CurateError

# What transformers reads without a package of its own, and turns into plain weights.
_HINT = "Give a copy in full precision: load it where {} runs, `model.dequantize()`, then `save_pretrained`."


def refuse_quantised(config: Any, source: str) -> None:
    """Raise CurateError for weights in a quantised form, before they are read."""
    quantisation = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not quantisation:
        return
    settings = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")) or "unknown")
    bits = " in 4 bits" if settings.get("load_in_4bit") else " in 8 bits" if settings.get("load_in_8bit") else ""
    raise CurateError(
        f"{source} is quantised by {method}{bits}; expected weights in float32, bfloat16 or float16.",
        hint=_HINT.format(method),
    )
