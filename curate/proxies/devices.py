"""What devices can do: which there are, and how wide and how exactly they compute."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curate.errors import SettingsError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then MPS, then the CPU. Raises SettingsError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(name.split(":")[0])
    if available is not None and not available():
        raise SettingsError(f"device is {name!r}; this machine or build of torch has none.", hint="Use --device cpu.")
    device = torch.device(name)
    if device.type == "cuda":
        # Read when cuBLAS starts: sums in a fixed order, wherever they are asked for later.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if (device.index or 0) >= torch.cuda.device_count():
            raise SettingsError(f"device is {name!r}; there are {torch.cuda.device_count()} CUDA devices, from 0.")
        return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps", 0) if device.type == "mps" else device


def widest(device: torch.device) -> torch.dtype:
    """Return the widest type of floats: float64, or float32 on MPS, which has no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64


def refuse_wider(device: torch.device, **types: str) -> None:
    """Raise SettingsError for a setting that is a type of floats wider than the device's."""
    for name, value in types.items():
        if value == "float64" and widest(device) == torch.float32:
            raise SettingsError(
                f"{name} is 'float64'; {device.type.upper()} has no floats wider than float32.",
                hint="Use float32, or --device cpu.",
            )


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none."""
    return tensor.to("cpu" if widest(tensor.device) == torch.float32 else tensor.device).to(torch.float64)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for it: CUDA takes pinned memory while the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def on_host(tensor: Tensor) -> Tensor:
    """Return a copy in the host's memory to read back from: CUDA may still be filling it, so that only it may look."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def fetched(values: Tensor, *vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Copy a matrix and vectors of its height to the CPU at once: a GPU is waited for a single time."""
    if values.device.type == "cpu":
        return values, list(vectors)
    wide = torch.promote_types(values.dtype, torch.float32)
    block = torch.cat([values.to(wide), *(v.to(wide)[:, None] for v in vectors)], 1).cpu()
    return block[:, : values.shape[1]], list(block[:, values.shape[1] :].T)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Say whether every number of tensors on one device is finite; a GPU is waited for a single time."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let CUDA multiply float32 matrices as 'tf32', with 10 bits of their 23, or as 'float32', whole.

    Elsewhere products are whole. What holds outside is put back at the end, so that no caller decides for another.
    """
    matmul: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    allowed = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = allowed
