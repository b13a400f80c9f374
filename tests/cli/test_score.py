import pytest
from click.testing import CliRunner

from curate import methods
from curate.cli import group
from curate.errors import CurateError


@pytest.mark.parametrize("method", methods.names())
def test_every_method_takes_the_options_that_all_have(method: str) -> None:
    """The pool is looked for once the method's settings were built, whether or not it has a seed."""
    made = CliRunner().invoke(group, ["score", "--target", "nowhere", "--pool", "nowhere/", "--method", method])
    assert isinstance(made.exception, CurateError)
    assert "nowhere" in str(made.exception)
