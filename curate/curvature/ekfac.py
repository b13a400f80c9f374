"""EK-FAC: Kronecker factors' eigenvectors with eigenvalues corrected to the documents' own second moments.

Two passes over the background, fresh labels in each: A_cov = E[a aᵀ] and S_cov = E[g gᵀ] over scored tokens give the
bases, then Λ = E_documents[(Q_Sᵀ (GᵀA) Q_A)²] the eigenvalues (Grosse et al. 2023, arXiv 2308.03296; George et al.
2018, arXiv 1806.03884).
"""

from torch import Tensor

from curate.curvature.eigenbasis import Eigenbasis, corrected_eigenvalues, to_tensors
from curate.curvature.kfac import FIRST_PASS, kronecker
from curate.gradients.passes import Passes

Ekfac = Eigenbasis
"""Read a fit by `Ekfac.of(tensors, damping=…)`."""


def fit(passes: Passes) -> dict[str, Tensor]:
    """Fit EK-FAC by passes over a background.

    Returns tensors for one file. Raises CurateError when no document has a finite gradient.
    """
    bases = kronecker(passes).bases
    return to_tensors(bases, corrected_eigenvalues(passes, bases, FIRST_PASS + 1))
