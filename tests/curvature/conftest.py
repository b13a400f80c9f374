import pytest


@pytest.fixture(autouse=True)
def _exact(float64_throughout: None) -> None: ...
