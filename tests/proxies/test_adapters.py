import json
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import CurateError
from curate.proxies.proxy import Proxy, load_proxy
from curate.proxies.settings import ProxySettings
from tests.small_models import assert_autograds_gradients, tiny_model, tiny_tokenizer

# peft asks transformers for a property by its old name, and warns of tied embeddings.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning", "ignore::UserWarning:peft")
ROWS = 300


def loaded(folder: Path) -> Proxy:
    return load_proxy(ProxySettings(model=str(folder), dtype="float64", device="cpu"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_model(vocab_size=ROWS).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def adapted(base: Path, folder: Path, config: Any, rows: int | None = None, dtype: torch.dtype = torch.float64) -> Any:
    """Put adapters of random weights on a base model and save them; return the model that they make."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 1.5 if "magnitude" in name else 1.0
                parameter.copy_(parameter * scale + torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 12)[None], use_cache=False).logits


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    targets = options.pop("target_modules", ["q_proj", "up_proj"])
    return LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM", **options)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 7},
    "biases": {"bias": "lora_only"},
    "biases of B": {"lora_bias": True},
    "every layer and the head": {"target_modules": ["q_proj", "down_proj", "lm_head"]},
    "dora and the head": {"use_dora": True, "target_modules": ["q_proj", "lm_head"]},
    "a whole layer": {"modules_to_save": ["k_proj"]},
    "the head": {"modules_to_save": ["lm_head"]},
    "some tokens": {"trainable_token_indices": [3, 4]},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_form_of_lora_is_scored_by_its_own_gradients(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    expected = logits(adapted(base, tmp_path, lora(**options)))
    proxy = loaded(tmp_path)
    torch.testing.assert_close(logits(proxy.model), expected)
    assert any(".lora_A." in n for n in proxy.tracked)
    assert any(".lora_B." in n for n in proxy.tracked)
    for module in proxy.model.modules():
        module.__dict__.pop("get_lora_weight", None)  # autograd through peft's own arithmetic
    truth = proxy.model
    assert_autograds_gradients(loaded(tmp_path), truth)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_began_from_the_bases_weights_are_read(base: Path, tmp_path: Path, start: str) -> None:
    expected = logits(adapted(base, tmp_path, lora(init_lora_weights=start), dtype=torch.float32))
    proxy = load_proxy(ProxySettings(model=str(tmp_path), dtype="float32", device="cpu"))
    torch.testing.assert_close(logits(proxy.model), expected)


def test_doras_magnitudes_are_named_as_not_covered(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, lora(use_dora=True))
    uncovered = loaded(tmp_path).coverage.uncovered
    assert uncovered == {
        "layers.*.self_attn.q_proj.lora_magnitude_vector.default.weight": 2 * 16,
        "layers.*.mlp.up_proj.lora_magnitude_vector.default.weight": 2 * 24,
    }


def test_a_layer_that_was_trained_whole_beside_adapters_is_tracked(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, lora(modules_to_save=["k_proj"]))
    assert sum("k_proj.modules_to_save." in n for n in loaded(tmp_path).tracked) == 2


def others() -> dict[str, Any]:
    import peft

    options: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    return {
        "prompt tuning": peft.PromptTuningConfig(num_virtual_tokens=3, **options),
        "prefix tuning": peft.PrefixTuningConfig(num_virtual_tokens=3, **options),
        "p-tuning": peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **options),
        "(IA)³": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], **options),
        "AdaLoRA": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, **options),
        "LoKr": peft.LoKrConfig(target_modules=["q_proj"], r=2, **options),
        "VERA": peft.VeraConfig(target_modules=["q_proj"], r=2, **options),
    }


@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning", "p-tuning", "(IA)³", "AdaLoRA", "LoKr", "VERA"])
def test_other_kinds_of_adapters_are_refused_by_name(base: Path, tmp_path: Path, kind: str) -> None:
    config = others()[kind]
    config.base_model_name_or_path = str(base)
    config.save_pretrained(tmp_path)
    with pytest.raises(CurateError, match=r"The adapters in .* are of") as error:
        loaded(tmp_path)
    assert kind in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], ["embed_tokens"]])
def test_adapters_that_were_trained_with_more_tokens_bring_them(base: Path, tmp_path: Path, saved: list[str]) -> None:
    expected = logits(adapted(base, tmp_path, lora(modules_to_save=saved), rows=ROWS + 5))
    proxy = loaded(tmp_path)
    assert proxy.vocabulary == ROWS + 5
    torch.testing.assert_close(logits(proxy.model), expected)


def test_adapters_of_an_embedding_and_a_head_of_two_sizes_are_refused_with_both(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(base, tmp_path, lora(modules_to_save=["embed_tokens", "lm_head"]), rows=ROWS + 5)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t[:ROWS].clone() if "lm_head" in n else t for n, t in tensors.items()}, file)
    with pytest.raises(CurateError, match="an embedding and a head for 300 and 305 tokens"):
        loaded(tmp_path)


def test_adapters_whose_base_is_gone_name_it(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, lora())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    with pytest.raises(CurateError, match="are for the model /gone/base, which does not load") as error:
        loaded(tmp_path)
    assert "base_model_name_or_path" in str(error.value.hint)


def test_adapters_of_a_quantised_base_say_so_and_what_to_do(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.proxies.quantisation.find_spec", lambda _: None)  # without the package to unpack it
    adapted(base, tmp_path / "adapters", lora())
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    config = json.loads((base / "config.json").read_text())
    quantisation = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(quantised)}))
    with pytest.raises(CurateError, match="is quantised by bitsandbytes in 4 bits") as error:
        loaded(tmp_path / "adapters")
    assert "full precision" in str(error.value.hint)


def test_a_base_is_found_beside_its_adapters_from_any_folder(base: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(base)
    adapted(base, tmp_path / "adapters", lora())
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    assert loaded(tmp_path / "adapters").tracked


def test_adapters_without_all_their_weights_are_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(base, tmp_path, lora())
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(n for n in tensors if "lora_B" in n))
    save_file(tensors, file)
    with pytest.raises(CurateError, match="does not hold all of its adapters' weights"):
        loaded(tmp_path)


def test_a_folder_of_several_adapters_says_which_there_are(base: Path, tmp_path: Path) -> None:
    for name in ("chat", "code"):
        adapted(base, tmp_path / name, lora())
    with pytest.raises(CurateError, match="There are models in its folders chat, code"):
        loaded(tmp_path)
