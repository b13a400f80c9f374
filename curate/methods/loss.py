"""Loss: the proxy's mean loss per scored token (the logarithm of its perplexity), by a forward pass alone.

Which end is better is disputed: filters of web text keep what a model of good text finds likely
(CCNet, arXiv 1911.00359), while pruning by perplexity did best in the middle or at the top (Marion et al. 2023, arXiv
2309.04564; Ankner et al. 2024, arXiv 2405.20541). The default is the customary one, low loss → high score, so the score
is minus the loss; `prefer=high` turns it round. Every target group has the same column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from curate.gradients.documents import Batching, document_losses
from curate.gradients.frozen import FrozenPass
from curate.gradients.scored import Scored
from curate.methods.contract import Inputs
from curate.proxies.tokens import Encoded
from curate.settings import option, settings


@settings
class Settings:
    """Whether low or high losses score high."""

    prefer: Literal["low", "high"] = option(default="low", help="Which losses score high.")


@dataclass(frozen=True, kw_only=True)
class LossScorer:
    """Run the proxy forward and average."""

    frozen: FrozenPass
    sign: int
    columns: int

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's mean loss, times the sign, and its summed loss; windows of one document add up."""
        losses = document_losses(self.frozen, encoded, batching)
        counts = torch.tensor([max(1, e.num_scored) for e in encoded])
        scores = self.sign * losses / counts
        return Scored(scores=scores[:, None].expand(-1, self.columns), losses=losses)


def prepare(inputs: Inputs, settings: Settings) -> LossScorer:
    """Return the scorer; the target decides only the number of columns."""
    sign = -1 if settings.prefer == "low" else 1
    return LossScorer(frozen=FrozenPass(inputs.proxy), sign=sign, columns=inputs.target.columns)
