"""K-FAC: the curvature as a Kronecker product of the covariances of inputs and of output gradients.

H = c · S_cov ⊗ A_cov with A_cov = E[a aᵀ], S_cov = E[g gᵀ] over scored tokens and c the mean number of scored tokens of
a document, which puts it on the scale of a document's Fisher: of a sum over tokens, taken as independent (Martens &
Grosse 2015, arXiv 1503.05671; for sequences Eschenhagen et al. 2023, arXiv 2311.00636, "expand"). A routed expert's
tokens are those that it saw: over all tokens its two factors would count twice how rarely it is chosen.

Of a table one side is diagonal over the vocabulary. At the embedding the inputs are one token each, so that their
covariance is diagonal as it is, and S_cov is over all tokens whose gradient is not 0; at the head the diagonal of S_cov
stands for it. A matrix that is both has the sum of the two curvatures, whose row v is Σ_sites c · s_v · cov; its basis
are the eigenvectors of the rows' sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.curvature.eigenbasis import Bases, Eigenbasis, into_eigenvectors, to_tensors
from curate.gradients.covariances import Covariances, Factors
from curate.gradients.passes import Passes
from curate.gradients.shared_inputs import input_leaders
from curate.gradients.tables import Sides
from curate.proxies.proxy import Proxy

Kfac = Eigenbasis
"""Read a fit by `Kfac.of(tensors, damping=…)`."""
FIRST_PASS = 1


@dataclass(frozen=True, kw_only=True)
class Kronecker:
    """The eigenvectors of both factors of every layer, and what K-FAC takes for eigenvalues."""

    bases: Bases
    outputs: Mapping[str, Float[Tensor, "d_out"]]
    """Eigenvalues of S_cov."""
    inputs: Mapping[str, Float[Tensor, "d_in"]]
    """Eigenvalues of A_cov, by leader."""
    tokens: Mapping[str, int]
    """Tokens that the covariances are of: all scored ones; for an expert, those that it saw."""
    tables: Factors
    """Eigenvalues of the tables, on the scale of a document."""


def fit(passes: Passes) -> dict[str, Tensor]:
    """Fit K-FAC by passes over a background.

    Returns tensors for one file, laid out as EK-FAC's. Raises CurateError when no document has a finite gradient.
    """
    factors = kronecker(passes)
    documents = len(passes.samples)
    eigenvalues = {
        name: torch.outer(
            factors.outputs[name] * (factors.tokens[name] / documents), factors.inputs[factors.bases.leaders[name]]
        ).to(basis)
        for name, basis in factors.bases.outputs.items()
    }
    return to_tensors(factors.bases, eigenvalues | factors.tables)


def kronecker(passes: Passes) -> Kronecker:
    """Return both factors' eigenvectors and eigenvalues from one pass."""
    sums = passes.run("factors", FIRST_PASS, _covariances)
    tokens = sums.tokens(passes.num_scored)
    for factors in (sums.outputs, sums.inputs):
        for name, total in factors.items():
            total.div_(max(1, tokens[name]))
    moments = {name: _moments(sides, passes) for name, sides in sums.sides.items()}
    leaders = {**sums.leaders, **{name: name for name in moments}}
    bases = Bases(outputs=sums.outputs, inputs=sums.inputs, leaders=leaders)
    bases.inputs.update({name: _added([rows.sum() * c for rows, c in sites]) for name, sites in moments.items()})
    outputs = into_eigenvectors(bases.outputs, passes.reporter)
    inputs = into_eigenvectors(bases.inputs, passes.reporter)
    tables = {
        name: _added([torch.outer(rows, _along(c, bases.inputs[name])) for rows, c in sites])
        for name, sites in moments.items()
    }
    return Kronecker(bases=bases, outputs=outputs, inputs=inputs, tokens=tokens, tables=tables)


def _moments(sides: Sides, passes: Passes) -> list[tuple[Float[Tensor, "vocabulary"], Float[Tensor, "width width"]]]:
    """Return the diagonal c · s and the covariance of a table at the head, and at the embedding."""
    (head_rows, counts), (head, embedded) = sides.rows, sides.columns
    documents, read = len(passes.samples), max(1.0, float(counts.sum()))
    return [(head_rows / documents, head / passes.num_scored), (counts / documents, embedded / read)]


def _added(of_sites: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(of_sites)).sum(0)


def _along(covariance: Float[Tensor, "d d"], basis: Float[Tensor, "d d"]) -> Float[Tensor, "d"]:
    """Return the diagonal of Qᵀ C Q, not negative."""
    return torch.linalg.vecdot(basis.T, (covariance @ basis).T).clamp_min(0)


def _covariances(proxy: Proxy, _: Mapping[str, Tensor]) -> Covariances:
    return Covariances(proxy, input_leaders(proxy))
