"""The uncentred second moment of sketches, layer by layer, and its damped inverse root (TrackStar's R)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.roots import ThinRoot, Whitening
from curate.gradients.sketches import Block
from curate.proxies.devices import in_float64

Moments = dict[str, Float[Tensor, "_ _"]]
"""A square matrix per layer."""

Spectra = dict[str, tuple[Float[Tensor, "k"], Float[Tensor, "n k"]]]
"""Eigenvalues and eigenvectors per layer; k < n where the others are zero."""

# Share of the mean eigenvalue below which an eigenvector of a sample is rounding.
_NOTHING = 1e-9


class SecondMoment:
    """Accumulate `R = E[s sᵀ]` per layer over the sketches of a background sample."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks, self.count = blocks, 0
        self.sums: Moments = {}
        """Σ s sᵀ per layer."""

    def update(self, values: Float[Tensor, "documents sketch"]) -> None:
        """Add documents; one whose sketch is not finite is left out."""
        values = values[torch.isfinite(values).all(1)]
        self.count += len(values)
        for block in self.blocks:
            part = values[:, block.start : block.stop]
            total = self.sums.get(block.name)
            self.sums[block.name] = part.T @ part if total is None else total.addmm_(part.T, part)

    def mean(self) -> Moments:
        """Return R per layer."""
        return {name: total / max(1, self.count) for name, total in self.sums.items()}


def inverse_roots(moments: Moments, *, damping: float) -> Whitening:
    """Return `(R + damping · mean eigenvalue)^(-1/2)` per layer, by eigendecomposition in float64.

    TrackStar (Chang et al. 2024, arXiv 2410.17413, §3.2 and appendix). The root is symmetric, so that applying it to
    both sides of a product is one damped solve. A layer whose sketches are all zero keeps them so.
    """
    roots = roots_of(decompose(moments), damping=damping)
    return {name: root.to(moments[name].device, moments[name].dtype) for name, root in roots.items()}


def decompose(moments: Moments) -> Spectra:
    """Return eigenvalues, not below zero, and eigenvectors per layer, in float64.

    On the CPU, wherever they were computed.
    """
    decompositions = {name: torch.linalg.eigh(in_float64(moment)) for name, moment in moments.items()}
    return {name: (values.clamp_min(0).cpu(), vectors.cpu()) for name, (values, vectors) in decompositions.items()}


def decompose_sample(
    sample: Float[Tensor, "documents n"], dtype: torch.dtype
) -> tuple[Float[Tensor, "k"], Float[Tensor, "n k"]]:
    """Return eigenvalues and eigenvectors of R = SᵀS / N of one layer from its sample S itself.

    With fewer documents than entries R has no more eigenvectors than documents: they come from the Gram matrix S Sᵀ,
    whose eigenvectors U give them as Sᵀ U (N λ)^(-1/2), and are kept in `dtype`. Else it is `decompose`, in float64.
    """
    documents, entries = sample.shape
    sample = sample.cpu().to(torch.float64)
    if documents >= entries:
        return decompose({"": sample.T @ sample / documents})[""]
    values, turn = torch.linalg.eigh(sample @ sample.T / documents)
    held = values > _NOTHING * values.sum().clamp_min(0) / entries
    values, turn = values[held], turn[:, held]
    return values, (sample.T @ (turn * (documents * values).rsqrt())).to(dtype)


def roots_of(spectra: Spectra, *, damping: float) -> Whitening:
    """Return the damped inverse roots of decomposed moments, in float64 on the CPU; see `inverse_roots`.

    The mean eigenvalue is that of all of them, whether or not zeros are left out.
    """
    roots: Whitening = {}
    for name, (eigenvalues, vectors) in spectra.items():
        if vectors.shape[1] < len(vectors):
            delta = damping * float(eigenvalues.sum()) / len(vectors)
            roots[name] = ThinRoot(damping=delta, eigenvalues=eigenvalues, vectors=vectors)
            continue
        damped = eigenvalues + damping * eigenvalues.mean()
        scale = torch.where(damped > 0, damped, torch.ones_like(damped)).rsqrt()
        roots[name] = (vectors * scale) @ vectors.T
    return roots


def mix(pool: Moments, target: Moments, share: float) -> Moments:
    """Return `share · R_target + (1 - share) · R_pool` per layer."""
    return {name: share * target[name] + (1 - share) * pool[name] for name in pool}


def mixing_share(pool: Float[Tensor, "n"], target: Float[Tensor, "n"], k: int) -> float:
    """Return the paper's λ = σ_pool[k] / (σ_target[k] + σ_pool[k]), k counted from 1, of two spectra.

    Directions that the target's gradients share among themselves are damped down to the pool's level from the k-th on
    (TrackStar, appendix on task-specific second moments).
    """
    k = min(max(1, k), len(pool), len(target)) - 1
    pool_value, target_value = pool.sort(descending=True).values[k], target.sort(descending=True).values[k]
    return float(pool_value / (target_value + pool_value)) if float(target_value + pool_value) > 0 else 0.0


def spectrum(moments: Moments) -> Float[Tensor, "n"]:
    """Return the eigenvalues of all layers together."""
    return torch.cat([torch.linalg.eigvalsh(in_float64(m)).cpu() for m in moments.values()])
