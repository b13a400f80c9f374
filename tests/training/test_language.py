import pytest
import torch
from torch import Tensor

from curate.errors import SettingsError
from curate.training.language import LanguageModel, attention
from curate.training.microbatches import MicroBatch
from curate.training.recipe import Recipe
from tests.small_models import ARCHITECTURES, model_loss, tiny_model
from tests.training.small_training import corpus

pytestmark = pytest.mark.usefixtures("float64_throughout")
# These go through single precision somewhere (`.float()`), which finite differences see.
ROUGH = {"Gemma2Config": 0.1, "CohereConfig": 0.1, "OlmoeConfig": 0.1}


def whole_batch() -> tuple[MicroBatch, Tensor]:
    documents = corpus((5, 9, 12, 7), budget=200)
    batch = next(documents.microbatches(range(4)))
    return batch, batch.scored.double() * torch.rand(batch.scored.shape, dtype=torch.float64)


def directions(model: LanguageModel) -> dict[str, Tensor]:
    return {n: torch.randn_like(p) * 0.1 for n, p in model.parameters().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_and_slopes_are_the_derivatives_of_gradients_and_losses(architecture: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(tiny_model(architecture), Recipe(precision="float64"))
    (batch, weights), u, start = whole_batch(), directions(model), model.parameters()
    slopes, products = model.products(start, u, batch, weights)
    size = 1e-5
    (up, above), (down, below) = (
        model.gradients({n: p + s * u[n] for n, p in start.items()}, batch, weights) for s in (size, -size)
    )
    close = ROUGH.get(architecture, 1e-6)
    torch.testing.assert_close(slopes, (up - down) / (2 * size), rtol=close, atol=close)
    scale = max(float(p.abs().max()) for p in products.values())
    for name, product in products.items():
        torch.testing.assert_close(product, (above[name] - below[name]) / (2 * size), rtol=close, atol=close * scale)
    torch.testing.assert_close(model.slopes(start, u, batch), slopes, rtol=1e-5, atol=1e-6)
    dot = sum(float((g * u[n]).sum()) for n, g in model.gradients(start, batch, weights)[1].items())
    assert float((weights * slopes).sum()) == pytest.approx(dot, rel=1e-3 if architecture in ROUGH else 1e-10)


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config", "OPTConfig"])
def test_losses_are_the_models_own(architecture: str) -> None:
    model = LanguageModel(tiny_model(architecture), Recipe(precision="float64"))
    documents = corpus((5, 9, 12, 7), budget=200)
    batch, _ = whole_batch()
    losses, _ = model.gradients(model.parameters(), batch, batch.scored.double())
    for row, document in enumerate(batch.batch.documents):
        expected = model_loss(model.model, documents.documents[document])
        torch.testing.assert_close(losses[row].sum(), expected.detach())


def test_a_padding_token_inside_a_document_has_its_gradient() -> None:
    model = LanguageModel(tiny_model("LlamaConfig", pad_token_id=5), Recipe(precision="float64"))
    batch, weights = whole_batch()
    batch.batch.ids[0, 0] = 5
    _, gradients = model.gradients(model.parameters(), batch, weights)
    assert gradients["model.embed_tokens.weight"][5].abs().max() > 0


def test_no_graph_of_second_order_is_built() -> None:
    model = LanguageModel(tiny_model(), Recipe(precision="float64"))
    batch, weights = whole_batch()
    slopes, products = model.products(model.parameters(), directions(model), batch, weights)
    assert not slopes.requires_grad
    assert not any(p.requires_grad for p in products.values())


def test_tied_embeddings_count_once_and_are_no_matrix_of_muon() -> None:
    model = LanguageModel(tiny_model(tie_word_embeddings=True), Recipe(precision="float64"))
    assert "lm_head.weight" not in model.parameters()
    assert "model.embed_tokens.weight" not in model.matrices
    assert "model.layers.0.mlp.up_proj.weight" in model.matrices


def test_adapters_train_alone_and_start_the_same() -> None:
    recipe = Recipe(precision="float64", lora_rank=2, lora_targets=("q_proj",))
    one, other = (LanguageModel(tiny_model(), recipe).parameters() for _ in range(2))
    layers = [f"model.layers.{i}.self_attn.q_proj.lora_{side}.default.weight" for i in (0, 1) for side in "AB"]
    assert list(one) == layers
    assert all(torch.equal(one[n], other[n]) for n in layers)
    with pytest.raises(SettingsError, match="nowhere_proj"):
        LanguageModel(tiny_model(), Recipe(lora_rank=2, lora_targets=("nowhere_proj",)))


@pytest.mark.parametrize(("device", "kernels"), [("cpu", (1, 1, 1, 1)), ("cuda", (1, 1, 0, 1)), ("mps", (0, 0, 0, 1))])
def test_attention_is_fused_where_no_second_derivative_is_taken_and_its_sums_are_in_order(
    device: str, kernels: tuple[int, ...]
) -> None:
    def enabled() -> tuple[int, ...]:
        cuda = torch.backends.cuda
        kinds = cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.cudnn_sdp_enabled, cuda.math_sdp_enabled
        return tuple(int(kind()) for kind in kinds)

    with attention(torch.device(device), fused=True):
        assert enabled() == kernels
    with attention(torch.device(device), fused=False):
        assert enabled() == (0, 0, 0, 1)
