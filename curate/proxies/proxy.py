"""Load a proxy, freeze it, and name the layers whose gradients are tracked."""

import ctypes
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from curate.errors import SettingsError
from curate.proxies.adapters import is_adapter, load_adapters, tokenizers_source
from curate.proxies.attention import use_block_attention
from curate.proxies.devices import choose_device, refuse_wider
from curate.proxies.experts import ExpertLinear, expose_experts
from curate.proxies.loading import find, load_tokenizer, load_whole, quietly
from curate.proxies.probes import decoder_of, linear_layers, observe, refuse_damaged, refuse_short_embedding
from curate.proxies.quantisation import size
from curate.proxies.settings import ProxySettings
from curate.proxies.templates import choose_template
from curate.threads import choose as choose_threads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Layers that were trained beside a frozen model, by the names that peft gives them.
_ADAPTERS = ("*.lora_*", "*.modules_to_save.*")


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
    """Every Linear and Conv1D of the decoder, and each of its fused experts' and routers' layers."""
    tracked: tuple[str, ...]
    """Names of those whose gradients count, in the model's order."""
    coverage: Coverage
    settings: ProxySettings
    tables: tuple[str, ...] = ()
    """Parameters with a row per token whose gradients count, too; see proxies/tables.py."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """The longest sequence that the model has positions for; None if it does not say."""
        return context_of(self.model)

    @property
    def vocabulary(self) -> int:
        """Tokens that the model has embeddings for; its tokenizer may know more."""
        return vocabulary_of(self.model)

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
    when the model does not load, when it cannot be scored, or when no layer can be tracked.
    """
    model, tokenizer = _load(settings, weights)
    refuse_damaged(model, settings)
    with quietly():
        proxy = make_proxy(model, tokenizer, settings)
    refuse_short_embedding(proxy.vocabulary, tokenizer, settings.model)
    choose_threads(proxy.coverage.total)
    return proxy


def load_proxys_tokenizer(settings: ProxySettings, *, setting: str = "model") -> PreTrainedTokenizerBase:
    """Load a proxy's tokenizer with its chat template, and not its model. Raises CurateError; see `find`."""
    source = find(settings.model, setting=setting)
    folder = Path(source)
    with quietly():
        address = tokenizers_source(folder) if is_adapter(folder) else (source, settings.revision)
        tokenizer = load_tokenizer(*address, alone=True)
    if settings.chat_template:
        choose_template(tokenizer, settings.chat_template)
    return tokenizer


def make_proxy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ProxySettings) -> Proxy:
    """Freeze a model that is in memory already and name its layers. Raises CurateError for one that is not causal."""
    model.eval().requires_grad_(False)
    use_block_attention(model)
    expose_experts(model)
    decoder = decoder_of(model)
    linears, others = linear_layers(decoder)
    observed = observe(model, linears, vocabulary_of(model), context_of(model))
    learnt = tuple(glob for glob in _ADAPTERS if any(fnmatchcase(n, glob) for n in linears))
    globs = settings.modules or learnt or ("*",)
    chosen = _choose(list(linears), globs, others)
    tracked = tuple(n for n in chosen if n in observed.whole_sequences)
    if not tracked:
        raise SettingsError(
            f"No layer that matches {' '.join(globs)} sees whole sequences: {', '.join(_patterns(chosen))}.",
            hint="Experts that are modules of their own have no gradient per document; choose others with --modules.",
        )
    coverage = _coverage(model, decoder, linears, tracked, set(linears) - set(chosen), observed.ran)
    return Proxy(
        model=model,
        tokenizer=tokenizer,
        decoder=decoder,
        linears=linears,
        tracked=tracked,
        coverage=coverage,
        settings=settings,
    )


def vocabulary_of(model: PreTrainedModel) -> int:
    """Return the number of tokens that a model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]


def context_of(model: PreTrainedModel) -> int | None:
    """Return the longest sequence that a model has positions for; None if it does not say."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def _choose(names: Sequence[str], globs: Sequence[str], others: Mapping[str, str]) -> list[str]:
    """Return the names that match a glob. `others` are layers of classes that are called linear and do more."""
    for glob in globs:
        if not any(fnmatchcase(n, glob) for n in names):
            layers = ", ".join(_patterns(names)) or "none"
            if strange := sorted({c for n, c in others.items() if fnmatchcase(n, glob)}):
                raise SettingsError(
                    f"The layers that match {glob} are of the class {' and '.join(strange)}, which computes more than"
                    " x Wᵀ + b.",
                    hint=f"Layers of this model that are tracked: {layers}.",
                )
            raise SettingsError(f"No layer matches --modules {glob}.", hint=f"Layers of this model: {layers}.")
    return [n for n in names if any(fnmatchcase(n, g) for g in globs)]


def _patterns(names: Sequence[str]) -> list[str]:
    """Return the distinct names with numbers as *: globs that match them."""
    return list(dict.fromkeys(re.sub(r"\d+", "*", n) for n in names))


def weight_of(layer: nn.Module) -> Float[torch.Tensor, "d_out d_in"]:
    """Return the weight of a linear layer as `[d_out, d_in]`."""
    return matrix_of(layer, parameters_of(layer)[0])


def matrix_of(layer: nn.Module, stored: torch.Tensor) -> Float[torch.Tensor, "d_out d_in"]:
    """Return a layer's part, as `[d_out, d_in]`, of a tensor that is laid out as the parameter of its weight.

    Conv1D stores it transposed, fused experts beside all others'.
    """
    if isinstance(layer, ExpertLinear):
        return layer.matrix(stored)
    return stored.T if isinstance(layer, Conv1D) else stored


def vector_of(layer: nn.Module, stored: torch.Tensor) -> Float[torch.Tensor, "d_out"]:
    """Return a layer's part of a tensor that is laid out as the parameter of its bias."""
    return stored[layer.expert] if isinstance(layer, ExpertLinear) else stored


def parameters_of(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Return the parameters that hold a linear layer's weight and bias."""
    if isinstance(layer, ExpertLinear):
        return layer.fused, layer.fused_bias
    return layer.weight, getattr(layer, "bias", None)  # type: ignore[return-value]


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
    source, device, dtype = find(settings.model), choose_device(settings.device), DTYPES[settings.dtype]
    refuse_wider(device, dtype=settings.dtype)
    with quietly():
        folder = Path(source)
        if is_adapter(folder):
            model = load_adapters(weights or folder, dtype, device)
        else:
            model = load_whole(source, dtype, device, weights=weights, revision=settings.revision)
    return model, load_proxys_tokenizer(settings)


def _configuration(model: PreTrainedModel) -> str:
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("transformers_version", "dtype")}
    scales = {n: m.scaling for n, m in model.named_modules() if isinstance(getattr(m, "scaling", None), dict)}
    return json.dumps([{k: v for k, v in config.items() if not k.startswith("_")}, scales], sort_keys=True, default=str)


def _coverage(
    model: nn.Module,
    decoder: nn.Module,
    linears: dict[str, nn.Module],
    tracked: Sequence[str],
    left_out: set[str],
    ran: frozenset[str],
) -> Coverage:
    # A wrapper's parts for images and sound meet no text.
    unused = {n for n, _ in decoder.named_children() if not any(r == n or r.startswith(f"{n}.") for r in ran)}
    embeddings = {id(p) for m in decoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    covered = {key[0] for n in (*tracked, *left_out) for key in _sizes(linears[n])} | embeddings
    uncovered: dict[str, int] = {}
    for name, parameter in decoder.named_parameters():
        magnitude = "lora_magnitude_vector" in name
        if name.partition(".")[0] in unused:
            continue
        quantised = not parameter.is_floating_point()
        if (parameter.ndim >= 2 or magnitude) and id(parameter) not in covered and not quantised:
            pattern = re.sub(r"\d+", "*", name)
            uncovered[pattern] = uncovered.get(pattern, 0) + parameter.numel()
    counted = {key: entries for n in tracked for key, entries in _sizes(linears[n]).items()}
    total = {id(p): size(p) for p in model.parameters()}
    return Coverage(tracked=sum(counted.values()), total=sum(total.values()), uncovered=uncovered)


def _sizes(layer: nn.Module) -> dict[tuple[int, int], int]:
    """Return a layer's number of entries by parameter and, where the parameter is fused experts', expert."""
    if isinstance(layer, ExpertLinear):
        return {(id(p), layer.expert): p[0].numel() for p in parameters_of(layer) if p is not None}
    return {(id(p), 0): p.numel() for p in (*layer.parameters(), *parameters_of(layer)) if p is not None}
