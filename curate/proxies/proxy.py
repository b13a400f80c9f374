"""Load a proxy, freeze it, and name the layers whose gradients are tracked."""

import ctypes
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from curate.errors import CurateError, SettingsError
from curate.proxies.attention import use_block_attention
from curate.proxies.devices import choose_device
from curate.proxies.settings import ProxySettings
from curate.proxies.suggestions import near_model
from curate.proxies.templates import choose_template
from curate.threads import choose as choose_threads

# One of several experts by number, where each is a module of its own.
_ROUTED = re.compile(r"experts?\.\d+(\.|$)")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The share of a model that is tracked."""

    tracked: int
    """Parameters in tracked layers."""
    total: int
    """All parameters."""
    uncovered: dict[str, int] = field(default_factory=dict)
    """Weight matrices of the decoder in no tracked layer (layer numbers as *), with their parameter counts; without
    embeddings and layers that the globs left out."""

    @property
    def share(self) -> float:
        return self.tracked / self.total


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A frozen causal language model, its tokenizer, and its linear layers by name."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    decoder: nn.Module
    """Everything from token ids to the last hidden state."""
    linears: dict[str, nn.Module]
    """Every Linear and Conv1D of the decoder."""
    tracked: tuple[str, ...]
    """Names of those whose gradients count, in the model's order."""
    coverage: Coverage
    settings: ProxySettings

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """The longest sequence that the model has positions for; None if it does not say."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    def shape(self, name: str) -> tuple[int, int, bool]:
        """Return (d_out, d_in, has a bias) of a linear layer."""
        layer = self.linears[name]
        d_out, d_in = weight_of(layer).shape
        return d_out, d_in, getattr(layer, "bias", None) is not None

    def fingerprint(self) -> str:
        """Return a hash of configuration, parameters, adapters' scales and tokenizer: everything behind the scores.

        The model's address and the version of transformers that wrote it are no part of it.
        """
        digest = xxhash.xxh3_128(_configuration(self.model).encode())
        for name, parameter in self.model.state_dict().items():
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        words = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        digest.update(words.encode())
        digest.update(str(self.tokenizer.chat_template).encode())
        return digest.hexdigest()


def load_proxy(settings: ProxySettings, *, weights: Path | None = None) -> Proxy:
    """Load a proxy from a folder or the hub, frozen and in evaluation mode, and choose torch's number of threads.

    `weights` is the folder of another state of the same model, which has no tokenizer of its own. Raises CurateError
    when the model does not load, or when no layer can be tracked.
    """
    device = choose_device(settings.device)
    model, tokenizer = _load(settings, weights)
    proxy = make_proxy(model.to(device), tokenizer, settings)  # type: ignore[arg-type]
    choose_threads(proxy.coverage.total)
    return proxy


def make_proxy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ProxySettings) -> Proxy:
    """Freeze a model that is in memory already and name its layers."""
    model.eval().requires_grad_(False)
    use_block_attention(model)
    decoder: nn.Module = model.base_model
    linears = {n: m for n, m in decoder.named_modules() if type(m) in (nn.Linear, Conv1D)}
    whole_sequences = _see_sequences(decoder, linears, model.device)
    adapters = any(".lora_" in n for n in linears)
    globs = settings.modules or (("*.lora_*",) if adapters else ("*",))
    chosen = _choose(list(linears), globs)
    tracked = tuple(n for n in chosen if n in whole_sequences)
    if not tracked:
        raise SettingsError(
            f"No layer that matches {' '.join(globs)} sees whole sequences: {', '.join(_patterns(chosen))}.",
            hint="Routed experts have no gradient per document here; choose other layers with --modules.",
        )
    coverage = _coverage(model, decoder, linears, tracked, left_out=set(linears) - set(chosen))
    return Proxy(
        model=model,
        tokenizer=tokenizer,
        decoder=decoder,
        linears=linears,
        tracked=tracked,
        coverage=coverage,
        settings=settings,
    )


def _choose(names: Sequence[str], globs: Sequence[str]) -> list[str]:
    for glob in globs:
        if not any(fnmatchcase(n, glob) for n in names):
            layers = ", ".join(_patterns(names)) or "none"
            raise SettingsError(f"No layer matches --modules {glob}.", hint=f"Layers of this model: {layers}.")
    return [n for n in names if any(fnmatchcase(n, g) for g in globs)]


def _patterns(names: Sequence[str]) -> list[str]:
    """Return the distinct names with numbers as *: globs that match them."""
    return list(dict.fromkeys(re.sub(r"\d+", "*", n) for n in names))


def weight_of(layer: nn.Module) -> Float[torch.Tensor, "d_out d_in"]:
    """Return the weight of a Linear or Conv1D as `[d_out, d_in]` (Conv1D stores it transposed)."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.T if isinstance(layer, Conv1D) else weight


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of giving them back to the kernel on every free.

    Activations are freed and allocated all the time; each round through the kernel costs a page fault per 4 KiB, a
    third of a run's time on a CPU. Other C libraries have no such setting and need none. It holds for the whole
    process, so call it where work starts, not where a model is loaded.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def _load(settings: ProxySettings, weights: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    logging.disable_progress_bar()  # it would draw a second bar
    address, options = settings.model, {"revision": settings.revision} if settings.revision else {}
    folder = Path(address).expanduser()
    if not folder.is_dir() and (address.startswith((".", "/", "~")) or address.count("/") > 1):
        raise SettingsError(f"model is {address!r}; there is no such folder.", hint=near_model(address))
    source = str(folder) if folder.is_dir() else address
    dtype = DTYPES[settings.dtype]
    try:
        if folder.is_dir() and (folder / "adapter_config.json").exists():
            model = _load_adapters(weights or folder, dtype)
            source, options = _adapters_tokenizer(folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(weights or source, dtype=dtype, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(settings, folder.is_dir(), error) from error
    if settings.chat_template:
        choose_template(tokenizer, settings.chat_template)
    return model, tokenizer


def _load_adapters(folder: Path, dtype: torch.dtype) -> Any:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=dtype).get_base_model()
    for parameter in model.parameters():  # peft keeps adapters in float32; buffers stay as the model made them
        parameter.data = parameter.data.to(dtype)
    return model


def _adapters_tokenizer(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the tokenizer's address and options: beside the adapters, or else the adapted model's."""
    if any(folder.glob("tokenizer*")):
        return str(folder), {}
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], {"revision": config["revision"]} if config.get("revision") else {}


def _not_loaded(settings: ProxySettings, is_folder: bool, error: Exception) -> CurateError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_folder:
        return CurateError(
            f"{settings.model} does not load as a causal language model: {reason}",
            hint="The folder needs config.json, weights and a tokenizer, as `save_pretrained` writes them.",
        )
    return CurateError(
        f"The model {settings.model} is not on this machine and could not be fetched: {reason}",
        hint=f"{near_model(settings.model) or ''} Give the folder of a model with --model DIR, or make a small "
        "one from the pool with `curate warmup`.".lstrip(),
    )


def _configuration(model: PreTrainedModel) -> str:
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("transformers_version", "dtype")}
    scales = {n: m.scaling for n, m in model.named_modules() if isinstance(getattr(m, "scaling", None), dict)}
    return json.dumps([{k: v for k, v in config.items() if not k.startswith("_")}, scales], sort_keys=True, default=str)


def _see_sequences(decoder: nn.Module, linears: dict[str, nn.Module], device: torch.device) -> set[str]:
    """Return the layers whose inputs are whole sequences, `[sequences, tokens, d_in]` or flattened as in OPT.

    Routed experts see tokens of the router's choice. Two different inputs keep it from choosing all tokens twice.
    """
    sees_sequences: dict[str, bool] = {}
    sequences, tokens = 3, 5
    expected = ((sequences, tokens), (sequences * tokens,))

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
            sees_sequences[name] = sees_sequences.get(name, True) and tuple(inputs[0].shape[:-1]) in expected

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in linears.items() if not _ROUTED.search(n)]
    ids = torch.arange(sequences * tokens, device=device).view(sequences, tokens)
    vocabulary = decoder.get_input_embeddings().num_embeddings  # type: ignore[operator]
    try:
        with torch.no_grad():
            for probe in (ids, ids.flip(0) + 3):
                decoder(input_ids=probe % vocabulary, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {n for n, whole in sees_sequences.items() if whole}


def _coverage(
    model: nn.Module,
    decoder: nn.Module,
    linears: dict[str, nn.Module],
    tracked: Sequence[str],
    left_out: set[str],
) -> Coverage:
    embeddings = {id(p) for m in decoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    covered = {id(p) for n in (*tracked, *left_out) for p in linears[n].parameters()} | embeddings
    uncovered: dict[str, int] = {}
    for name, parameter in decoder.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in covered:
            pattern = re.sub(r"\d+", "*", name)
            uncovered[pattern] = uncovered.get(pattern, 0) + parameter.numel()
    counted = {id(p): p.numel() for n in tracked for p in linears[n].parameters()}
    total = {id(p): p.numel() for p in model.parameters()}
    return Coverage(tracked=sum(counted.values()), total=sum(total.values()), uncovered=uncovered)
