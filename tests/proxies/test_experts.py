from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from curate.proxies.experts import Rows, expert_layers
from curate.proxies.proxy import make_proxy, weight_of
from tests.architectures import tiny
from tests.small_models import assert_autograds_gradients, tiny_model, tiny_proxy

IDS = torch.arange(24).view(2, 12)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_layers_compute_what_transformers_own_experts_do(name: str) -> None:
    model: Any = tiny(name)
    model.set_experts_implementation("eager")
    expected = logits(model)
    tiny_proxy(model)
    assert model.config._experts_implementation == "curate"
    torch.testing.assert_close(logits(model), expected, rtol=1e-9, atol=1e-9)


def test_a_choice_beyond_the_last_expert_adds_nothing() -> None:
    model: Any = tiny_model("OlmoeConfig")
    experts = model.model.layers[0].mlp.experts
    x, weights = torch.randn(5, 16, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    index = torch.tensor([[0, 4], [4, 4], [2, 1], [4, 3], [3, 0]])
    model.set_experts_implementation("eager")
    expected = experts(x, index, weights)
    tiny_proxy(model)
    torch.testing.assert_close(experts(x, index, weights), expected)
    assert not experts(x, torch.full((5, 2), 4), weights).any()


def test_a_copy_of_a_model_reads_its_own_weights() -> None:
    model: Any = tiny_model("GptOssConfig")
    proxy = tiny_proxy(model)
    copy: Any = deepcopy(model)
    with torch.no_grad():
        copy.model.layers[0].mlp.experts.down_proj.zero_()
    layer = expert_layers(copy.model.layers[0].mlp.experts)["1.down_proj"]
    assert not weight_of(layer).any()
    assert weight_of(proxy.linears["layers.0.mlp.experts.1.down_proj"]).all()
    assert not torch.equal(logits(copy), logits(model))


def test_a_model_with_layers_for_its_experts_is_saved_as_it_was(tmp_path: Path) -> None:
    model = tiny_model("OlmoeConfig")
    names, expected = list(model.state_dict()), logits(model.float())
    tiny_proxy(model.double())
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    assert not hasattr(AutoConfig.from_pretrained(tmp_path), "curate_experts")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config._experts_implementation != "curate"
    torch.testing.assert_close(logits(loaded), expected)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_narrow_types_are_scored_with_routers_in_single_precision(name: str) -> None:
    wide: Any = tiny(name)
    narrow = tiny_proxy(deepcopy(wide).to(torch.bfloat16))
    back = tiny_proxy(deepcopy(narrow.model).double())
    router = next(n for n in narrow.tracked if n.endswith(("gate", "router")))
    assert router in back.tracked
    from curate.gradients.sketches import SketchEngine
    from curate.proxies.tokens import TokenBatch

    batch = TokenBatch(ids=IDS, labels=IDS.roll(-1, 1), documents=(0, 1))
    found, expected = (SketchEngine(p, dim=1 << 20, seed=0)(batch).values.double() for p in (narrow, back))
    assert functional.cosine_similarity(found, expected).min() > 0.95


def test_rows_are_laid_out_by_sequence() -> None:
    tokens, shape = [torch.tensor([1, 5, 6, 7, 11]), torch.tensor([], dtype=torch.int64), torch.tensor([0])], (3, 4)
    rows, _, one = Rows.of_experts(tokens)
    x = torch.arange(1.0, 6.0)[:, None]
    assert rows.by_sequence(x, torch.Size(shape)).squeeze(-1).tolist() == [[1, 0, 0], [2, 3, 4], [5, 0, 0]]
    assert one.by_sequence(x[:1], torch.Size(shape)).squeeze(-1).tolist() == [[1], [0], [0]]


class _Normed(nn.Module):
    """A router that multiplies by something else than its weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = functional.linear(x.reshape(-1, x.shape[-1]), functional.normalize(self.weight, dim=1))
        weights, chosen = logits.softmax(-1).topk(2, dim=-1)
        return logits, weights, chosen


def test_a_router_that_does_more_is_named_and_everything_else_is_exact() -> None:
    model: Any = tiny_model("OlmoeConfig")
    model.model.layers[0].mlp.gate = _Normed(model.model.layers[0].mlp.gate.weight)
    proxy = tiny_proxy(model)
    assert "layers.0.mlp.gate" not in proxy.tracked
    assert "layers.1.mlp.gate" in proxy.tracked
    assert proxy.coverage.uncovered == {"layers.*.mlp.gate.weight": 64}
    assert_autograds_gradients(proxy)


def test_layers_are_exposed_once_however_often_a_proxy_is_made() -> None:
    one = tiny_proxy(tiny_model("OlmoeConfig"))
    two = make_proxy(one.model, one.tokenizer, one.settings)
    assert one.tracked == two.tracked
    assert_autograds_gradients(two)
