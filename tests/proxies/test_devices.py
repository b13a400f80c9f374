"""What devices can do, and how results come back from them."""

import pytest
import torch

from curate.errors import SettingsError
from curate.proxies.devices import all_finite, fetched, on_host, refuse_wider


def test_floats_that_a_mac_has_not_are_refused_by_the_setting_that_wants_them() -> None:
    with pytest.raises(SettingsError, match="precision is 'float64'; MPS has no floats wider") as refused:
        refuse_wider(torch.device("mps"), precision="float64")
    assert "--device cpu" in str(refused.value)
    refuse_wider(torch.device("mps"), precision="float32", dtype="bfloat16")
    refuse_wider(torch.device("cpu"), precision="float64")


def test_one_number_that_is_not_finite_is_seen_among_all_tensors() -> None:
    tensors = [torch.ones(3), torch.zeros(2, 2)]
    assert all_finite(tensors)
    assert not all_finite([*tensors, torch.tensor([1.0, torch.inf])])
    assert not all_finite([torch.tensor([torch.nan]), *tensors])


def test_what_is_fetched_from_the_host_is_what_lies_there() -> None:
    values, vector = torch.rand(3, 2), torch.rand(3)
    assert fetched(values, vector)[0] is values
    assert fetched(values, vector)[1][0] is vector
    assert on_host(values) is values
