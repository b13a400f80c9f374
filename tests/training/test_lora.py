from typing import Any

import pytest

from curate.errors import SettingsError
from curate.training.lora import Lora, parse_lora
from curate.training.settings import WarmupSettings


@pytest.mark.parametrize(
    "given",
    [
        "r=8,alpha=16,dropout=0.1,targets=q_proj+v_proj",
        " targets = q_proj + v_proj, r = 8, dropout=.1",
        {"r": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj"]},
        Lora(r=8, alpha=16, dropout=0.1, targets=("q_proj", "v_proj")),
    ],
)
def test_adapters_are_the_same_as_text_names_and_values_or_an_object(given: Any):
    lora = WarmupSettings(model="m", lora=given).lora
    assert lora is not None
    assert (lora.r, lora.scale, lora.dropout, lora.targets) == (8, 16, 0.1, ("q_proj", "v_proj"))


@pytest.mark.parametrize("given", [4, "4", "r=4", {"r": "4"}])
def test_a_rank_alone_has_twice_itself_as_alpha_and_every_layer_as_target(given: Any):
    lora = parse_lora(given)
    assert (lora.r, lora.scale, lora.dropout, lora.targets) == (4, 8, 0, ())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("r=0", "lora: r is '0'; expected at least 1"),
        ("some", "lora: r is 'some'; expected a whole number, the rank, or names with their values.\nAs in r=8"),
        ("r=8,dropout=1", "lora: dropout is '1'; expected at least 0 and less than 1"),
        ("r=8,alpha=-2", "lora: alpha is '-2'; expected above 0"),
        ("r=8,alhpa=2", "lora has no setting 'alhpa'.\nDid you mean 'alpha'?"),
        ("r=8,q_proj", "lora: 'q_proj' is no NAME=VALUE"),
        ("r=8,targets=", "lora: 'targets=' is no NAME=VALUE"),
        ("r=8,targets=q_proj+", "lora: targets is ''; expected a word"),
        ("r=8,r=9", "lora: r is given twice"),
        ("alpha=16", "lora: r, the rank, is missing in 'alpha=16'"),
        ({"alpha": 16}, "lora: r is missing"),
    ],
)
def test_a_bad_part_is_named(given: Any, said: str):
    with pytest.raises(SettingsError) as caught:
        WarmupSettings(model="m", lora=given)
    assert said in str(caught.value)
