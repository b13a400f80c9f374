"""K-FAC: the curvature as a Kronecker product of the covariances of inputs and of output gradients.

H = c · S_cov ⊗ A_cov with A_cov = E[a aᵀ], S_cov = E[g gᵀ] over scored tokens and c the mean number of scored tokens of
a document, which puts it on the scale of a document's Fisher: of a sum over tokens, taken as independent (Martens &
Grosse 2015, arXiv 1503.05671; for sequences Eschenhagen et al. 2023, arXiv 2311.00636, "expand"). A routed expert's
tokens are those that it saw: over all tokens its two factors would count twice how rarely it is chosen.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from curate.curvature.eigenbasis import Bases, Eigenbasis, into_eigenvectors, to_tensors
from curate.gradients.covariances import Covariances
from curate.gradients.passes import Passes
from curate.gradients.shared_inputs import input_leaders
from curate.proxies.proxy import Proxy

Kfac = Eigenbasis
"""Read a fit by `Kfac.of(tensors, damping=…)`."""
FIRST_PASS = 1
Spectra = tuple[dict[str, Float[Tensor, "d_out"]], dict[str, Float[Tensor, "d_in"]]]


def fit(passes: Passes) -> dict[str, Tensor]:
    """Fit K-FAC by passes over a background.

    Returns tensors for one file, laid out as EK-FAC's. Raises CurateError when no document has a finite gradient.
    """
    bases, (outputs, inputs), tokens = kronecker_bases(passes)
    eigenvalues = {
        name: torch.outer(outputs[name] * (tokens[name] / len(passes.samples)), inputs[leader]).to(bases.outputs[name])
        for name, leader in bases.leaders.items()
    }
    return to_tensors(bases, eigenvalues)


def kronecker_bases(passes: Passes) -> tuple[Bases, Spectra, dict[str, int]]:
    """Return the eigenvectors of S_cov and A_cov from one pass, their eigenvalues, and how many tokens they are of.

    Those are all scored tokens; for an expert, the ones that it saw.
    """
    sums = passes.run("factors", FIRST_PASS, _covariances)
    tokens = sums.tokens(passes.num_scored)
    for factors in (sums.outputs, sums.inputs):
        for name, total in factors.items():
            total.div_(max(1, tokens[name]))
    bases = Bases(outputs=sums.outputs, inputs=sums.inputs, leaders=sums.leaders)
    outputs = into_eigenvectors(bases.outputs, passes.reporter)
    return bases, (outputs, into_eigenvectors(bases.inputs, passes.reporter)), tokens


def _covariances(proxy: Proxy, _: Mapping[str, Tensor]) -> Covariances:
    return Covariances(proxy, input_leaders(proxy))
