from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from curate.documents import Pool
from curate.errors import CurateError
from curate.proxies.settings import ProxySettings
from curate.training.moments import read_moments
from curate.training.settings import WarmupSettings
from curate.training.states import checkpoints_of, fingerprint_of
from curate.training.warmup import Warmup, warmup


def of(made: Warmup) -> ProxySettings:
    return ProxySettings(model=str(made.out), device="cpu")


def test_a_warmups_states_come_in_order_with_their_weights_and_moments(tiny_proxy: Warmup) -> None:
    states = checkpoints_of(of(tiny_proxy))
    assert [f"checkpoints/step-{s.step}" for s in states] == tiny_proxy.checkpoints
    assert len(states) > 1
    for state in states:
        expected = AutoModelForCausalLM.from_pretrained(state.folder).state_dict()
        proxy = state.proxy()
        assert all(expected[n].equal(p) for n, p in proxy.model.state_dict().items())
        assert len(proxy.tokenizer) == tiny_proxy.vocabulary
        moments = state.moments(proxy.model)
        assert moments.exp_avg.keys() <= {n for n, _ in proxy.model.named_parameters()}
        assert state.mean_learning_rate == moments.mean_learning_rate > 0
        assert moments.step == read_moments(state.folder).step == state.step
    ends = [states[0].proxy(), states[-1].proxy()]
    assert ends[0].fingerprint() != ends[1].fingerprint()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading
def test_adapters_have_states_too(pool: Pool, tiny_proxy: Warmup, tmp_path: Path) -> None:
    adapted = WarmupSettings(model=str(tiny_proxy.out), context=16, batch_tokens=256, steps=4, checkpoints=2, lora=2)
    made = warmup(pool, tmp_path / "adapted", settings=adapted)
    first, last = (s.proxy() for s in checkpoints_of(of(made)))
    assert all(".lora_" in n for n in first.tracked)
    assert first.tracked == last.tracked
    weights = [p.model.get_submodule(f"model.{p.tracked[0]}").weight for p in (first, last)]
    assert not torch.equal(*weights)


def test_a_fingerprint_is_of_all_states(tiny_proxy: Warmup) -> None:
    states = checkpoints_of(of(tiny_proxy))
    assert fingerprint_of(states) == fingerprint_of(checkpoints_of(of(tiny_proxy)))
    assert fingerprint_of(states[:1]) != fingerprint_of(states)


def test_a_proxy_without_states_is_an_error_that_says_how_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="holds no checkpoints of its training") as error:
        checkpoints_of(ProxySettings(model=str(tmp_path)))
    assert "curate warmup --checkpoints" in str(error.value)
