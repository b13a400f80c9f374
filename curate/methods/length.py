"""Length: the number of scored tokens, to see how much of a method's ranking is nothing but length.

Tokens beyond the context do not count when documents are truncated. Every target group has the same column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curate.errors import SettingsError
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import Inputs
from curate.proxies.tokens import Encoded

NEEDS: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which end of the lengths scores high."""

    prefer: str = "long"
    """'long' or 'short'."""

    def __post_init__(self) -> None:
        if self.prefer not in ("long", "short"):
            raise SettingsError(f"prefer is {self.prefer!r}; expected 'long' or 'short'.")


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
    """Return the scorer; the target gives nothing but the number of columns."""
    return LengthScorer(sign=1 if settings.prefer == "long" else -1, columns=inputs.target.columns)
