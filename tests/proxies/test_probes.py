from pathlib import Path

import pytest
import torch
from torch import nn

from curate.errors import CurateError, SettingsError
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import ProxySettings
from tests.small_models import ENCODERS, assert_autograds_gradients, tiny_model, tiny_proxy, tiny_tokenizer


def settings(model: Path, **changes: str) -> ProxySettings:
    return ProxySettings(**({"model": str(model), "dtype": "float64", "device": "cpu"} | changes))


def saved(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    tiny_tokenizer().save_pretrained(folder)
    return folder


class _SeesTheNext(nn.Module):
    """A layer that mixes each token's state with the next one's, as a wrong mask would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.01 * x.roll(-1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_that_sees_one_token_ahead_is_refused(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)  # type: ignore[arg-type]
    tiny_proxy(model)
    model.model.layers[1].mlp = _SeesTheNext()
    with pytest.raises(CurateError, match="LlamaForCausalLM is not causal: when later tokens change"):
        tiny_proxy(model)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_is_refused_for_what_it_is(architecture: str) -> None:
    with pytest.raises(CurateError, match="is not causal"):
        tiny_proxy(tiny_model(architecture))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_causal_models_are_not_refused_in_any_type(tmp_path: Path, dtype: str) -> None:
    for architecture in ("LlamaConfig", "OlmoeConfig"):
        folder = saved(tiny_model(architecture, vocab_size=300), tmp_path / architecture)
        assert load_proxy(settings(folder, dtype=dtype)).dtype == getattr(torch, dtype)


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig(vocab_size=300).save_pretrained(tmp_path)
    with pytest.raises(CurateError, match="is an encoder-decoder model"):
        load_proxy(settings(tmp_path))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named_and_counted(tmp_path: Path, bad: float) -> None:
    model = tiny_model(vocab_size=300)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3:5] = bad
        model.model.norm.weight[0] = bad
    with pytest.raises(CurateError) as error:
        load_proxy(settings(saved(model, tmp_path)))
    assert "2 of the 384 numbers of model.layers.1.mlp.up_proj.weight are NaN or infinite" in error.value.message
    assert "1 more tensor" in error.value.message


def test_weights_beyond_float16_are_told_from_a_damaged_model(tmp_path: Path) -> None:
    model = tiny_model(vocab_size=300)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 1e5
    folder = saved(model, tmp_path)
    load_proxy(settings(folder, dtype="bfloat16"))
    with pytest.raises(CurateError, match="too large for float16"):
        load_proxy(settings(folder, dtype="float16"))


def test_a_tokenizer_that_begins_every_text_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = saved(tiny_model(vocab_size=300), tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<start>"})
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    with pytest.raises(CurateError, match="begins or ends every text with '<start>'"):
        load_proxy(settings(folder))


class _NamedLinear(nn.Linear):
    """A class of its own that computes the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = x @ self.weight.T
        return result if self.bias is None else result + self.bias


class _ScaledLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def with_layer(kind: type[nn.Linear]) -> nn.Module:
    model = tiny_model()
    plain = model.model.layers[0].mlp.down_proj
    layer = kind(plain.in_features, plain.out_features, bias=True, dtype=torch.float64)
    model.model.layers[0].mlp.down_proj = layer
    return model


def test_a_linear_layer_of_a_class_of_its_own_is_tracked_with_exact_gradients() -> None:
    proxy = tiny_proxy(with_layer(_NamedLinear))  # type: ignore[arg-type]
    assert "layers.0.mlp.down_proj" in proxy.tracked
    assert_autograds_gradients(proxy)


def test_a_layer_that_is_called_linear_and_does_more_is_left_out_by_its_name() -> None:
    model = with_layer(_ScaledLinear)
    proxy = tiny_proxy(model)  # type: ignore[arg-type]
    assert "layers.0.mlp.down_proj" not in proxy.tracked
    assert "layers.*.mlp.down_proj.weight" in proxy.coverage.uncovered
    assert_autograds_gradients(proxy)
    with pytest.raises(SettingsError, match="are of the class _ScaledLinear"):
        tiny_proxy(model, None, "layers.0.mlp.down_proj")  # type: ignore[arg-type]
