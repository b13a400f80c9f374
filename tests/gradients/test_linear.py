from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curate.gradients.linear import linear, tapped, weight_of


class Recorder:
    """A tap that keeps both sides."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Any:
        self.inputs.append(inputs)
        return len(self.inputs) - 1

    def backward(self, kept: Any, output_gradients: Tensor) -> None:
        assert kept == len(self.inputs) - 1
        self.gradients.append(output_gradients)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(5, 7, dtype=torch.float64),
    "Linear without bias": lambda: nn.Linear(5, 7, bias=False, dtype=torch.float64),
    "Conv1D": lambda: Conv1D(7, 5).double(),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_tapped_layer_computes_the_same_and_shows_both_its_sides(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[kind](), torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    (expected**2).sum().backward()
    truth, x.grad = x.grad, None
    weight_gradient = layer.weight.grad
    layer.zero_grad()
    tap = Recorder()
    with tapped({"a": layer.requires_grad_(False)}, lambda _: tap):
        found = layer(x)
        (found**2).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x.grad, truth)
    product = tap.gradients[0].flatten(0, 1).T @ tap.inputs[0].flatten(0, 1)
    torch.testing.assert_close(product, weight_gradient.T if kind == "Conv1D" else weight_gradient)
    assert layer.weight.grad is None


def test_no_gradient_goes_below_the_first_tap() -> None:
    layers = {str(i): nn.Linear(4, 4) for i in range(3)}
    taps = {"1": Recorder(), "2": Recorder()}
    with tapped(layers, taps.get):
        below = layers["0"](torch.randn(2, 3, 4))
        assert not below.requires_grad
        layers["2"](layers["1"](below)).sum().backward()
    assert [len(t.gradients) for t in taps.values()] == [1, 1]


def own_forwards(layers: dict[str, nn.Module]) -> bool:
    return all("forward" not in vars(m) for m in layers.values())


def test_layers_are_restored_whatever_happens() -> None:
    layers: dict[str, nn.Module] = {str(i): nn.Linear(4, 4) for i in range(3)}
    with tapped(layers, lambda _: Recorder()):
        assert not own_forwards(layers)
    assert own_forwards(layers)

    def run() -> None:
        with tapped(layers, lambda _: Recorder()):
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        run()
    assert own_forwards(layers)

    def no_tap_for_the_last(name: str) -> Recorder:
        if name == "2":
            raise KeyError(name)
        return Recorder()

    with pytest.raises(KeyError), tapped(layers, no_tap_for_the_last):
        pass
    assert own_forwards(layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_equal_torchs_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 4, 5, dtype=dtype), torch.randn(7, 5, dtype=dtype), torch.randn(7, dtype=dtype)
    for w in (weight, torch.randn(5, 7, dtype=dtype).T):
        torch.testing.assert_close(linear(x, w, bias), nn.functional.linear(x, w, bias))
        torch.testing.assert_close(linear(x, w), nn.functional.linear(x, w))


def test_weights_are_rows_of_outputs_for_both_kinds_of_layer() -> None:
    assert weight_of(nn.Linear(5, 7)).shape == (7, 5)
    assert weight_of(Conv1D(7, 5)).shape == (7, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_right_whatever_the_strides(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 5), (7, 5), (7, 3)))
    expected = x @ weight.T + bias[:, 1]
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-5
    strided = x.to(dtype).T.contiguous().T, weight.to(dtype).T.contiguous().T, bias.to(dtype)[:, 1]
    torch.testing.assert_close(linear(*strided).double(), expected, rtol=tolerance, atol=tolerance)
