from functools import partial

import pytest
import torch
from torch import Tensor

from curate.gradients.documents import Batching, document_sketches
from curate.gradients.projections import projection
from curate.gradients.sketches import SketchEngine
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.small_models import (
    ARCHITECTURES,
    batching,
    random_documents,
    sketch_of,
    tiny_model,
    tiny_proxy,
    whole_gradients,
)

WHOLE = 10_000


def all_sketches(engine: SketchEngine, documents: list[Encoded], batching: Batching) -> tuple[Tensor, Tensor]:
    """Sketches and losses in the documents' order."""
    values = torch.full((len(documents), engine.width), torch.nan, dtype=torch.float64)
    losses = torch.full((len(documents),), torch.nan, dtype=torch.float64)
    for found in document_sketches(engine, documents, batching):
        values[list(found.documents)] = found.values.double()
        losses[list(found.documents)] = found.losses.double()
    return values, losses


def truth(engine: SketchEngine, documents: list[Encoded], dim: int, seed: int) -> tuple[Tensor, Tensor]:
    found = [whole_gradients(engine.proxy, d) for d in documents]
    rows = [
        sketch_of(g, engine.blocks, lambda name, side, width: projection(name, side, width, dim, seed))
        for _, g in found
    ]
    return torch.stack(rows), torch.tensor([loss for loss, _ in found], dtype=torch.float64)


def assert_equal(found: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    """Compare up to rounding relative to each row's largest entry: entries near 0 are differences of larger ones."""
    scale = expected.abs().amax(-1, keepdim=True) if expected.ndim > 1 else expected.abs()
    assert ((found - expected).abs() <= rtol * scale).all(), ((found - expected).abs() / scale).max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dim", [5, 20, WHOLE], ids=["projected", "some-sides-whole", "whole"])
def test_sketches_are_projections_of_each_documents_own_autograd_gradient(architecture: str, dim: int) -> None:
    engine = SketchEngine(tiny_proxy(tiny_model(architecture)), dim=dim, seed=3)
    documents = random_documents([12, 7, 9, 2, 12])
    values, losses = all_sketches(engine, documents, batching(budget=64))
    expected, expected_losses = truth(engine, documents, dim, 3)
    assert_equal(losses, expected_losses)
    assert_equal(values, expected)


def test_whole_gradients_have_the_norm_and_products_of_the_gradients_themselves() -> None:
    engine = SketchEngine(tiny_proxy(), dim=WHOLE, seed=0)
    sides = [engine.proxy.shape(n) for n in engine.proxy.tracked]
    assert engine.width == sum(d_out * (d_in + bias) for d_out, d_in, bias in sides)


@pytest.fixture
def adapters() -> Proxy:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return tiny_proxy(get_peft_model(tiny_model(), config).double().eval().get_base_model())


# peft asks transformers for a property by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("dim", [2, WHOLE])
def test_sketches_of_lora_adapters_are_projections_of_the_adapters_gradients(adapters: Proxy, dim: int) -> None:
    assert len(adapters.tracked) == 8
    assert all(".lora_A." in n or ".lora_B." in n for n in adapters.tracked)
    engine = SketchEngine(adapters, dim=dim, seed=0)
    documents = random_documents([12, 7, 9])
    values, losses = all_sketches(engine, documents, batching())
    expected, expected_losses = truth(engine, documents, dim, 0)
    assert_equal(losses, expected_losses)
    assert_equal(values, expected)


def test_chosen_layers_have_the_same_sketches_as_among_all_layers() -> None:
    model, documents = tiny_model("GPT2Config"), random_documents([9, 5])
    all_layers = SketchEngine(tiny_proxy(model), dim=4, seed=0)
    some = SketchEngine(tiny_proxy(model, None, "h.1.mlp.*"), dim=4, seed=0)
    whole, _ = all_sketches(all_layers, documents, batching())
    part, _ = all_sketches(some, documents, batching())
    columns = [c for b in all_layers.blocks if b.name.startswith("h.1.mlp.") for c in range(b.start, b.stop)]
    assert_equal(part, whole[:, columns])


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "Gemma2Config", "OPTConfig"])
def test_a_documents_sketch_depends_on_no_other_document(architecture: str) -> None:
    engine = SketchEngine(tiny_proxy(tiny_model(architecture)), dim=4, seed=0)
    documents = random_documents([12, 3, 9, 2, 24, 12, 17])
    alone, alone_losses = all_sketches(engine, documents, batching(budget=1))
    for budget in (24, 70, 1000):
        together, losses = all_sketches(engine, documents, batching(budget=budget))
        assert_equal(together, alone)
        assert_equal(losses, alone_losses)
    turned, _ = all_sketches(engine, documents[::-1], batching(budget=70))
    assert_equal(turned.flip(0), alone)


def test_a_long_documents_sketch_is_the_sum_of_its_windows() -> None:
    engine = SketchEngine(tiny_proxy(), dim=4, seed=0)
    long, short = random_documents([21, 6])
    values, losses = all_sketches(engine, [long, short], batching(context=6, long="windows", budget=13))
    ids, scored = long.ids, long.scored
    windows = []
    for start in range(0, 20, 5):
        piece = scored[start : start + 6].copy()
        piece[0] = False
        windows.append(Encoded(ids=ids[start : start + 6], scored=piece, truncated=False))
    parts, part_losses = all_sketches(engine, [*windows, short], batching(budget=1))
    assert_equal(values[0], parts[:-1].sum(0))
    assert_equal(values[1], parts[-1])
    assert_equal(losses[0], part_losses[:-1].sum())


def test_documents_without_a_scored_token_have_no_gradient_and_no_loss() -> None:
    engine = SketchEngine(tiny_proxy(), dim=4, seed=0)
    nothing = [Encoded(ids=d.ids, scored=d.scored & False, truncated=False) for d in random_documents([4, 1])]
    values, losses = all_sketches(engine, [*nothing, *random_documents([0])], batching())
    assert values.eq(0).all()
    assert losses.eq(0).all()


def test_no_weight_ever_holds_a_gradient() -> None:
    proxy = tiny_proxy()
    before = proxy.fingerprint()
    all_sketches(SketchEngine(proxy, dim=4, seed=0), random_documents([9, 5]), batching())
    assert all(p.grad is None and not p.requires_grad for p in proxy.model.parameters())
    assert proxy.fingerprint() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_arithmetic_gives_nearly_the_same_sketches(dtype: torch.dtype) -> None:
    from curate.proxies.proxy import make_proxy

    documents = random_documents([20, 9, 5, 24])
    exact, exact_losses = all_sketches(SketchEngine(tiny_proxy(), dim=8, seed=0), documents, batching())
    reference = tiny_proxy()
    narrow = make_proxy(tiny_model().to(dtype), reference.tokenizer, reference.settings)
    values, losses = all_sketches(SketchEngine(narrow, dim=8, seed=0), documents, batching())
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert (torch.nn.functional.cosine_similarity(values, exact) > 1 - tolerance).all()
    torch.testing.assert_close(losses, exact_losses, rtol=tolerance, atol=tolerance)


def test_products_of_the_sketches_that_experts_share_are_those_of_their_gradients_on_average() -> None:
    proxy = tiny_proxy(tiny_model("OlmoeConfig"), None, "layers.0.mlp.experts.*")
    engine = SketchEngine(proxy, dim=8, seed=0)
    shapes = {"gate_up_proj": (48, 16), "down_proj": (16, 24)}
    assert [b.name for b in engine.blocks] == [f"layers.0.mlp.experts.{kind}" for kind in shapes]
    generator = torch.Generator().manual_seed(0)
    # Much alike from expert to expert: products between two of them would show.
    alike = {kind: torch.randn(*shape, generator=generator).double() for kind, shape in shapes.items()}
    one, other = (
        {n: alike[n.rpartition(".")[2]] + torch.randn(*proxy.shape(n)[:2], generator=generator) for n in proxy.tracked}
        for _ in range(2)
    )
    exact = sum(float((one[n] * other[n]).sum()) for n in proxy.tracked)
    drawn = []
    for seed in range(100):
        projections = partial(projection, dim=8, seed=seed)
        drawn.append(sketch_of(one, engine.blocks, projections) @ sketch_of(other, engine.blocks, projections))
    products = torch.stack(drawn)
    error = float(products.std() / len(products) ** 0.5)
    assert abs(float(products.mean()) - exact) < 3 * error
    assert exact > 20 * error
