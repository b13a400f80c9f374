"""How much of a text its teacher read, and how many tokens it has, without a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_USUAL = 0.25  # tokens per character of English, where nothing tells


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What documents of known length say about texts."""

    per_character: float
    """Tokens, of the documents in the middle."""
    lowest: float
    highest: float
    """Tokens per character that are believed of a text."""
    most_tokens: int | None
    """Of a document that are read; None: all."""

    @classmethod
    def of(cls, texts: Sequence[str], tokens: np.ndarray, truncated: np.ndarray, most_tokens: int | None) -> "Lengths":
        """Learn from texts whose tokens were counted; `tokens` of one that was truncated are those that were read."""
        if most_tokens is not None and truncated.any():
            most_tokens = int(tokens[truncated].max())
        rates = (tokens / np.array([max(1, len(t)) for t in texts]))[~truncated]
        low, middle, high = np.quantile(rates, (0.01, 0.5, 0.99)) if len(rates) else (_USUAL,) * 3
        return cls(per_character=float(middle), lowest=float(low), highest=float(high), most_tokens=most_tokens)

    def read(self, text: str) -> str:
        """Return what is read of a text, about as much as the teacher read."""
        return text if self.most_tokens is None else text[: round(self.most_tokens / max(self.per_character, 1e-3))]

    def count(self, rates: np.ndarray, characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens that are read, and whether there are more, of whole texts at `rates` tokens per character."""
        tokens = np.maximum(1, np.rint(np.clip(rates, self.lowest, self.highest) * characters)).astype(np.int64)
        if self.most_tokens is None:
            return tokens, np.zeros(len(tokens), bool)
        return np.minimum(tokens, self.most_tokens), tokens > self.most_tokens
