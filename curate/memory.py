"""How much memory this process has held at most."""

import resource
import sys
from pathlib import Path

import torch


def peak_resident() -> int:
    """Return this process's peak resident bytes. Linux hands the peak on to children; VmHWM is this process's own."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were held: on the GPU where the work is there, else by this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()
