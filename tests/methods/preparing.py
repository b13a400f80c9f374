"""Inputs for methods, made of tokens, and what training on a document truly does."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
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
from curate.proxies.proxy import Proxy, make_proxy, weight_of
from curate.proxies.tokens import Encoded
from curate.training.recipe import Recipe
from curate.training.states import Checkpoint
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
        checkpoints=[InMemory.of(proxy, step=1, moved=0.05), InMemory.of(proxy, step=2, moved=0.0)],
    )


@dataclass(frozen=True, kw_only=True)
class InMemory(Checkpoint):
    """A state of a proxy's training that is in memory already."""

    loaded: Callable[[], Proxy]

    @classmethod
    def of(cls, proxy: Proxy, *, step: int, moved: float) -> "InMemory":
        """A state whose every weight lies a random step away from the proxy's."""

        def load() -> Proxy:
            model = deepcopy(proxy.model)
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += moved * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            return replace(make_proxy(model, proxy.tokenizer, proxy.settings), tracked=proxy.tracked)

        folder = Path(f"step-{step}")
        return cls(folder=folder, settings=proxy.settings, step=step, mean_learning_rate=1e-3 / step, loaded=load)

    def proxy(self) -> Proxy:
        return self.loaded()

    def fingerprint(self) -> str:
        return f"{self.step}"


# What makes a method quick enough for the contract's tests.
QUICK: dict[str, dict[str, Any]] = {
    "magic": {"recipe": Recipe(steps=4, batch_size=4)},
    "less": {"correction": "none", "dim": 512},  # no moments are at hand; tests/methods/test_less.py has them
}


def prepare(method: str, inputs: Inputs, **settings: Any) -> Scorer:
    module = methods.get(method)
    return module.prepare(inputs, module.Settings(**(QUICK.get(method, {}) | settings)))


def scores(method: str, inputs: Inputs, pool: Sequence[Encoded], **settings: Any) -> Scored:
    return prepare(method, inputs, **settings)(pool, inputs.batching)


def loss_after_a_step(proxy: Proxy, documents: Sequence[Encoded], target: Sequence[Encoded], rate: float) -> float:
    """The target's mean loss after one small step of gradient descent on the documents' mean gradient."""
    moved = deepcopy(proxy.model)
    parameters = dict(moved.named_parameters())
    gradients = [whole_gradients(proxy, d)[1] for d in documents]
    layers: Any = linear_layers(moved.base_model)[0]
    with torch.no_grad():
        for one in gradients:
            for name, gradient in one.items():
                if name in proxy.tables:
                    parameters[name].sub_(gradient, alpha=rate / len(documents))
                    continue
                layer = layers[name]
                width = gradient.shape[1] - (layer.bias is not None)
                weight_of(layer).sub_(gradient[:, :width], alpha=rate / len(documents))
                if layer.bias is not None:
                    layer.bias.sub_(gradient[:, -1], alpha=rate / len(documents))
        return sum(float(model_loss(moved, t)) / t.num_scored for t in target) / len(target)
