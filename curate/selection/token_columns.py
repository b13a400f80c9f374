"""The columns that chosen tokens have in a dump, and their figures."""

from dataclasses import dataclass

SPANS, TEXT, IDS, LABELS = "spans", "text_of_spans", "input_ids", "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFigures:
    """What became of the tokens of the documents that filters left."""

    candidates: int
    """Tokens that could be chosen."""
    chosen: int
    text_column: str
    """The column of the text that `spans` are of."""
    tokenizer: str | None
    """The address of another tokenizer than the proxy's that `input_ids` and `labels` are of."""
    carrying_loss: int
    """Tokens whose label is read, as `labels` has them; before anything is written, the chosen ones."""
    tokens: int
    """All tokens of the documents, as `input_ids` has them; before anything is written, the proxy's."""
