import pytest
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from curate.errors import CurateError
from curate.gradients.shared_inputs import input_leaders
from tests.small_models import tiny_model, tiny_proxy

# Groups of the first block's layers that see the same inputs.
SHARED = {
    "LlamaConfig": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, {"mlp.gate_proj", "mlp.up_proj"}],
    "OPTConfig": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}],
    "GPTJConfig": [{"attn.q_proj", "attn.k_proj", "attn.v_proj"}],  # fc_in has a bias, the others none
    "PhiConfig": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"}],
    "GPT2Config": [],
    "GPTNeoXConfig": [],
}


@pytest.mark.parametrize("architecture", SHARED)
def test_layers_with_the_very_same_inputs_are_found(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    first = input_leaders(proxy)
    assert set(first) == set(proxy.tracked)
    groups: dict[str, set[str]] = {}
    for name, leader in first.items():
        if ".0." in name:
            groups.setdefault(leader, set()).add(name.split(".0.")[1])
    assert [g for g in groups.values() if len(g) > 1] == SHARED[architecture]


def test_equal_numbers_in_other_memory_are_not_the_same_inputs() -> None:
    model = tiny_model()
    attention = model.model.layers[0].self_attn
    attention.k_proj.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(),))
    first = input_leaders(tiny_proxy(model))
    assert first["layers.0.self_attn.k_proj"] == "layers.0.self_attn.k_proj"
    assert first["layers.0.self_attn.v_proj"] == "layers.0.self_attn.q_proj"


def test_a_layer_that_is_used_twice_is_refused() -> None:
    model = tiny_model()
    down: nn.Module = model.model.layers[0].mlp.down_proj
    handle: list[RemovableHandle] = []

    def once(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        handle.pop().remove()
        return output + down(inputs[0])

    proxy = tiny_proxy(model)
    handle.append(down.register_forward_hook(once))
    with pytest.raises(CurateError, match=r"uses the layer layers\.0\.mlp\.down_proj twice"):
        input_leaders(proxy)
