"""Every architecture is scored as autograd would have it, or refused for its true reason."""

from pathlib import Path

import pytest

from tests.architectures import TABLE, outcome

MEASURED = Path(__file__).parents[1] / "examples" / "measured" / "architectures.md"
FEW = ("falcon", "gemma2", "recurrent_gemma", "gemma3", "roberta", "t5", "llava")
FEW += ("mixtral", "jamba", "llama4_text", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss")
# Experts that are computed in ways of their own.
OWN_EXPERTS = ("jetmoe", "llama4_text")
REFUSED = {
    "encoder": "is not causal",
    "encoder-decoder": "is an encoder-decoder model",
    "llava": "transformers has no causal form of Llava",
    "modernbert-decoder": "does more between its last hidden state and its logits",
}


def check(name: str) -> None:
    kind, _ = TABLE[name]
    result = outcome(name)
    expected = REFUSED.get(name, REFUSED.get(kind))
    if expected is not None:
        assert expected in result.refusal
        return
    assert result.share, result.refusal
    assert not any("vision" in n for n in result.uncovered)
    if "mixture of experts" in kind:
        named = any(n.endswith(("_proj", "_linear.weight")) for n in result.uncovered)
        assert named == (name in OWN_EXPERTS), "experts that are not tracked are named"


@pytest.mark.parametrize("name", FEW)
def test_a_few_architectures_are_scored_or_refused(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TABLE if n not in FEW])
def test_every_other_architecture_is_scored_or_refused(name: str) -> None:
    check(name)


def test_the_table_of_measured_architectures_has_them_all() -> None:
    rows = [line.split("|")[1].strip() for line in MEASURED.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert rows[2:] == sorted(TABLE)
    assert len(TABLE) >= 60
