"""Adapters of peft on their base model: LoRA in all its forms is tracked, every other kind is refused by its name."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from curate.errors import CurateError, SettingsError
from curate.proxies.loading import NotHere, explained, find, load_whole
from curate.proxies.quantisation import cast, keep_packed

CONFIG = "adapter_config.json"
_PROMPTS = (
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "CPT",
    "ADAPTION_PROMPT",
    "CARTRIDGE",
)
_NAMES = {
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "ADALORA": "AdaLoRA",
    "IA3": "(IA)³",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
}
_MERGE = "Merge them into their base model with peft (`merge_and_unload()`), save that, and give its folder."


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds adapters."""
    return (folder / CONFIG).exists()


def tokenizers_source(folder: Path) -> tuple[str, str | None]:
    """Return the tokenizer's address and revision: beside the adapters, or else the adapted model's."""
    if any(folder.glob("tokenizer*")):
        return str(folder), None
    settings = _settings(folder)
    return _base_of(folder, settings), settings.get("revision")


def load_adapters(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a base model with the LoRA adapters of a folder in place. Raises CurateError."""
    settings = _settings(folder)
    _refuse_kind(settings, folder)
    base = _load_base(folder, settings, dtype, device)
    _resize(base, folder)
    from peft import PeftModel

    # Without memory for adapters first, peft also takes 8-bit weights away whose norms DoRA begins from; and PiSSA and
    # its like change the base's weights by what they set adapters to.
    from_base = isinstance(settings.get("init_lora_weights"), str)
    sparing = not getattr(base, "is_quantized", False) and not from_base
    with explained(str(folder)), warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        peft = PeftModel.from_pretrained(
            base, str(folder), torch_device=str(device), autocast_adapter_dtype=False, low_cpu_mem_usage=sparing
        )
    for remark in remarks:
        if "missing adapter keys" in str(remark.message):
            raise CurateError(
                f"{folder} does not hold all of its adapters' weights.",
                hint="Save them again with `save_pretrained`, and see whether they were made for this base model.",
            )
    model: Any = peft.get_base_model()
    keep_packed(model)
    cast(model, dtype, device)  # peft keeps some in float32
    _merge_head(model)
    for module in model.modules():
        if hasattr(module, "get_lora_weight"):
            # peft runs A and B over the identity for DoRA's norms, which no document's tokens are.
            module.get_lora_weight = _product
    return model


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CurateError(f"{folder / CONFIG} is no JSON: {error}") from error


def _refuse_kind(settings: dict[str, Any], folder: Path) -> None:
    kind = str(settings.get("peft_type", "")).upper()
    name = _NAMES.get(kind, kind or "an unnamed kind")
    if kind in _PROMPTS:
        raise CurateError(
            f"The adapters in {folder} are of {name}: what was learnt there are vectors before the text, and no layer"
            " whose gradient could be tracked.",
            hint="Use the base model itself, or LoRA adapters.",
        )
    if kind != "LORA":
        raise CurateError(
            f"The adapters in {folder} are of the kind {name}, whose weights are no linear layers; those of LoRA and"
            " DoRA are tracked.",
            hint=_MERGE,
        )
    if settings.get("alora_invocation_tokens"):
        raise CurateError(
            f"The adapters in {folder} act only after certain tokens (aLoRA), which is not covered.",
            hint="Use the base model itself, or LoRA adapters that always act.",
        )
    if settings.get("target_parameters"):
        raise CurateError(
            f"The adapters in {folder} change weights that are no linear layers"
            f" (target_parameters: {', '.join(settings['target_parameters'])}), which is not covered.",
            hint=_MERGE,
        )


def _base_of(folder: Path, settings: dict[str, Any]) -> str:
    address = settings.get("base_model_name_or_path")
    if not address:
        raise CurateError(
            f"{folder / CONFIG} does not say which model its adapters are for.",
            hint="Write the model's folder or name into its base_model_name_or_path.",
        )
    beside = folder / address
    return str(beside) if not Path(address).is_dir() and beside.is_dir() else address


def _load_base(folder: Path, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    address = _base_of(folder, settings)
    try:
        return load_whole(find(address), dtype, device, revision=settings.get("revision"), packed=True)
    except CurateError as error:
        put = f"Put the model there, or its folder into base_model_name_or_path of {folder / CONFIG}."
        raise CurateError(
            f"The adapters in {folder} are for the model {address}, which does not load: {error.message}",
            hint=put if isinstance(error, SettingsError | NotHere) else error.hint,
        ) from error


def _resize(base: PreTrainedModel, folder: Path) -> None:
    """Give the base model as many tokens as the adapters' own embedding or head has, where they bring one."""
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    names = [n for n, m in base.named_modules() if m in ends]
    rows = {_rows(key, shape) for key, shape in _shapes(folder).items() if any(f".{n}." in key for n in names)} - {None}
    if len(rows) > 1:
        raise CurateError(
            f"The adapters in {folder} hold an embedding and a head for {' and '.join(map(str, sorted(rows)))} tokens.",  # type: ignore[type-var]
            hint="Both need the same number; train or save them again.",
        )
    if rows and rows != {base.get_input_embeddings().weight.shape[0]}:  # type: ignore[union-attr]
        base.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _rows(key: str, shape: tuple[int, ...]) -> int | None:
    """Return the number of tokens of an embedding's or head's saved tensor; None where it has no such side."""
    if "lora_embedding_A" in key:
        return shape[1]
    if "trainable_tokens_" in key:  # a row for each of some tokens
        return None
    return shape[0] if key.endswith("lora_B.weight") or ("lora_" not in key and len(shape) == 2) else None


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    if (file := folder / "adapter_model.safetensors").exists():
        with explained(str(folder)), safe_open(file, "pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    if (file := folder / "adapter_model.bin").exists():
        with explained(str(folder)):
            return {k: tuple(t.shape) for k, t in torch.load(file, map_location="meta", weights_only=True).items()}
    raise CurateError(f"{folder} holds no adapters' weights; expected adapter_model.safetensors.")


def _merge_head(model: PreTrainedModel) -> None:
    """Add the adapters of the head to its weight: the loss is taken from the head's weight itself."""
    head: Any = model.get_output_embeddings()
    if hasattr(head, "base_layer") and hasattr(head, "merge"):
        weight = head.base_layer.weight
        head.base_layer.weight = nn.Parameter(
            weight.detach().clone(), requires_grad=False
        )  # the embedding may share it
        head.merge()


def _product(lora_A: nn.Linear, lora_B: nn.Linear, adapter_name: str | None = None) -> Tensor:
    return lora_B.weight.detach() @ lora_A.weight.detach()
