import math

import pytest
import torch
from torch import Tensor, nn

from curate.errors import CurateError
from curate.gradients import head as module
from curate.gradients.frozen import FrozenPass
from curate.gradients.head import Head
from curate.proxies.tokens import IGNORED, TokenBatch
from tests.small_models import ARCHITECTURES, tiny_model, tiny_proxy

TOKENS, WIDTH, VOCABULARY = 40, 12, 2500  # several blocks of vocabulary rows


def head(seed: int = 0, bias: bool = False, dtype: torch.dtype = torch.float64, **changes: float) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    biases = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) if bias else None
    return Head(weight=weight.to(dtype), bias=None if biases is None else biases.to(dtype), **changes)


def inputs(seed: int = 1, size: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64) * size
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    labels[::7] = IGNORED
    return hidden, labels


def plain(head: Head, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same through whole logits and autograd, in float64."""
    hidden = hidden.detach().double().clone().requires_grad_(True)
    logits = hidden @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    losses = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    losses.sum().backward()
    assert hidden.grad is not None
    return losses.detach(), hidden.grad


def check(head: Head, hidden: Tensor, labels: Tensor, tolerance: float = 1e-10) -> None:
    losses, gradients = head(hidden, labels)
    expected_losses, expected = plain(head, hidden, labels)
    torch.testing.assert_close(losses.double(), expected_losses, rtol=tolerance, atol=tolerance)
    assert gradients is not None
    torch.testing.assert_close(gradients.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max())
    only_losses, nothing = head(hidden, labels, gradient=False)
    assert nothing is None
    torch.testing.assert_close(only_losses, losses, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"bias": True}, {"scale": 0.3}, {"softcap": 1.5}, {"bias": True, "scale": 2.0, "softcap": 4.0}],
    ids=lambda c: "+".join(c) or "plain",
)
def test_losses_and_gradients_equal_those_of_whole_logits(changes: dict[str, float]) -> None:
    check(head(**changes), *inputs())  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [-200.0, 200.0])
def test_logits_far_from_zero_stay_in_range(level: float) -> None:
    exact = head()
    far = Head(weight=exact.weight, bias=torch.full((VOCABULARY,), level, dtype=torch.float64))
    hidden, labels = inputs()
    check(far, hidden, labels)
    narrow = Head(weight=far.weight.float(), bias=torch.full((VOCABULARY,), level))
    check(narrow, hidden.float(), labels, tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [3, 2400])
def test_one_logit_far_above_all_others_does_not_overflow(dtype: torch.dtype, row: int) -> None:
    """The reference comes from the first rows; when another lies hundreds of nats above, the sweep is done again."""
    bias = torch.zeros(VOCABULARY, dtype=dtype)
    bias[row] = 900.0
    hidden, labels = inputs()
    labels[0] = row
    check(Head(weight=head().weight.to(dtype), bias=bias), hidden.to(dtype), labels, tolerance=1e-4)


@pytest.mark.parametrize("top", [80.0, 86.0, 87.5, 88.5, 90.0])
def test_gradients_stay_finite_where_the_normaliser_is_about_to_overflow(top: float) -> None:
    weight = torch.ones(VOCABULARY, 1) * 50
    weight[0], weight[-1] = 0, 100
    bias = torch.zeros(VOCABULARY)
    bias[-1] = top
    hidden, labels = torch.zeros(4, 1), torch.tensor([0, 1, VOCABULARY - 1, IGNORED])
    check(Head(weight=weight, bias=bias), hidden, labels, tolerance=1e-4)


def test_very_large_hidden_states_have_finite_losses() -> None:
    hidden, labels = inputs(size=300.0)
    check(head(), hidden, labels)
    losses, gradients = head(dtype=torch.float32)(hidden.float(), labels)
    assert losses.isfinite().all()
    assert gradients is not None
    assert gradients.isfinite().all()


def test_one_tokens_range_does_not_change_anothers_loss() -> None:
    hidden, labels = inputs()
    alone, gradients = head()(hidden, labels)
    hidden[5] *= 1000
    beside, others = head()(hidden, labels)
    assert gradients is not None
    assert others is not None
    kept = torch.arange(TOKENS) != 5
    torch.testing.assert_close(beside[kept], alone[kept], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others[kept], gradients[kept], rtol=1e-12, atol=1e-12)


def test_a_token_that_is_not_finite_spoils_itself_alone() -> None:
    hidden, labels = inputs()
    alone, _ = head()(hidden, labels)
    hidden[5] = math.nan
    losses, gradients = head()(hidden, labels)
    kept = torch.arange(TOKENS) != 5
    torch.testing.assert_close(losses[kept], alone[kept], rtol=1e-12, atol=1e-12)
    assert losses[5].isnan()
    assert gradients is not None
    assert gradients[kept].isfinite().all()


def test_ignored_labels_have_no_loss_and_no_gradient() -> None:
    hidden, labels = inputs()
    losses, gradients = head()(hidden, labels)
    assert gradients is not None
    assert losses[::7].eq(0).all()
    assert gradients[::7].eq(0).all()
    losses, gradients = head()(hidden, torch.full_like(labels, IGNORED))
    assert gradients is not None
    assert losses.eq(0).all()
    assert gradients.eq(0).all()


def test_bfloat16_is_near_the_exact_result() -> None:
    hidden, labels = inputs()
    narrow = head(dtype=torch.bfloat16)
    check(narrow, hidden.bfloat16(), labels, tolerance=0.03)
    losses, gradients = narrow(hidden.bfloat16(), labels)
    assert losses.dtype == torch.float32
    assert gradients is not None
    assert gradients.dtype == torch.bfloat16


@pytest.mark.parametrize(("tokens", "rows"), [(5, 70), (16, 640), (4096, 100_000)])
def test_results_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int) -> None:
    monkeypatch.setattr(module, "TOKENS_CPU", tokens)
    monkeypatch.setattr(module, "ROWS_CPU", rows)
    check(head(bias=True, softcap=3.0), *inputs())


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            # A view or an operation in place makes nothing.
            if isinstance(made, Tensor) and made._base is None:
                self.largest = max(self.largest, made.numel())
        return result


def test_logits_never_exist_whole() -> None:
    hidden, labels = torch.randn(2000, 8), torch.randint(20_000, (2000,))
    large = Head(weight=torch.randn(20_000, 8))
    with _LargestTensor() as made:
        large(hidden, labels)
    assert made.largest <= module.TOKENS_CPU * module.ROWS_CPU
    with _LargestTensor() as whole:
        nn.functional.linear(hidden, large.weight)
    assert whole.largest == 2000 * 20_000


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_of_every_architecture_gives_the_models_own_losses(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    ids = torch.arange(1, 21).view(2, 10)
    labels = ids.roll(-1, 1)
    found = FrozenPass(proxy).losses(TokenBatch(ids=ids, labels=labels, documents=(0, 1)))
    logits = proxy.model(input_ids=ids).logits.transpose(1, 2).double()
    expected = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_model_that_does_something_unknown_to_its_logits_is_refused() -> None:
    model = tiny_model()
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: output.abs())
    with pytest.raises(CurateError, match="LlamaForCausalLM does more between its last hidden state"):
        FrozenPass(tiny_proxy(model))


@pytest.mark.parametrize("changes", [{}, {"bias": True, "scale": 2.0, "softcap": 4.0}])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_labels_are_drawn_by_the_inverse_of_the_whole_cumulated_distribution(changes: dict, size: float) -> None:
    chosen = head(**changes)
    hidden, labels = inputs(size=size)
    uniforms = torch.rand(TOKENS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits = (hidden @ chosen.weight.T + (0 if chosen.bias is None else chosen.bias)) * chosen.scale
    if chosen.softcap is not None:
        logits = torch.tanh(logits / chosen.softcap) * chosen.softcap
    drawn = torch.searchsorted(logits.softmax(-1).cumsum(-1), uniforms[:, None], right=True).squeeze(-1)
    drawn[labels == IGNORED] = IGNORED
    assert (drawn != labels).any()
    losses, gradients = chosen(hidden, labels, uniforms=uniforms)
    expected_losses, expected = plain(chosen, hidden, drawn)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_a_draw_does_not_depend_on_the_other_tokens() -> None:
    chosen, (hidden, labels) = head(), inputs()
    uniforms = torch.rand(TOKENS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    together, _ = chosen(hidden, labels, uniforms=uniforms)
    alone = [chosen(hidden[i : i + 1], labels[i : i + 1], uniforms=uniforms[i : i + 1])[0] for i in range(TOKENS)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_labels_are_subtracted_in_their_own_block_of_the_vocabulary_alone() -> None:
    labels, weights = torch.tensor([4, 9, 5, 3, 8]), torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0])
    pull = torch.ones(5, 4)
    module.less_labels(pull, labels, slice(4, 8), weights)
    expected = torch.ones(5, 4)
    expected[0, 0] -= 2.0
    expected[2, 1] -= 5.0
    assert pull.equal(expected)
