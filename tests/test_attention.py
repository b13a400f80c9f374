import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, MistralConfig

from curate.gradients.labels import dual_level
from curate.proxies import attention
from curate.proxies.attention import NAME, use_block_attention, use_plain_attention
from tests.small_models import ARCHITECTURES, tiny_model, tiny_proxy


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 3)


def rows(tokens: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, tokens, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 11])
def test_it_is_causal_attention(tokens: int) -> None:
    q, k, v = rows(tokens)
    theirs = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    torch.testing.assert_close(attention._Causal.apply(q, k, v), theirs, rtol=1e-12, atol=1e-12)


def test_its_derivatives_of_first_and_second_order_are_right() -> None:
    inputs = tuple(x[:1, :, :2].detach().requires_grad_() for x in rows(5))
    assert torch.autograd.gradcheck(attention._Causal.apply, inputs)
    assert torch.autograd.gradgradcheck(attention._Causal.apply, inputs)


@pytest.mark.parametrize("tokens", [1, 3, 11])
def test_its_forward_derivative_is_right(tokens: int) -> None:
    inputs, tangents = ([x.detach() for x in rows(tokens, seed)] for seed in (0, 1))
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.mT).masked_fill(later, -torch.inf).softmax(-1) @ v

    with dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        ours, truth = (tuple(forward_ad.unpack_dual(f(*duals))) for f in (attention._dual_causal, plain))
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_computes_the_same_with_it(architecture: str, padded: bool) -> None:
    model = tiny_model(architecture)
    ids = torch.randint(3, 20, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 8:] = 0  # then attention is handed a mask, and torch's takes over

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
        return logits, [g for g in found if g is not None]

    model.requires_grad_(True)
    theirs = run()
    if model.config._attn_implementation != "sdpa":
        return
    model.set_attn_implementation(NAME)
    ours = run()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-10)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


def test_windows_that_slide_keep_sliding() -> None:
    config = MistralConfig(**ARCHITECTURES["LlamaConfig"], sliding_window=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    ids = torch.randint(3, 20, (1, 14), generator=torch.Generator().manual_seed(1))
    theirs = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, theirs, rtol=1e-9, atol=1e-10)


def test_bfloat16_proxies_use_it_and_wider_ones_keep_torchs() -> None:
    wide, narrow = tiny_model(), tiny_model().to(torch.bfloat16)
    assert tiny_proxy(wide).model.config._attn_implementation == "sdpa"
    assert tiny_proxy(narrow).model.config._attn_implementation == NAME
    use_plain_attention(narrow)
    assert narrow.config._attn_implementation == "sdpa"
    use_block_attention(narrow)
    assert narrow.config._attn_implementation == NAME
