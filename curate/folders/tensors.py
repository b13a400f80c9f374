"""Tensors in files; the one module of this room that needs torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.folders.codecs import Codec


@dataclass(frozen=True)
class _Tensors:
    suffix: str = ".safetensors"

    def write(self, value: dict[str, Tensor], path: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in value.items()}, path)

    def read(self, path: Path) -> dict[str, Tensor]:
        try:
            # Copies, since a file's tensors lie wherever they fell, and BLAS rounds differently by alignment.
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error


TENSORS: Codec[dict[str, Tensor]] = _Tensors()


@dataclass(frozen=True)
class OnDisk(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is taken."""

    path: Path

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.sizes:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Entries by name, as the file's header has them."""
        with safe_open(self.path, framework="pt") as file:
            names: list[str] = list(file.keys())
            return {name: prod(file.get_slice(name).get_shape()) for name in names}


@dataclass(frozen=True)
class _OnDisk:
    suffix: str = ".safetensors"

    def write(self, value: Mapping[str, Tensor], path: Path) -> None:
        TENSORS.write(dict(value), path)

    def read(self, path: Path) -> OnDisk:
        try:
            on_disk = OnDisk(path)
            _ = on_disk.sizes
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return on_disk


TENSORS_ON_DISK: Codec[Mapping[str, Tensor]] = _OnDisk()
