"""Under tests the shapes and types in signatures are checked: `tests/conftest.py` says how."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from curate.gradients import directions, scoring, shared_inputs
from curate.gradients.scored import Scored


@jaxtyping.jaxtyped(typechecker=beartype)
def turned(x: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    return x.T


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: scoring.normalised(torch.ones(3)),
        lambda: scoring.normalised(torch.ones(3, 2, dtype=torch.int64)),
        lambda: directions._is_less_by_tokens(torch.ones(2, 3, 4), torch.ones(2, 5, 4)),  # one name, two sizes
        lambda: turned(torch.ones(2, 3)),  # what is returned
        lambda: shared_inputs.input_leaders("a model"),  # type: ignore[arg-type]
    ],
)
def test_what_a_signature_does_not_say_is_an_error(wrong: Callable[[], object]) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        wrong()


def test_a_field_of_another_shape_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Scored(scores=torch.ones(3))


def test_shapes_that_a_signature_says_pass() -> None:
    assert turned(torch.ones(2, 2)).shape == (2, 2)
