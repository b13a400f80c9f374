"""Length: the number of scored tokens, to see how much of a method's ranking is mere length.

Tokens beyond the context do not count when documents are truncated. Every target group has the same column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import Inputs
from curate.proxies.tokens import Encoded
from curate.settings import option, settings

NEEDS: frozenset[str] = frozenset()


@settings
class Settings:
    """Whether long or short documents score high."""

    prefer: Literal["long", "short"] = option(default="long", help="Which documents score high.")


@dataclass(frozen=True, kw_only=True)
class LengthScorer:
    """Count tokens."""

    sign: int
    columns: int

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's number of scored tokens, times the sign."""
        counts = torch.tensor([self.sign * e.num_scored for e in encoded], dtype=torch.float64)
        return Scored(scores=counts[:, None].expand(-1, self.columns))


def prepare(inputs: Inputs, settings: Settings) -> LengthScorer:
    """Return the scorer; the target decides only the number of columns."""
    return LengthScorer(sign=1 if settings.prefer == "long" else -1, columns=inputs.target.columns)
