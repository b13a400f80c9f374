"""Tensors in files; the one module of this room that needs torch."""

from dataclasses import dataclass
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
