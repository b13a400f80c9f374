"""The contract of what is trained: losses, gradients and Hessian products, for the replay and its adjoint."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from curate.training.microbatches import MicroBatch
from curate.training.optimisers import Tensors


@runtime_checkable
class Differentiable(Protocol):
    """A loss per token as a function of parameters that are handed in; it holds no state that training changes.

    `coefficients` weigh the tokens' losses: the objective of one micro-batch is their weighted sum.
    """

    matrices: frozenset[str]
    """Parameters that are weights of linear layers, which Muon treats differently."""

    def parameters(self) -> Tensors:
        """Return what training starts from, by name."""
        ...

    def gradients(
        self, parameters: Tensors, batch: MicroBatch, coefficients: Float[Tensor, "sequences tokens"]
    ) -> tuple[Float[Tensor, "sequences tokens"], Tensors]:
        """Return every token's loss, and the objective's gradient."""
        ...

    def products(
        self,
        parameters: Tensors,
        directions: Tensors,
        batch: MicroBatch,
        coefficients: Float[Tensor, "sequences tokens"],
    ) -> tuple[Float[Tensor, "sequences tokens"], Tensors]:
        """Return every token's slope ⟨∇ℓ_t, u⟩ along the directions u, and the objective's Hessian times u."""
        ...

    def slopes(self, parameters: Tensors, directions: Tensors, batch: MicroBatch) -> Float[Tensor, "sequences tokens"]:
        """Return every token's slope alone."""
        ...
