"""Inputs for methods, made of tokens, and what training on a document truly does."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import xxhash

from curate import methods
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.folders.tensors import TENSORS
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import EncodedTarget, Inputs, Scorer
from curate.progress import Silent
from curate.proxies.probes import linear_layers
from curate.proxies.proxy import Proxy, weight_of
from curate.proxies.tokens import Encoded
from curate.training.recipe import Recipe
from tests.small_models import batching, model_loss, whole_gradients


def fingerprint(documents: Sequence[Encoded]) -> str:
    return xxhash.xxh3_64_hexdigest(repr([(e.ids.tolist(), e.scored.tolist()) for e in documents]).encode())


def make_inputs(
    proxy: Proxy,
    run: Path,
    target: Sequence[Encoded],
    background: Sequence[Encoded],
    groups: Sequence[str] | None = None,
    batches: Batching | None = None,
) -> Inputs:
    groups = groups or [""] * len(target)
    return Inputs(
        proxy=proxy,
        proxy_fingerprint=proxy.fingerprint(),
        target=EncodedTarget(encoded=target, groups=groups, names=sorted(set(groups)), fingerprint=fingerprint(target)),
        background=lambda: background,
        background_fingerprint=fingerprint(background),
        batching=batches or batching(),
        kept=Kept(open_folder(run), TENSORS),
        reporter=Silent(),
    )


# What makes a method quick enough for the contract's tests.
QUICK: dict[str, dict[str, Any]] = {"magic": {"recipe": Recipe(steps=4, batch_size=4)}}


def prepare(method: str, inputs: Inputs, **settings: Any) -> Scorer:
    module = methods.get(method)
    return module.prepare(inputs, module.Settings(**(QUICK.get(method, {}) | settings)))


def scores(method: str, inputs: Inputs, pool: Sequence[Encoded], **settings: Any) -> Scored:
    return prepare(method, inputs, **settings)(pool, inputs.batching)


def loss_after_a_step(proxy: Proxy, documents: Sequence[Encoded], target: Sequence[Encoded], rate: float) -> float:
    """The target's mean loss after one small step of gradient descent on the documents' mean gradient."""
    moved = deepcopy(proxy.model)
    gradients = [whole_gradients(proxy, d)[1] for d in documents]
    layers: Any = linear_layers(moved.base_model)[0]
    with torch.no_grad():
        for one in gradients:
            for name, gradient in one.items():
                layer = layers[name]
                width = gradient.shape[1] - (layer.bias is not None)
                weight_of(layer).sub_(gradient[:, :width], alpha=rate / len(documents))
                if layer.bias is not None:
                    layer.bias.sub_(gradient[:, -1], alpha=rate / len(documents))
        return sum(float(model_loss(moved, t)) / t.num_scored for t in target) / len(target)
