import gc
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


CHECKED = ("curate.gradients", "curate.curvature", "curate.methods", "curate.stores")


class Beforehand:
    """Import torch just before the first package whose shapes are checked.

    Whatever else is imported while jaxtyping loads one of those is looked up under a bytecode name of jaxtyping's, and
    compiled anew.
    """

    def find_spec(self, name: str, *_: object) -> None:
        if name.startswith(CHECKED):
            sys.meta_path.remove(self)
            import polars  # noqa: F401
            import torch  # noqa: F401
            import transformers.modeling_utils  # noqa: F401


sys.meta_path.insert(0, Beforehand())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the garbage collector what lives to the end: the libraries, and thousands of tests."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or nanobind calls what is left at exit a leak


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
