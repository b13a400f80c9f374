import pytest
import torch

from curate.curvature.softmax import softmax_curvature
from curate.gradients.head import Head


@pytest.mark.parametrize("size", [0.5, 40.0])  # the second leaves the range of exp without a reference
@pytest.mark.parametrize(
    "changes",
    [
        {},
        *(pytest.param(c, marks=pytest.mark.slow) for c in ({"bias": True}, {"scale": 0.3}, {"softcap": 1.5})),
        {"bias": True, "scale": 2.0, "softcap": 4.0},
    ],
)
def test_it_is_the_jacobian_transposed_times_the_hessian_times_the_jacobian(
    changes: dict[str, float], size: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1300, 12, generator=generator, dtype=torch.float64)  # several blocks of vocabulary rows
    bias = torch.randn(1300, generator=generator, dtype=torch.float64) if changes.get("bias") else None
    head = Head(weight=weight, bias=bias, **{k: v for k, v in changes.items() if k != "bias"})
    hidden = torch.randn(2, 12, generator=generator, dtype=torch.float64) * size
    tangents = torch.randn(3, 2, 12, generator=generator, dtype=torch.float64)

    def logits(h: torch.Tensor) -> torch.Tensor:
        z = (h @ weight.T + (0 if bias is None else bias)) * head.scale
        return z if head.softcap is None else torch.tanh(z / head.softcap) * head.softcap

    found = softmax_curvature(head, hidden, tangents)
    for t in range(2):
        jacobian = torch.autograd.functional.jacobian(logits, hidden[t])
        p = logits(hidden[t]).softmax(-1)
        moved = tangents[:, t] @ jacobian.T
        expected = (moved * p - (moved @ p)[:, None] * p) @ jacobian
        torch.testing.assert_close(found[:, t], expected, rtol=1e-8, atol=1e-9)


def test_tokens_in_several_chunks_are_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(weight=torch.randn(50, 4, generator=generator, dtype=torch.float64))
    hidden, tangents = (torch.randn(*s, 4, generator=generator, dtype=torch.float64) for s in ((9,), (2, 9)))
    expected = softmax_curvature(head, hidden, tangents)
    monkeypatch.setattr("curate.curvature.softmax.TOKENS_CPU", 6)
    torch.testing.assert_close(softmax_curvature(head, hidden, tangents), expected)
