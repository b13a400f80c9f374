"""The matrices that have a row per token of the vocabulary: a model's input embedding and its head, or both in one."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from curate.errors import CurateError, SettingsError
from curate.proxies.proxy import Proxy


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of these matrices; tied weights are one matrix that embeds and is the head."""

    name: str
    """Of the parameter."""
    bias: str | None
    """The head's bias, by the parameter's name: a last column of the table's gradient."""
    embeds: bool
    heads: bool
    shape: tuple[int, int]
    """Of its gradient: rows of the vocabulary, width (and one more for a bias)."""
    scale: float = 1.0
    """What the model's embedding multiplies its rows by."""


def tables_of(proxy: Proxy) -> dict[str, Table]:
    """Return a proxy's tables by name. Raises CurateError for an embedding that does more than look up its rows."""
    model = proxy.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(p): n for n, p in model.named_parameters()}
    if id(getattr(embedding, "weight", None)) not in names or id(getattr(head, "weight", None)) not in names:
        raise CurateError(
            f"{type(model).__name__} has no plain weights at its input embedding and head.",
            hint="Leave out --all-parameters.",
        )
    embedded, headed = (names[id(m.weight)] for m in (embedding, head))  # type: ignore[union-attr]
    bias = getattr(head, "bias", None)
    tables = {}
    for name, module in {embedded: embedding, headed: head}.items():
        rows, width = module.weight.shape  # type: ignore[union-attr]
        biased = name == headed and bias is not None
        tables[name] = Table(
            name=name,
            bias=names[id(bias)] if biased else None,
            embeds=name == embedded,
            heads=name == headed,
            shape=(rows, width + biased),
            scale=_scale(embedding) if name == embedded else 1.0,
        )
    return tables


def counted_tables(proxy: Proxy) -> list[Table]:
    """Return the tables of a proxy whose gradients count."""
    return [table for name, table in tables_of(proxy).items() if name in proxy.tables] if proxy.tables else []


def with_tables(proxy: Proxy) -> Proxy:
    """Return the proxy with the gradients of its tables counted, too.

    Raises SettingsError for one that was trained by adapters alone.
    """
    if any("lora_" in name for name in proxy.tracked):
        raise SettingsError(
            "all_parameters is set, but of this proxy only adapters are trained.", hint="Leave out --all-parameters."
        )
    tables = tables_of(proxy)
    entries = sum(rows * width for rows, width in (t.shape for t in tables.values()))
    coverage = replace(proxy.coverage, tracked=proxy.coverage.tracked + entries)
    return replace(proxy, tables=tuple(tables), coverage=coverage)


@torch.no_grad()
def _scale(embedding: nn.Module) -> float:
    """Return what an embedding multiplies its rows by."""
    scale = float(getattr(embedding, "embed_scale", 1.0))
    weight = embedding.weight
    ids = torch.arange(min(8, len(weight)), device=weight.device)  # type: ignore[arg-type, union-attr]
    if not torch.allclose(embedding(ids), weight[ids] * scale, rtol=1e-2, equal_nan=True):  # type: ignore[index]
        raise CurateError(
            f"{type(embedding).__name__} does more than look up rows of its weight.",
            hint="Leave out --all-parameters.",
        )
    return scale
