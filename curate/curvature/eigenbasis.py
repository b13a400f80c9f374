"""Curvature that is diagonal in a Kronecker product of two orthogonal bases: what K-FAC, EK-FAC and Shampoo share.

H = (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ per layer; the three differ in where the bases and the eigenvalues come from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.covariances import Factors
from curate.gradients.directions import Directions
from curate.gradients.passes import Passes
from curate.gradients.per_document import PerDocument, Rotation
from curate.gradients.slices import by_kind
from curate.gradients.tables import TableGradients
from curate.progress import Reporter
from curate.proxies.devices import in_float64
from curate.proxies.proxy import Proxy
from curate.proxies.tables import counted_tables

Matrix = Float[Tensor, "_ _"]


def eigenvectors(moment: Matrix, name: str) -> tuple[Float[Tensor, "n"], Matrix]:
    """Return eigenvalues (float64, not negative) and eigenvectors (columns, as `moment`) of a symmetric matrix.

    In float64, on the CPU where the device has none. Raises CurateError where there is none.
    """
    wide = in_float64(moment)
    if not bool(wide.isfinite().all()):
        raise CurateError(f"The curvature of {name} overflows {moment.dtype}.", hint="Look for documents of huge loss.")
    try:
        values, vectors = torch.linalg.eigh(wide)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CurateError(f"The curvature of {name} has no eigenvectors: {error}.") from error
    return values.clamp_min(0), vectors.to(moment).contiguous()  # eigh gives columns


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return several groups of layers' tensors, as `fit` returns them, as those of one fit."""
    tensors = {name: tensor for part in parts for name, tensor in part.items()}
    factors = sorted(n.removeprefix("inputs/") for n in tensors if n.startswith("inputs/"))
    for part in parts:
        own = sorted(n.removeprefix("inputs/") for n in part if n.startswith("inputs/"))
        for name, index in part.items():
            if name.startswith("inputs_of/"):
                tensors[name] = torch.tensor(factors.index(own[int(index)]))
    return tensors


def into_eigenvectors(moments: Factors, reporter: Reporter) -> dict[str, Float[Tensor, "n"]]:
    """Replace each matrix by its eigenvectors, in place so that never both are held; return the eigenvalues."""
    spectra = {}
    with reporter.stage("eigenvectors", total=len(moments), unit="matrices") as task:
        for name in moments:
            spectra[name], moments[name] = eigenvectors(moments[name], name)
            task.advance(1)
    return spectra


@dataclass(frozen=True, kw_only=True)
class Bases:
    """Eigenvectors of both sides of every layer."""

    outputs: Factors
    """Of layers; a table has none, and its rows stay apart."""
    inputs: Factors
    """By leader: the first layer that sees the inputs; of a table, over its width."""
    leaders: Mapping[str, str]
    """Every layer's leader."""

    def tensors(self) -> dict[str, Tensor]:
        """Return both sides by name; what layers share is there once."""
        return by_kind(inputs=self.inputs, outputs=self.outputs)

    def rotations(self) -> dict[str, Rotation]:
        """Return both bases by layer."""
        return {n: Rotation(outputs=q, inputs=self.inputs[self.leaders[n]]) for n, q in self.outputs.items()}


class Squares:
    """Add up the squares of documents' gradients, entry by entry, in the basis that they arrive in."""

    def __init__(self, proxy: Proxy, leaders: Mapping[str, str], bases: Bases | None = None) -> None:
        rotations = None if bases is None else bases.rotations()
        tables = counted_tables(proxy)
        of_layers = {name: leader for name, leader in leaders.items() if name not in proxy.tables}
        whole = PerDocument(proxy, of_layers, self._add, rotations)
        self.taps, self.sums = whole.taps, whole.zeros()
        self.sums |= {t.name: torch.zeros(t.shape, dtype=whole.wide, device=whole.device) for t in tables}
        self._bases = {} if bases is None else bases.inputs

    def tensors(self) -> Factors:
        """Return the sums by layer."""
        return self.sums

    def _add(self, name: str, gradients: Float[Tensor, "documents d_out d_in"]) -> None:
        for gradient in gradients:
            self.sums[name].addcmul_(gradient, gradient)

    def add_tables(self, gradients: TableGradients) -> None:
        """Add the squares of a batch's gradients by every table."""
        for table in gradients.frozen.tables:
            for sequence in range(len(gradients.ids)):
                for rows, block in gradients.blocks(table, sequence, self._bases.get(table.name)):
                    self.sums[table.name][rows] += block.square()

    def mean(self, passes: Passes) -> Factors:
        """Return the mean over the samples of the pass."""
        return {name: total.div_(len(passes.samples)) for name, total in self.sums.items()}


def corrected_eigenvalues(passes: Passes, bases: Bases, number: int) -> Factors:
    """Return Λ = E_documents[(Q_Sᵀ (GᵀA) Q_A)²] of one pass (EK-FAC, George et al. 2018, arXiv 1806.03884, §3)."""
    return passes.run("eigenvalues", number, partial(_squares, bases.leaders), bases.tensors()).mean(passes)


def _squares(leaders: Mapping[str, str], proxy: Proxy, state: Mapping[str, Tensor]) -> Squares:
    parts = _by_kind({name: tensor.to(proxy.device) for name, tensor in state.items()})
    return Squares(proxy, leaders, Bases(outputs=parts["outputs"], inputs=parts["inputs"], leaders=leaders))


def to_tensors(bases: Bases, eigenvalues: Mapping[str, Matrix]) -> dict[str, Tensor]:
    """Return bases and eigenvalues as tensors by name for one file; bases that layers share are stored once."""
    factors = sorted(bases.inputs)
    tensors = bases.tensors()
    for name, leader in bases.leaders.items():
        tensors[f"eigenvalues/{name}"] = eigenvalues[name]
        tensors[f"inputs_of/{name}"] = torch.tensor(factors.index(leader))
    return tensors


@dataclass(frozen=True, kw_only=True)
class Eigenbasis:
    """A curvature in its eigenbasis, damped and ready to be inverted."""

    bases: Bases
    eigenvalues: Factors
    dampings: dict[str, float]
    """δ per layer, on the scale of its eigenvalues."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, damping: float = 0.1) -> "Eigenbasis":
        """Read what `fit` returned; δ = damping · mean(Λ) per layer."""
        parts = _by_kind(tensors)
        factors = sorted(parts["inputs"])
        leaders = {name: factors[int(index)] for name, index in parts["inputs_of"].items()}
        eigenvalues = parts["eigenvalues"]
        return cls(
            bases=Bases(outputs=parts["outputs"], inputs=parts["inputs"], leaders=leaders),
            eigenvalues=eigenvalues,
            dampings=mean_dampings(eigenvalues, damping),
        )

    def solve(self, directions: Directions) -> Directions:
        """Return Q_S [(Q_Sᵀ u Q_A) / (Λ + δ)] Q_Aᵀ per layer (Grosse et al. 2023, arXiv 2308.03296, §2.3).

        Where Λ + δ is 0 no background document has a gradient, and the solution is 0.
        """
        solutions = {}
        for name, u in directions.items():
            inputs = self.bases.inputs[self.bases.leaders[name]].to(u)
            damped = self.eigenvalues[name].to(u) + self.dampings[name]
            if name not in self.bases.outputs:
                solutions[name] = divide(u @ inputs, damped) @ inputs.T
                continue
            outputs = self.bases.outputs[name].to(u)
            solutions[name] = outputs @ divide(outputs.T @ u @ inputs, damped) @ inputs.T
        return solutions


def divide(numerator: Tensor, damped: Tensor) -> Tensor:
    """Return the quotient, 0 where the denominator is."""
    return torch.where(damped > 0, numerator / torch.where(damped > 0, damped, 1), 0)


def mean_dampings(eigenvalues: Mapping[str, Tensor], damping: float) -> dict[str, float]:
    """Return δ = damping · mean(Λ) per layer."""
    if not 0 <= damping < math.inf:
        raise SettingsError(f"damping is {damping}; expected a finite number, at least 0.")
    return {name: damping * float(values.double().mean()) for name, values in eigenvalues.items()}


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"inputs": {}, "outputs": {}, "eigenvalues": {}, "inputs_of": {}}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        parts[kind][name] = tensor
    return parts
