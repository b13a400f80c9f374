from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from torch import Tensor

from curate.gradients import per_document as module
from curate.gradients.linear import Tap
from curate.gradients.passes import BatchView, Passes
from curate.gradients.per_document import PerDocument, Rotation
from curate.gradients.shared_inputs import input_leaders
from curate.proxies.proxy import Proxy
from tests.curvature.truth import truths
from tests.small_models import ARCHITECTURES, batching, random_documents, tiny_model, tiny_proxy

LENGTHS = [9, 12, 5, 23, 2]  # shorter and longer than layers are wide


class Collected:
    """Keeps every document's gradients."""

    def __init__(self, proxy: Proxy, rotations: Mapping[str, Rotation] | None, found: dict[str, list[Tensor]]) -> None:
        self.found = found
        self.taps = PerDocument(proxy, input_leaders(proxy), self.add, rotations).taps

    def add(self, name: str, gradients: Tensor) -> None:
        self.found.setdefault(name, []).extend(gradients)

    def tensors(self) -> dict[str, Tensor]:
        return {}


def bases(proxy: Proxy) -> dict[str, Rotation]:
    """Random orthogonal matrices, the same for layers that see the same inputs."""
    torch.manual_seed(0)
    first, inputs = input_leaders(proxy), {}
    result = {}
    for name in first:  # in the order of the forward pass
        d_out, d_in, biased = proxy.shape(name)
        if first[name] == name:
            inputs[name] = torch.linalg.qr(torch.randn(d_in + biased, d_in + biased, dtype=torch.float64))[0]
        outputs = torch.linalg.qr(torch.randn(d_out, d_out, dtype=torch.float64))[0]
        result[name] = Rotation(outputs=outputs, inputs=inputs[first[name]])
    return result


@pytest.mark.parametrize(
    ("architecture", "rotated"),
    [
        *((name, True) for name in ARCHITECTURES),
        ("LlamaConfig", False),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "LlamaConfig"),
    ],
)
def test_every_documents_gradient_arrives_whole_whichever_side_is_rotated_first(
    architecture: str, rotated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 600)  # one or two documents at a time
    proxy = tiny_proxy(tiny_model(architecture))
    rotations = bases(proxy) if rotated else None
    passes = Passes(proxy, random_documents(LENGTHS), batching(budget=24), fisher="empirical")
    found: dict[str, list[Tensor]] = {}
    passes.run("factors", 1, lambda *_: Collected(proxy, rotations, found))
    expected = truths(proxy, passes, 1)
    order = sorted(range(len(LENGTHS)), key=lambda i: LENGTHS[i])  # batches come shortest first
    for name in proxy.tracked:
        wanted = torch.stack([expected[i].gradients[name] for i in order])
        if rotations is not None:
            wanted = rotations[name].outputs.T @ wanted @ rotations[name].inputs
        torch.testing.assert_close(not_zero(found.get(name, [])), not_zero(wanted), rtol=1e-8, atol=1e-10)


def not_zero(gradients: Iterable[Tensor]) -> list[Tensor]:
    """Without those of documents that an expert sees nothing of, which it may be given or not."""
    return [g for g in gradients if g.abs().max() > 1e-9]


def test_rotations_happen_on_both_sides_of_the_product() -> None:
    """Otherwise the test above would not see all four ways."""
    proxy = tiny_proxy()
    whole = PerDocument(proxy, input_leaders(proxy), lambda _name, _gradients: None, bases(proxy))
    ways = set()
    for tokens in LENGTHS:
        view = BatchView(
            shape=torch.Size((1, tokens)), scored=torch.zeros(0, dtype=torch.long), finite=torch.ones(1).bool()
        )
        for name in proxy.tracked:
            tap = whole.taps(view)(name)
            assert isinstance(tap, Tap)
            ways.add((tap.rotate_inputs_early, tap.rotate_outputs_early))  # type: ignore[attr-defined]
    assert ways == {(True, True), (True, False), (False, True), (False, False)}


def test_inputs_rotated_for_several_layers_are_let_go_when_the_last_has_them() -> None:
    proxy, views = tiny_proxy(), list[BatchView]()

    class Watching:
        def __init__(self) -> None:
            self.whole = PerDocument(proxy, input_leaders(proxy), self.add, bases(proxy))

        def taps(self, view: BatchView) -> Callable[[str], Tap | None]:
            views.append(view)
            return self.whole.taps(view)

        def add(self, _name: str, _gradients: Tensor) -> None:
            assert not views[-1].rotated_inputs

        def tensors(self) -> dict[str, Tensor]:
            return {}

    Passes(proxy, random_documents([5]), batching()).run("factors", 1, lambda *_: Watching())
    assert len(views) == 1
