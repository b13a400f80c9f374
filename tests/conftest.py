import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS

if TYPE_CHECKING:
    from tests.s3 import S3


@pytest.fixture(scope="module")
def s3() -> Iterator["S3"]:
    """An S3 server with a bucket of its own for a module of tests."""
    from tests.s3 import serving  # here, so that tests without a server start without it

    with serving() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    """Start a small run by name, its settings changed."""

    def start(name: str = "run", **settings: Any) -> Run:
        return Run.start(tmp_path / name, settings={**SETTINGS, **settings}, fingerprints=FINGERPRINTS)

    return start


@pytest.fixture
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models in float64 stay there where they name float32 for a softmax or a norm, so that tests can be exact."""
    import torch  # here, so that tests of rooms without torch start without it
    import transformers

    from tests.small_models import ARCHITECTURES

    class WideTorch(ModuleType):
        float32 = torch.float64

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    for architecture in ARCHITECTURES:
        model = transformers.AutoModelForCausalLM._model_mapping[getattr(transformers, architecture)]
        monkeypatch.setattr(sys.modules[model.__module__], "torch", WideTorch("torch"))
