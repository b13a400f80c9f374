import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from curate.errors import CurateError
from curate.proxies import quantisation
from curate.proxies.proxy import Proxy, load_proxy
from curate.proxies.settings import ProxySettings
from curate.training.language import LanguageModel
from curate.training.recipe import Recipe
from tests.small_models import assert_autograds_gradients, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore::UserWarning:peft", "ignore::DeprecationWarning"
)
FORMATS = ["nf4", "fp4 in nested blocks", "int8"]


def loaded(folder: Path, **changes: Any) -> Proxy:
    return load_proxy(ProxySettings(model=str(folder), device="cpu", **({"dtype": "float64"} | changes)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    # 64 numbers share a scale: no row is one block.
    tiny_model("Qwen2Config", vocab_size=300, hidden_size=32, intermediate_size=48).float().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def quantised(base: Path, folder: Path, form: str) -> Path:
    """Save a model as bitsandbytes packs it."""
    pytest.importorskip("bitsandbytes", reason="the package bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    nested = "nested" in form
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": form[:3], "bnb_4bit_use_double_quant": nested}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if form == "int8" else four))  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def adapters(base: Path, folder: Path, model: Path, **options: Any) -> Path:
    """Save LoRA adapters of random weights for a model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    peft.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(model)}))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 12)[None], use_cache=False).logits


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_of_bitsandbytes_is_read_as_the_weights_that_it_stands_for(
    base: Path, tmp_path: Path, form: str
) -> None:
    proxy = loaded(quantised(base, tmp_path, form))
    plain = loaded(base)
    assert proxy.tracked == plain.tracked
    assert proxy.coverage == plain.coverage
    name = "layers.1.mlp.up_proj"
    unpacked, exact = proxy.linears[name].weight, plain.linears[name].weight
    assert isinstance(unpacked, torch.Tensor)
    assert unpacked.dtype == torch.float64
    gap = (unpacked - exact).abs().max() / exact.abs().max()  # type: ignore[operator, union-attr]
    assert 1e-4 < gap < (0.01 if form == "int8" else 0.3)
    assert_autograds_gradients(proxy, proxy.model)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("form", FORMATS)
def test_adapters_on_a_quantised_base_are_scored_as_on_its_unpacked_weights(
    base: Path, tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    packed = quantised(base, tmp_path / "packed", form)
    whole = tmp_path / "whole"
    loaded(packed).model.save_pretrained(whole)
    proxy = loaded(adapters(base, tmp_path / "on packed", packed, **options))
    plain = loaded(adapters(base, tmp_path / "on whole", whole, **options))
    assert any(isinstance(m, quantisation.Packed) for m in proxy.model.modules())
    assert all(".lora_" in name for name in proxy.tracked)
    assert proxy.tracked == plain.tracked
    assert proxy.coverage == plain.coverage
    torch.testing.assert_close(logits(proxy.model), logits(plain.model))
    for module in plain.model.modules():
        module.__dict__.pop("get_lora_weight", None)  # autograd through peft's own arithmetic
    assert_autograds_gradients(proxy, plain.model)


def test_a_quantised_base_is_trained_as_its_unpacked_weights_are(base: Path, tmp_path: Path) -> None:
    packed = quantised(base, tmp_path / "packed", "nf4")
    whole = tmp_path / "whole"
    loaded(packed).model.save_pretrained(whole)
    recipe = Recipe(precision="float64")
    ours, theirs = (
        LanguageModel(deepcopy(loaded(adapters(base, tmp_path / m.name / "adapters", m)).model), recipe).parameters()
        for m in (packed, whole)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_quantised_base_stays_in_its_four_bits(base: Path, tmp_path: Path) -> None:
    folder = adapters(base, tmp_path / "adapters", quantised(base, tmp_path / "packed", "nf4"))
    proxy = loaded(folder, dtype="bfloat16")
    layer = proxy.model.get_submodule("model.layers.0.self_attn.k_proj")
    assert isinstance(layer, quantisation.Packed)
    assert sum(p.numel() * p.element_size() for p in layer.layer.parameters() if p.ndim > 1) == layer.weight.numel() / 2
    assert proxy.fingerprint() == loaded(folder, dtype="bfloat16").fingerprint()


def test_a_product_with_a_packed_weight_has_derivatives_of_every_order_and_direction(
    base: Path, tmp_path: Path
) -> None:
    folder = adapters(base, tmp_path / "adapters", quantised(base, tmp_path / "packed", "nf4"))
    layer = loaded(folder).model.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(layer, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


def test_a_model_of_torchao_is_read_as_the_weights_that_it_stands_for(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="the package torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32).save_pretrained(
        tmp_path
    )
    tiny_tokenizer().save_pretrained(tmp_path)
    proxy, plain = loaded(tmp_path), loaded(base)
    name = "layers.1.mlp.up_proj"
    assert type(proxy.linears[name]) is nn.Linear
    assert 0 < (proxy.linears[name].weight - plain.linears[name].weight).abs().max() < 0.02  # type: ignore[operator, union-attr]
    assert proxy.coverage == plain.coverage
    assert_autograds_gradients(proxy, proxy.model)


@pytest.mark.parametrize("package", ["bitsandbytes", "torchao"])
def test_a_missing_package_is_named_before_weights_are_read(
    base: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": package}}))
    monkeypatch.setattr(quantisation, "find_spec", lambda _: None)
    with pytest.raises(CurateError, match=f"is quantised by {package}; expected .* or the package {package}") as error:
        loaded(tmp_path)
    assert f"pip install {package}" in str(error.value.hint)
