from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import MANY, DirectionEngine, Directions
from curate.gradients.materialised import weighted_gradients
from curate.proxies.proxy import Proxy, weight_of
from curate.proxies.tokens import Encoded
from tests.small_models import (
    ARCHITECTURES,
    batching,
    random_documents,
    tiny_model,
    tiny_proxy,
    whole_gradients,
)

pytestmark = pytest.mark.usefixtures("float64_throughout")


def directions(proxy: Proxy, count: int, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in proxy.tracked:
        d_out, d_in, bias = proxy.shape(name)
        found[name] = torch.randn(count, d_out, d_in + bias, generator=generator, dtype=torch.float64)
    return found


def truth(proxy: Proxy, chosen: Directions, documents: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Products and norms, by autograd per document."""
    products, norms = [], []
    for document in documents:
        _, gradients = whole_gradients(proxy, document)
        products.append(torch.stack([(chosen[n] * g).sum((1, 2)) for n, g in gradients.items()]).sum(0))
        norms.append(torch.cat([g.flatten() for g in gradients.values()]).norm())
    return torch.stack(products), torch.stack(norms)


def scorer(proxy: Proxy, chosen: Directions, **settings: object) -> DirectionScorer:
    count = next(iter(chosen.values())).shape[0]
    engine = DirectionEngine(proxy, chosen)
    return DirectionScorer(engines=[engine], columns=torch.eye(count, dtype=torch.float64), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        *(("LlamaConfig", n) for n in (1, MANY, 9)),
        *((name, MANY) for name in ARCHITECTURES if name != "LlamaConfig"),
        *(
            pytest.param(name, n, marks=pytest.mark.slow)
            for name in ARCHITECTURES
            for n in (1, 9)
            if name != "LlamaConfig"
        ),
    ],
)
def test_a_score_is_the_product_of_the_gradient_by_autograd_with_the_direction(architecture: str, count: int) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents, chosen = random_documents([9, 4, 15, 2], seed=1), directions(proxy, count)
    expected, norms = truth(proxy, chosen, documents)
    found = scorer(proxy, chosen)(documents, batching(budget=40))
    torch.testing.assert_close(found.scores, expected, rtol=1e-8, atol=1e-8)
    exact = scorer(proxy, chosen, normalize="unit")(documents, batching(budget=40))
    torch.testing.assert_close(exact.norms, norms.float())
    torch.testing.assert_close(exact.scores, expected / norms[:, None], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "architecture",
    ["LlamaConfig", "GPT2Config", *(pytest.param(a, marks=pytest.mark.slow) for a in ("OPTConfig", "GptOssConfig"))],
)
def test_token_scores_sum_to_the_documents(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents, chosen = random_documents([9, 4, 15, 60], seed=1), directions(proxy, 2)
    whole = batching(budget=40, long="windows")
    for normalize in ("none", "length", "unit"):
        plain = scorer(proxy, chosen, normalize=normalize)(documents, whole)
        found = scorer(proxy, chosen, normalize=normalize, per_token=True)(documents, whole)
        torch.testing.assert_close(found.scores, plain.scores)
        assert found.tokens is not None
        assert [len(t) for t in found.tokens] == [len(d.ids) for d in documents]
        torch.testing.assert_close(torch.stack([t.sum(0) for t in found.tokens]), plain.scores)
        assert plain.tokens is None


def test_many_directions_need_no_more_memory_than_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = tiny_proxy(tiny_model("GPT2Config"))
    documents, chosen = random_documents([9, 4, 15, 2], seed=1), directions(proxy, MANY)
    whole = scorer(proxy, chosen)(documents, batching(budget=80)).scores
    monkeypatch.setattr("curate.gradients.directions.FORMED", 1)  # a sequence at a time
    torch.testing.assert_close(
        scorer(proxy, chosen)(documents, batching(budget=80)).scores, whole, rtol=1e-10, atol=1e-10
    )


def test_windows_without_a_scored_token_have_token_scores_of_zero() -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig"))
    (document,), chosen = random_documents([60], seed=1), directions(proxy, 1)
    scored = np.zeros(60, bool)
    scored[1:10] = True
    document = replace(document, scored=scored)
    found = scorer(proxy, chosen, per_token=True)([document], batching(budget=40, long="windows"))
    assert found.tokens is not None
    assert len(found.tokens[0]) == 60
    assert found.tokens[0][24:].eq(0).all()
    torch.testing.assert_close(found.tokens[0].sum(0), found.scores[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tokens_score_is_the_score_of_its_own_loss(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    (document,), chosen = random_documents([12, 12], seed=3)[1:], directions(proxy, 2)  # with a prompt
    found = scorer(proxy, chosen, per_token=True)([document], batching())
    assert found.tokens is not None
    alone = [replace(document, scored=np.arange(12) == t) for t in np.flatnonzero(document.scored)]
    expected = torch.zeros(12, 2, dtype=torch.float64)
    expected[torch.from_numpy(document.scored)] = scorer(proxy, chosen)(alone, batching()).scores
    torch.testing.assert_close(found.tokens[0], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "GptOssConfig"])
def test_a_tokens_score_is_the_slope_of_its_own_loss_along_the_direction(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    (document,), chosen = random_documents([12, 12], seed=3)[1:], directions(proxy, 1)
    found = scorer(proxy, chosen, per_token=True)([document], batching())
    assert found.tokens is not None
    step = 1e-6
    expected = (label_losses(proxy, document, chosen, step) - label_losses(proxy, document, chosen, -step)) / (2 * step)
    torch.testing.assert_close(found.tokens[0][:, 0], expected, rtol=1e-5, atol=1e-7)


def label_losses(proxy: Proxy, document: Encoded, chosen: Directions, step: float) -> Tensor:
    """Every token's loss after a step along the first direction; 0 where it carries none."""
    with moved_weights(proxy, chosen, step):
        ids = torch.from_numpy(document.ids).long()
        logits = proxy.model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    return torch.cat([losses.new_zeros(1), losses]) * torch.from_numpy(document.scored)


@contextmanager
def moved_weights(proxy: Proxy, chosen: Directions, step: float) -> Iterator[None]:
    state = {n: p.clone() for n, p in proxy.model.state_dict().items()}
    for name in proxy.tracked:
        layer, (_, d_in, has_bias) = proxy.linears[name], proxy.shape(name)
        weight_of(layer).data.add_(chosen[name][0, :, :d_in], alpha=step)
        if has_bias:
            layer.bias.data.add_(chosen[name][0, :, d_in], alpha=step)  # type: ignore[union-attr, operator]
    yield
    proxy.model.load_state_dict(state)


@pytest.mark.parametrize(
    ("normalize", "architecture"),
    [
        *((how, "GPTNeoXConfig") for how in ("none", "length", "unit")),
        *(pytest.param(how, "GptOssConfig", marks=pytest.mark.slow) for how in ("none", "length")),
        ("unit", "GptOssConfig"),
    ],
)
def test_a_score_depends_on_no_batch_padding_or_order(normalize: str, architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents, chosen = random_documents([9, 4, 15, 2, 12, 50], seed=1), directions(proxy, 2)
    expected = scorer(proxy, chosen, normalize=normalize)(documents, batching(budget=1, long="windows"))
    for budget in (30, 2000):
        found = scorer(proxy, chosen, normalize=normalize)(documents[::-1], batching(budget=budget, long="windows"))
        torch.testing.assert_close(found.scores.flip(0), expected.scores, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.norms.flip(0), expected.norms)  # type: ignore[union-attr]


def test_a_long_documents_exact_norm_is_that_of_the_sum_over_its_windows() -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig"))
    long, chosen = random_documents([60], seed=4), directions(proxy, 1)
    settings = batching(budget=40, long="windows")
    gradients = weighted_gradients(proxy, long, torch.ones(1, 1, dtype=torch.float64), settings)
    expected = torch.cat([g.flatten() for g in gradients.values()]).norm()
    found = scorer(proxy, chosen, normalize="unit")(long, settings)
    torch.testing.assert_close(found.norms, expected[None].float())


def test_norms_are_estimated_within_a_few_per_cent() -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig", hidden_size=64, intermediate_size=96))
    documents, chosen = random_documents([20] * 12, seed=1), directions(proxy, 1)
    found = scorer(proxy, chosen)(documents, batching()).norms
    exact = scorer(proxy, chosen, normalize="unit")(documents, batching()).norms
    assert found is not None
    assert exact is not None
    ratio = found / exact
    assert 0.8 < ratio.min() < ratio.max() < 1.25
    assert abs(float(ratio.square().mean()) - 1) < 0.15


def test_checkpoints_add_up_and_columns_mix_directions() -> None:
    proxies = [tiny_proxy(tiny_model(seed=s)) for s in (0, 1)]
    documents = random_documents([9, 4, 15], seed=1)
    chosen = [directions(p, 2, seed=i) for i, p in enumerate(proxies)]
    engines = [DirectionEngine(p, d) for p, d in zip(proxies, chosen, strict=True)]
    columns = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = DirectionScorer(engines=engines, columns=columns, per_token=True)(documents, batching())
    expected = sum(truth(p, d, documents)[0] for p, d in zip(proxies, chosen, strict=True)) @ columns.T
    torch.testing.assert_close(found.scores, expected, rtol=1e-8, atol=1e-8)
    assert found.tokens is not None
    torch.testing.assert_close(torch.stack([t.sum(0) for t in found.tokens]), expected)
    norms = DirectionScorer(engines=engines, columns=columns)(documents, batching()).norms
    assert norms is not None
    torch.testing.assert_close(
        norms, DirectionScorer(engines=engines[1:], columns=columns)(documents, batching()).norms
    )


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "Qwen2Config"])
def test_weighted_gradients_are_those_of_autograd(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents = random_documents([9, 4, 15], seed=1)
    weights = torch.tensor([[0.5, 0.0], [-2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    found = weighted_gradients(proxy, documents, weights, batching(budget=20))
    gradients = [whole_gradients(proxy, d)[1] for d in documents]
    for name in proxy.tracked:
        expected = torch.stack([sum(w[q] * g[name] for w, g in zip(weights, gradients, strict=True)) for q in (0, 1)])
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-10)


def test_a_model_that_writes_over_its_inputs_is_found_out() -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig"))
    engine = DirectionEngine(proxy, directions(proxy, 1))
    name = proxy.tracked[0]
    layer = proxy.linears[name]
    parent = proxy.decoder.get_submodule(name.rpartition(".")[0])

    class Spoiling(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = layer(x)
            x.detach().mul_(2)
            return y

    setattr(parent, name.rpartition(".")[2], Spoiling())
    from curate.proxies.tokens import batches

    batch = next(batches(random_documents([9], seed=1), batching().tokens, budget=lambda: 100))
    with pytest.raises(AssertionError, match="writes over a layer's inputs"):
        engine(batch)


def test_a_layer_that_is_used_twice_adds_both_uses_up_and_has_no_exact_norm() -> None:
    model = tiny_model()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    proxy = tiny_proxy(model)
    documents = random_documents([9, 12])
    chosen = directions(proxy, 1)
    expected, _ = truth(proxy, chosen, documents)
    scored = scorer(proxy, chosen)(documents, batching())
    torch.testing.assert_close(scored.scores, expected.to(scored.scores), rtol=1e-9, atol=1e-9)
    with pytest.raises(CurateError, match="uses a layer twice in a pass"):
        scorer(proxy, chosen, normalize="unit")(documents, batching())
