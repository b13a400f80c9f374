"""What a part's bytes depend on beside settings: the kind of device, library versions, the number of threads."""

import sys
from importlib.metadata import version


def kind_here() -> str:
    """Return this process's kind, once the work is open: `cpu AVX512, 1 thread, torch 2.9.0, transformers 5.1.0`."""
    if "torch" not in sys.modules:  # the work needs no model
        return f"cpu, numpy {version('numpy')}"
    import torch

    cuda = torch.cuda.is_initialized()
    device = torch.cuda.get_device_name() if cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}"
    threads = torch.get_num_threads()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}, {libraries}"
