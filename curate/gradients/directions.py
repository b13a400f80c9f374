"""Directional derivatives ⟨u, ∇ℓ_z⟩ of every document along a few directions: exact, nothing projected or formed.

For a linear layer with inputs A `[tokens, d_in]` (a ones column appended where it has a bias) and output gradients G
`[tokens, d_out]` the document's gradient is GᵀA, and its product with a direction U is Σ_t g_tᵀ U a_t: one product more
than the frozen pass already makes, and never anything of a document's size d_out × d_in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.frozen import FrozenPass
from curate.gradients.linear import linear, tapped
from curate.models import Proxy
from curate.tokens import TokenBatch

Directions = dict[str, Float[Tensor, "directions d_out d_in"]]
"""By tracked layer; d_in counts a last column more where the layer has a bias."""
