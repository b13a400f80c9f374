import sys
from types import ModuleType

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.small_models import ARCHITECTURES


class _WideTorch(ModuleType):
    """torch, except that float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models in float64 stay there where they name float32 for a softmax or a norm, so that tests can be exact."""
    for architecture in ARCHITECTURES:
        model = AutoModelForCausalLM._model_mapping[getattr(transformers, architecture)]
        monkeypatch.setattr(sys.modules[model.__module__], "torch", _WideTorch("torch"))
