"""Codecs of kept values: NumPy arrays and JSON. The codec of tensors has its own module, which needs torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol[T]):
    """Write and read values of one kind."""

    @property
    def suffix(self) -> str: ...
    def write(self, value: T, path: Path) -> object: ...
    def read(self, path: Path) -> T:
        """Read a value. Raises ValueError for a damaged file."""
        ...


@dataclass(frozen=True)
class _Arrays:
    suffix: str = ".npy"

    def write(self, value: np.ndarray, path: Path) -> None:
        with path.open("wb") as file:  # given a path, NumPy would add its suffix
            np.save(file, np.ascontiguousarray(value))

    def read(self, path: Path) -> np.ndarray:
        try:
            return np.load(path)
        except EOFError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class _Json:
    suffix: str = ".json"

    def write(self, value: Any, path: Path) -> None:
        path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8", newline="\n")

    def read(self, path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))


ARRAY: Codec[np.ndarray] = _Arrays()
JSON: Codec[Any] = _Json()
