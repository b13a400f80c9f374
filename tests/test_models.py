import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from curate.errors import CurateError, SettingsError
from curate.proxies.devices import choose_device
from curate.proxies.proxy import Proxy, load_proxy
from curate.proxies.settings import ProxySettings
from tests.small_models import ARCHITECTURES, tiny_model, tiny_proxy, tiny_tokenizer


def settings(model: Path | str, **changes: Any) -> ProxySettings:
    return ProxySettings(**({"model": str(model), "dtype": "float64", "device": "cpu"} | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer, as `save_pretrained` writes them; not to be written to."""
    path = tmp_path_factory.mktemp("model")
    tiny_model(vocab_size=300).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_folders_model_is_loaded_frozen_with_its_layers_in_the_models_order(folder: Path) -> None:
    proxy = load_proxy(settings(folder))
    assert not proxy.model.training
    assert not any(p.requires_grad for p in proxy.model.parameters())
    assert (proxy.dtype, proxy.device, proxy.context) == (torch.float64, torch.device("cpu"), 64)
    order = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    order += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert list(proxy.tracked) == [f"layers.{i}.{n}" for i in range(2) for n in order]
    assert proxy.shape("layers.0.mlp.down_proj") == (16, 24, False)
    assert proxy.tokenizer("def")["input_ids"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_asked_for_is_the_models(folder: Path, dtype: str) -> None:
    assert load_proxy(settings(folder, dtype=dtype)).dtype == getattr(torch, dtype)


def test_settings_that_cannot_work_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(
        SettingsError, match=r"dtype is 'float8'; expected one of float32, bfloat16, float16, float64\."
    ):
        ProxySettings(model="nowhere", dtype="float8")
    with pytest.raises(SettingsError, match=r"device is 'tpu'; expected auto, cpu, cuda, cuda:N or mps\."):
        ProxySettings(model="nowhere", device="tpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SettingsError, match=f"device is '{device}'; this machine"):
        load_proxy(settings("nowhere", device=device))
    assert choose_device("auto") == torch.device("cpu")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing'; there is no such folder"):
        load_proxy(settings(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match=r"\./nothing'; there is no such folder"):
        load_proxy(settings("./nothing"))


def test_a_hub_model_that_is_not_here_says_which_ways_lead_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CurateError, match="nobody/nothing is not on this machine") as error:
        load_proxy(settings("nobody/nothing"))
    assert "--model DIR" in str(error.value)
    assert "curate warmup" in str(error.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_whole_model_says_what_it_needs(folder: Path, tmp_path: Path, missing: str) -> None:
    broken = copied(folder, tmp_path / "broken")
    (broken / missing).unlink()
    with pytest.raises(CurateError, match="broken does not load as a causal language model") as error:
        load_proxy(settings(broken))
    assert "The folder needs config.json, weights and a tokenizer" in str(error.value)


def test_globs_choose_layers() -> None:
    assert tiny_proxy(None, None, "*.mlp.*", "layers.1.self_attn.q_proj").tracked == (
        *(f"layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")),
        "layers.1.self_attn.q_proj",
        *(f"layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")),
    )


@pytest.mark.parametrize("globs", [("*.mpl.*",), ("*.mlp.*", "*.mpl.*")])
def test_a_glob_that_matches_nothing_is_refused_with_the_names_there_are(globs: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"No layer matches --modules \*\.mpl\.\*\.") as error:
        tiny_proxy(None, None, *globs)
    assert "layers.*.mlp.up_proj" in str(error.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_matrix_of_a_decoder_is_covered(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    assert proxy.coverage.uncovered == {}
    assert set(proxy.tracked) == set(proxy.linears)
    layers: list[Any] = [proxy.linears[n] for n in proxy.tracked]
    counted = sum(p.numel() for layer in layers for p in (layer.weight, layer.bias) if p is not None)
    total = sum(p.numel() for p in proxy.model.parameters())
    assert proxy.coverage.tracked == counted
    assert proxy.coverage.share == counted / total


def test_layers_left_out_by_choice_are_not_called_uncovered() -> None:
    coverage = tiny_proxy(None, None, "*.mlp.*").coverage
    assert coverage.uncovered == {}
    assert coverage.share < tiny_proxy().coverage.share


def test_every_fused_expert_and_its_router_is_a_layer_of_its_own() -> None:
    model = tiny_model("OlmoeConfig")
    names = set(model.state_dict())
    proxy = tiny_proxy(model)
    assert set(model.state_dict()) == names
    assert proxy.shape("layers.1.mlp.experts.3.gate_up_proj") == (48, 16, False)
    experts = [n for n in proxy.tracked if ".experts." in n]
    assert len(experts) == 2 * 4 * 2
    assert not any("experts" in n for n in proxy.coverage.uncovered)
    attention = tiny_proxy(model, None, "*.self_attn.*").coverage
    assert proxy.coverage.tracked == attention.tracked + 2 * 4 * (16 + 48 * 16 + 16 * 24)
    one = tiny_proxy(model, None, "layers.0.mlp.experts.2.*")
    assert one.tracked == ("layers.0.mlp.experts.2.gate_up_proj", "layers.0.mlp.experts.2.down_proj")


class _Experts(nn.Module):
    """Experts as modules of their own, as older and remote code has them, each seeing some of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16, dtype=torch.float64) for _ in range(3))
        self.shared = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        chosen = (flat.sum(-1) > 0).long()
        parts = [self.experts[i](flat[chosen == i]) for i in range(2)]
        order = flat.sum(-1).argsort()  # the third expert sees every token, but not in the sequences' order
        result = self.shared(flat).index_add(0, order, self.experts[2](flat[order]))
        for i, part in enumerate(parts):
            result = result.index_add(0, (chosen == i).nonzero().squeeze(-1), part)
        return result.view_as(x)


def test_a_routed_expert_is_not_tracked_and_what_sees_all_tokens_flattened_is() -> None:
    model = tiny_model()
    model.model.layers[0].mlp = _Experts()
    proxy = tiny_proxy(model)
    assert "layers.0.mlp.shared" in proxy.tracked
    assert not any("experts" in n for n in proxy.tracked)
    assert proxy.coverage.uncovered == {"layers.*.mlp.experts.*.weight": 3 * 256}
    with pytest.raises(SettingsError, match="sees whole sequences"):
        tiny_proxy(model, None, "*.experts.*")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


# peft asks transformers for a property by its old name.
adapted = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@adapted
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_folder_of_adapters_is_loaded_on_its_base_and_the_adapters_are_tracked(adapters: Path, dtype: str) -> None:
    proxy = load_proxy(settings(adapters, dtype=dtype))
    assert len(proxy.tracked) == 2 * 2 * 2
    assert all(".lora_A." in n or ".lora_B." in n for n in proxy.tracked)
    assert proxy.coverage.uncovered == {}
    assert {p.dtype for p in proxy.model.parameters()} == {getattr(torch, dtype)}
    weights = [m.weight for n, m in proxy.linears.items() if ".lora_B." in n]
    assert all(float(w.abs().sum()) > 0 for w in weights)


@adapted
def test_adapters_may_lie_alone_in_their_folder(adapters: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (alone / name).write_bytes((adapters / name).read_bytes())
    assert load_proxy(settings(alone)).fingerprint() == load_proxy(settings(adapters)).fingerprint()


@adapted
def test_an_adapters_scale_is_part_of_the_fingerprint(adapters: Path, tmp_path: Path) -> None:
    other = copied(adapters, tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    assert load_proxy(settings(other)).fingerprint() != load_proxy(settings(adapters)).fingerprint()


def test_the_fingerprint_is_the_same_wherever_the_model_lies(folder: Path, tmp_path: Path) -> None:
    first = load_proxy(settings(folder)).fingerprint()
    assert load_proxy(settings(folder)).fingerprint() == first
    assert load_proxy(settings(copied(folder, tmp_path / "elsewhere"))).fingerprint() == first


def _change_a_weight(proxy: Proxy) -> None:
    with torch.no_grad():
        proxy.model.model.norm.weight[3] += 1e-12


def _change_the_template(proxy: Proxy) -> None:
    proxy.tokenizer.chat_template = "{{ messages }}"


def _change_the_configuration(proxy: Proxy) -> None:
    proxy.model.config.rms_norm_eps *= 2


@pytest.mark.parametrize("change", [_change_a_weight, _change_the_template, _change_the_configuration])
def test_the_fingerprint_changes_with_whatever_changes_scores(folder: Path, change: Any) -> None:
    proxy = load_proxy(settings(folder))
    before = proxy.fingerprint()
    change(proxy)
    assert proxy.fingerprint() != before


def test_a_model_with_scalar_buffers_has_a_fingerprint() -> None:
    proxy = tiny_proxy()
    before = proxy.fingerprint()
    proxy.model.register_buffer("scalar", torch.tensor(2.0))
    assert proxy.fingerprint() != before
