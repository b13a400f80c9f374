from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    def start(name: str = "run", **settings: Any) -> Run:
        return Run.start(tmp_path / name, settings={**SETTINGS, **settings}, fingerprints=FINGERPRINTS)

    return start
