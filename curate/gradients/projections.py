"""Random projections that are the same on every device, batch layout and day.

Entries ±1/√p come from Philox, a counter-based generator, keyed by the layer's name, its side and the seed; they are
drawn on the CPU and sent to the device. Rows are never normalised: that would weigh layers by their shape.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def projection(name: str, side: str, width: int, dim: int, seed: int) -> Float[Tensor, "width dim"] | None:
    """Return a Rademacher projection with `E[P Pᵀ] = I`, or None (the identity) when `width <= dim`.

    `E⟨Px, Py⟩ = ⟨x, y⟩`; float64, so that the caller's cast is the only rounding.
    """
    if width <= dim:
        return None
    digest = hashlib.blake2b(f"{seed}\0{side}\0{name}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(digest, "little"))
    words = generator.random_raw((width * dim + 63) // 64)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=width * dim)
    signs = bits.astype(np.float64).reshape(width, dim) * 2 - 1
    return torch.from_numpy(signs / np.sqrt(dim))
