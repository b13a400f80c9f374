"""How much memory there is, how much was held at most, and when it is out."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# What `peak_of` reset, by device.
_highest: dict[torch.device, int] = {}


def peak_resident() -> int:
    """Return this process's peak resident bytes. Linux hands the peak on to children; VmHWM is this process's own."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were held: on the GPU where the work is there, else by this process."""
    if device.type == "cuda":
        return max(torch.cuda.max_memory_allocated(device), _highest.get(device, 0))
    return torch.mps.driver_allocated_memory() if device.type == "mps" else peak_resident()


def held_bytes(device: torch.device) -> int:
    """Return the bytes that tensors on a GPU hold now; 0 for a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def release_memory(device: torch.device) -> None:
    """Give what torch holds and nobody uses back to the device."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that tensors can still have on a device; None for a CPU, whose memory is everybody's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return None


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process can still have on a device, now; of a CPU's memory, what Linux says is left.

    None where nothing says so.
    """
    if device.type != "cpu":
        return free_bytes(device)
    left = [*_available_of_machine(), *_available_of_group()]
    return min(left) if left else None


def _available_of_machine() -> Iterator[int]:
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield from (int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))


def _available_of_group() -> Iterator[int]:
    """Yield what a container leaves (control groups, version 2)."""
    most, now = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if most.exists() and now.exists() and (limit := most.read_text().strip()) != "max":
        yield max(0, int(limit) - int(now.read_text()))


@contextmanager
def peak_of(device: torch.device) -> Iterator[list[int]]:
    """Append the most bytes that were held in a block beyond those held before; nothing for a CPU."""
    held: list[int] = []
    if device.type == "cuda":
        _highest[device] = max(torch.cuda.max_memory_allocated(device), _highest.get(device, 0))
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield held
        held.append(torch.cuda.max_memory_allocated(device) - before)
    elif device.type == "mps":
        torch.mps.empty_cache()  # what the driver holds grows to the most that was needed, and stays
        before = torch.mps.current_allocated_memory()
        yield held
        held.append(torch.mps.driver_allocated_memory() - before)
    else:
        yield held
