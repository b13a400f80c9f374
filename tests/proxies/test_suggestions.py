import pytest

from curate.proxies.suggestions import near_model


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("prxoy", "proxy"),
        ("./Proxy/", "proxy"),
        ("models/lora", "models/lora-16"),
        ("HuggingFaceTB/SmolLM-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
        ("EleutherAI/pythia_160m", "EleutherAI/pythia-160m"),
        ("org/fine-tnued", "org/fine-tuned"),
        ("/nowhere/xyzzy", None),
        ("HuggingFaceTB/SmolLM2-135M", None),  # the default, where the hub is out of reach
    ],
)
def test_a_folder_nearby_or_a_model_of_the_hub_is_named(tmp_path, monkeypatch, given, meant) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for folder, name in (("proxy", "config.json"), ("models/lora-16", "adapter_config.json"), ("data", "x.json")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("{}")
    (tmp_path / "hub" / "models--org--fine-tuned").mkdir(parents=True)
    assert near_model(given) == (f"Did you mean {meant}?" if meant else None)
