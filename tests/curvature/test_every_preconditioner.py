import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from curate.curvature import diagonal, ekfac, kfac, shampoo
from curate.curvature.contract import Preconditioner
from curate.errors import SettingsError
from curate.gradients.directions import Directions
from curate.gradients.passes import Passes
from curate.proxies.proxy import Proxy, make_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoded
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy, tiny_tokenizer

Fit = Callable[..., dict[str, Tensor]]
KINDS: dict[str, tuple[Fit, Callable[..., Preconditioner]]] = {
    "diagonal": (diagonal.fit, diagonal.Diagonal.of),
    "ekfac": (ekfac.fit, ekfac.Ekfac.of),
    "kfac": (kfac.fit, kfac.Kfac.of),
    "shampoo": (shampoo.fit, shampoo.Shampoo.of),
}
LENGTHS = [12, 3, 9, 2, 24, 12, 17]

every = pytest.mark.parametrize("kind", KINDS)
# For what takes several fits: kfac and shampoo are fitted in the passes of ekfac.
dear = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("kfac", "shampoo") else ()) for kind in KINDS]
)


def directions(proxy: Proxy, count: int = 2, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: proxy.shape(name) for name in proxy.tracked}
    return {
        name: torch.randn(count, d_out, d_in + biased, generator=generator, dtype=torch.float64)
        for name, (d_out, d_in, biased) in shapes.items()
    }


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=rtol * tensor.abs().max().item())


@dear
def test_a_fit_does_not_depend_on_batches_or_padding(kind: str) -> None:
    fit, of = KINDS[kind]
    # Tokens enough for every basis to be determined: eigenvectors of a repeated eigenvalue are anyone's choice.
    proxy, documents = tiny_proxy(tiny_model("GPT2Config")), random_documents([*LENGTHS, 20, 8, 22, 24])
    alone = of(fit(Passes(proxy, documents, batching(budget=1)))).solve(directions(proxy))
    for budget in (40, 1000):
        assert_same(of(fit(Passes(proxy, documents, batching(budget=budget)))).solve(directions(proxy)), alone)


@dear
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_samples(kind: str, tmp_path: Path) -> None:
    fit, _ = KINDS[kind]
    proxy, documents = tiny_proxy(), random_documents(LENGTHS)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_file(fit(Passes(proxy, documents, batching(), seed=seed)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@every
def test_the_empirical_fisher_does_not_depend_on_the_seed(kind: str) -> None:
    fit, _ = KINDS[kind]
    proxy, documents = tiny_proxy(), random_documents(LENGTHS)
    one, other = (fit(Passes(proxy, documents, batching(), fisher="empirical", seed=seed)) for seed in (1, 2))
    assert all(one[name].equal(other[name]) for name in one)


@every
def test_huge_damping_leaves_the_direction_as_it_is(kind: str) -> None:
    fit, of = KINDS[kind]
    proxy, u = tiny_proxy(), directions(tiny_proxy())
    found = of(fit(Passes(proxy, random_documents(LENGTHS), batching())), damping=1e9)
    scaled = {name: solved * found.dampings[name] for name, solved in found.solve(u).items()}
    assert_same(scaled, u)


@every
def test_solving_is_linear_symmetric_and_positive(kind: str) -> None:
    fit, of = KINDS[kind]
    proxy, u = tiny_proxy(tiny_model("Qwen2Config")), directions(tiny_proxy(tiny_model("Qwen2Config")))
    found = of(fit(Passes(proxy, random_documents(LENGTHS), batching())))
    solved = found.solve(u)
    for name, v in solved.items():
        products = u[name].flatten(1) @ v.flatten(1).T
        assert products[0, 1].item() == pytest.approx(products[1, 0].item(), rel=1e-6, abs=1e-9)
        assert (products.diagonal() > 0).all()
    assert_same(found.solve({n: x / 2 for n, x in u.items()}), {n: x / 2 for n, x in solved.items()})


@every
def test_a_layer_without_any_gradient_gives_no_direction_and_no_nan(kind: str) -> None:
    fit, of = KINDS[kind]
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()  # no gradient reaches the layers before it
    proxy = tiny_proxy(model)
    found = of(fit(Passes(proxy, random_documents(LENGTHS), batching())))
    solved = found.solve(directions(proxy))
    assert found.dampings["layers.1.mlp.up_proj"] == 0
    assert solved["layers.1.mlp.up_proj"].eq(0).all()
    assert all(x.isfinite().all() for x in solved.values())


@every
def test_one_document_that_is_not_finite_changes_nothing(kind: str) -> None:
    fit, of = KINDS[kind]
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[66] = math.nan
    proxy = tiny_proxy(model)
    documents = random_documents(LENGTHS, vocabulary=66)
    spoilt = random_documents(LENGTHS, vocabulary=66)
    spoilt[4].ids[3] = 66
    rest = [*documents[:4], no_loss(documents[4]), *documents[5:]]
    found, expected = (of(fit(Passes(proxy, d, batching()))).solve(directions(proxy)) for d in (spoilt, rest))
    assert_same(found, expected)


def no_loss(tokens: Encoded) -> Encoded:
    return Encoded(ids=tokens.ids, scored=tokens.scored & False, truncated=False)


@every
def test_tensors_survive_a_file_and_a_reading_in_any_order(kind: str, tmp_path: Path) -> None:
    fit, of = KINDS[kind]
    proxy = tiny_proxy(tiny_model("OPTConfig"))
    tensors = fit(Passes(proxy, random_documents(LENGTHS), batching()))
    save_file(tensors, tmp_path / "kept")
    kept = dict(reversed(load_file(tmp_path / "kept").items()))
    u = directions(proxy)
    assert all(of(kept).solve(u)[name].equal(x) for name, x in of(tensors).solve(u).items())


@cache
def exact_of(kind: str) -> Preconditioner:
    fit, of = KINDS[kind]
    return of(fit(Passes(tiny_proxy(), random_documents(LENGTHS), batching(), fisher="empirical")))


@dear
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_narrow_proxies_give_float32_tensors_near_the_exact_ones(kind: str, dtype: str) -> None:
    fit, of = KINDS[kind]
    settings = ProxySettings(model="tiny", dtype=dtype, device="cpu")
    model: Any = tiny_model().to(getattr(torch, dtype))
    narrow = make_proxy(model, tiny_tokenizer(), settings)
    tensors = fit(Passes(narrow, random_documents(LENGTHS), batching(), fisher="empirical"))
    assert {t.dtype for t in tensors.values()} - {torch.int64} == {torch.float32}
    exact = exact_of(kind).solve(directions(narrow))
    u = {name: x.float() for name, x in directions(narrow).items()}
    for name, solved in of(tensors).solve(u).items():
        cosine = torch.cosine_similarity(solved.double().flatten(), exact[name].flatten(), 0)
        assert cosine > (0.9999 if dtype == "float32" else 0.97)


@cache
def fitted_to_one_document(kind: str) -> dict[str, Tensor]:
    return KINDS[kind][0](Passes(tiny_proxy(), random_documents([5]), batching()))


@every
@pytest.mark.parametrize("damping", [-0.1, math.inf, math.nan])
def test_a_damping_that_cannot_be_is_named(kind: str, damping: float) -> None:
    with pytest.raises(SettingsError, match="damping is"):
        KINDS[kind][1](fitted_to_one_document(kind), damping=damping)
