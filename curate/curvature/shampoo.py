"""Eigenvalue-corrected Shampoo: EK-FAC with bases from whole document gradients instead of single tokens.

With D = GᵀA of a document, L = E[D Dᵀ] and R = E[DᵀD] give the bases (Gupta et al. 2018, arXiv 1802.09568), and a
second pass with fresh labels the eigenvalues, as for EK-FAC (SOAP's reading of it, Vyas et al. 2024, arXiv 2409.11321).
Gradients are those of documents, never of batches, so that batching cannot change the result.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from curate.curvature.eigenbasis import Bases, Eigenbasis, corrected_eigenvalues, into_eigenvectors, to_tensors
from curate.curvature.kfac import FIRST_PASS
from curate.gradients.passes import Passes
from curate.gradients.per_document import PerDocument
from curate.gradients.shared_inputs import input_leaders
from curate.gradients.slices import by_kind
from curate.gradients.tables import TableGradients
from curate.proxies.proxy import Proxy
from curate.proxies.tables import counted_tables

Shampoo = Eigenbasis
"""Read a fit by `Shampoo.of(tensors, damping=…)`."""


def fit(passes: Passes) -> dict[str, Tensor]:
    """Fit Shampoo by passes over a background.

    Returns tensors for one file, laid out as EK-FAC's. Raises CurateError when no document has a finite gradient.
    """
    sums = passes.run("factors", FIRST_PASS, _products)
    for factors in (sums.outputs, sums.inputs):
        for total in factors.values():
            total.div_(len(passes.samples))
        into_eigenvectors(factors, passes.reporter)
    # R depends on output gradients, too: layers with the same inputs do not share it.
    bases = Bases(outputs=sums.outputs, inputs=sums.inputs, leaders={name: name for name in sums.inputs})
    return to_tensors(bases, corrected_eigenvalues(passes, bases, FIRST_PASS + 1))


class _Products:
    """Add up D Dᵀ and DᵀD; of tables, whose rows stay apart, DᵀD alone."""

    def __init__(self, proxy: Proxy, leaders: Mapping[str, str]) -> None:
        whole = PerDocument(proxy, leaders, self._add)
        self.taps = whole.taps
        self.outputs = whole.zeros(lambda d_out, _: (d_out, d_out))
        self.inputs = whole.zeros(lambda _, d_in: (d_in, d_in))
        for table in counted_tables(proxy):
            width = table.shape[1]
            self.inputs[table.name] = torch.zeros(width, width, dtype=whole.wide, device=whole.device)

    def add_tables(self, gradients: TableGradients) -> None:
        for table in gradients.frozen.tables:
            for sequence in range(len(gradients.ids)):
                for _, block in gradients.blocks(table, sequence):
                    self.inputs[table.name].addmm_(block.T, block)

    def tensors(self) -> dict[str, Tensor]:
        """Return both sums by name."""
        return by_kind(inputs=self.inputs, outputs=self.outputs)

    def _add(self, name: str, gradients: Float[Tensor, "documents d_out d_in"]) -> None:
        for gradient in gradients:
            self.outputs[name].addmm_(gradient, gradient.T)
            self.inputs[name].addmm_(gradient.T, gradient)


def _products(proxy: Proxy, _: Mapping[str, Tensor]) -> _Products:
    return _Products(proxy, input_leaders(proxy))
