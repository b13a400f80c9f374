"""How a run's documents are embedded for a map: the mean of their tokens' input embeddings in the proxy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curate.errors import SettingsError
from curate.pipeline.token_view import whole_encoder
from curate.schema import Document
from curate.scores.run import Run
from curate.selection.places import Embed


def mean_embedding(run: Run) -> Embed:
    """Return what embeds a run's documents by its proxy's embeddings, and loads it when it is first called.

    Raises SettingsError where the run has no proxy. What it returns raises CurateError where that does not load.
    """
    recorded = run.located_settings
    if not recorded.get("model"):
        raise SettingsError(f"{run.address} has no proxy, whose embeddings a map is made of.", hint="Leave --map out.")
    loaded: list[Embed] = []

    def embed(documents: Sequence[Document]) -> np.ndarray:
        if not loaded:
            loaded.append(_loaded(recorded))
        return loaded[0](documents)

    return embed


def _loaded(recorded: Mapping[str, Any]) -> Embed:
    from curate.proxies.proxy import load_proxy
    from curate.proxies.settings import ProxySettings

    model, revision, template = (recorded.get(n) for n in ("model", "revision", "chat_template"))
    settings = ProxySettings(model=str(model), revision=revision, chat_template=template, device="cpu")
    proxy = load_proxy(settings)
    weight = proxy.model.get_input_embeddings().weight.float().numpy()  # type: ignore[union-attr]
    encode = whole_encoder(proxy.tokenizer, proxy.vocabulary)

    def embed(documents: Sequence[Document]) -> np.ndarray:
        means = np.full((len(documents), weight.shape[1]), np.nan, np.float32)
        for i, encoded in enumerate(encode(documents)):
            if len(encoded.ids):
                counts = np.bincount(encoded.ids)
                known = np.flatnonzero(counts)
                means[i] = counts[known] @ weight[known] / len(encoded.ids)
        return means

    return embed
