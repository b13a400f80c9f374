import json
import socket
import time
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.errors import CurateError, SettingsError
from curate.proxies.proxy import load_proxy
from curate.proxies.settings import ProxySettings
from tests.small_models import tiny_model, tiny_tokenizer


def settings(model: Path | str, **changes: Any) -> ProxySettings:
    return ProxySettings(**({"model": str(model), "dtype": "float32", "device": "cpu"} | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(vocab_size=300).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_hub_that_cannot_be_reached_is_no_long_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as server:  # a port at which nobody answers
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(CurateError, match="nobody/nothing is not on this machine"):
            load_proxy(settings("nobody/nothing"))
        assert time.monotonic() - start < 10


def test_a_missing_sub_folder_names_its_neighbours(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    (runs / "proxies" / "warm").mkdir(parents=True)
    (runs / "proxies" / "warm" / "config.json").write_text("{}")
    monkeypatch.chdir(runs)
    with pytest.raises(CurateError) as error:
        load_proxy(settings("proxies/warn"))
    assert "proxies/warm" in str(error.value.hint)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(SettingsError, match="that is a file"):
        load_proxy(settings(folder / "config.json"))


def test_weights_that_the_model_needs_and_the_file_lacks_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n != "lm_head.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(CurateError, match=r"lack lm_head\.weight, which LlamaForCausalLM has"):
        load_proxy(settings(folder))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny.Q4_K_M.gguf", "from_pretrained(FOLDER, gguf_file='tiny.Q4_K_M.gguf').save_pretrained(NEW)"),
        ("consolidated.safetensors", "consolidated.safetensors is in the form of its makers"),
        ("zero_to_fp32.py", "python zero_to_fp32.py FOLDER NEW"),
        ("pytorch_model_fsdp.bin", "accelerate merge-weights"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json, their list, is missing"),
    ],
)
def test_weights_in_another_form_are_told_with_what_converts_them(folder: Path, name: str, said: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CurateError, match="does not load as a causal language model") as error:
        load_proxy(settings(folder))
    assert said in str(error.value.hint)


def test_weights_that_do_not_fit_the_config_are_named_with_both_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 308}))
    width = config["hidden_size"]
    with pytest.raises(CurateError, match=rf"lm_head\.weight is 300×{width}, expected 308×{width} and 1 more"):
        load_proxy(settings(folder))


def test_weights_under_other_names_are_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({f"_orig_mod.{n}": t for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(CurateError, match=r"lack lm_head\.weight and .*; they have _orig_mod\.lm_head\.weight and"):
        load_proxy(settings(folder))


def test_a_folder_without_a_tokenizer_is_told_so(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(CurateError, match=r"there is no tokenizer\.json"):
        load_proxy(settings(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_in_the_place_of_a_file_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    with pytest.raises(CurateError) as error:
        load_proxy(settings(folder))
    assert f"{name} is a pointer of Git LFS" in str(error.value.hint)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_model_that_was_not_fetched_whole_is_refused_as_such(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CurateError, match="does not load as a causal language model") as error:
        load_proxy(settings(folder))
    assert "damaged or was not fetched whole" in str(error.value.hint)


def test_loading_says_nothing_on_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    load_proxy(settings(folder))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_model_in_its_own_code_is_refused_without_a_question(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    remote = config | {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(remote))
    start = time.monotonic()
    with pytest.raises(CurateError, match="does not load as a causal language model") as error:
        load_proxy(settings(folder))
    assert time.monotonic() - start < 5
    assert "own code would have to be run" in str(error.value.hint)


@pytest.mark.parametrize(
    ("quantisation", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes in 4 bits"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_quantised_weights_are_refused_before_they_are_read(
    folder: Path, quantisation: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setattr("curate.proxies.quantisation.find_spec", lambda _: None)  # where no package would unpack them

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CurateError, match=f"is quantised by {name}; expected"):
        load_proxy(settings(folder))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_file_s_type_does_not_matter(folder: Path, dtype: str) -> None:
    expected = load_proxy(settings(folder, dtype=dtype)).fingerprint()
    tiny_model(vocab_size=300).to(getattr(torch, dtype)).save_pretrained(folder)  # type: ignore[arg-type]
    assert load_proxy(settings(folder, dtype=dtype)).fingerprint() == expected


def test_loading_silences_what_packages_for_other_weights_ask_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_proxy(settings(folder))
    getLogger("bitsandbytes.backends.cpu.ops").warning("install another package")
    getLogger("another").warning("heard")
    assert [r.message for r in caplog.records] == ["heard"]
