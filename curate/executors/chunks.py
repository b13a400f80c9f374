"""Encode the rows of a span: the chunk that methods score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.documents import Mark, Overlap
from curate.documents.stretches import START
from curate.errors import CurateError
from curate.folders.parts import Span
from curate.schema import Document, Skipped

if TYPE_CHECKING:
    from curate.proxies.tokens import Encoded, Encoder


@dataclass(frozen=True, kw_only=True)
class SpanRows:
    """The rows of a span as they were read."""

    span: Span
    rows: Sequence[Document | Skipped]
    end: Mark = START
    """Where reading may go on behind them."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The rows of a span, encoded."""

    span: Span
    documents: list[Document]
    encoded: "list[Encoded]"
    overlaps: list[tuple[bool, float]]
    """Per document: holds a whole target row; largest share of one target row's n-grams."""
    skipped: list[Skipped]


@dataclass(frozen=True, kw_only=True)
class ChunkEncoder:
    """Make chunks of rows: encode documents, measure overlaps, set aside documents without loss."""

    encoder: "Encoder"
    overlap: Overlap

    def __call__(self, span_rows: SpanRows) -> Chunk:
        """Return the chunk of a span's rows."""
        candidates, encoded, refused = self._encoded([row for row in span_rows.rows if isinstance(row, Document)])
        skipped = [*(row for row in span_rows.rows if isinstance(row, Skipped)), *refused]
        usable = [i for i, e in enumerate(encoded) if e.num_scored > 0]
        skipped += [_no_scored_token(d, e) for d, e in zip(candidates, encoded, strict=True) if not e.num_scored]
        return Chunk(
            span=span_rows.span,
            documents=[candidates[i] for i in usable],
            encoded=[encoded[i] for i in usable],
            overlaps=self.overlap.measure_all([candidates[i].plain_text for i in usable]),
            skipped=sorted(skipped, key=lambda s: s.row),
        )

    def _encoded(self, documents: list[Document]) -> "tuple[list[Document], list[Encoded], list[Skipped]]":
        """Encode documents; those that the model cannot read are set aside, each by itself."""
        try:
            return documents, self.encoder(documents), []
        except (CurateError, RecursionError, MemoryError) as error:
            if len(documents) == 1:
                (d,) = documents
                detail = error.message if isinstance(error, CurateError) else f"{type(error).__name__}: {error}"
                place = {"shard": d.shard, "row": d.row, "doc_id": d.doc_id}
                return [], [], [Skipped(**place, reason="unreadable by the model", detail=detail)]
        kept, encoded, refused = zip(*(self._encoded([d]) for d in documents), strict=True)
        return [d for ds in kept for d in ds], [e for es in encoded for e in es], [s for ss in refused for s in ss]


def _no_scored_token(document: Document, encoded: "Encoded") -> Skipped:
    """Return a skipped row with the reason: one token, only prompt within the context, a token that the model lacks, or
    a chat template's refusal.
    """
    detail = f"{len(encoded.ids)} token(s) within the context, none of them predicted and carrying loss"
    if encoded.truncated:
        detail += "; the row goes on beyond it: give a larger --context, or --long windows"
    return Skipped(
        shard=document.shard,
        row=document.row,
        doc_id=document.doc_id,
        reason="chat template"
        if encoded.refused
        else "token not in the model"
        if encoded.beyond
        else "no scored token",
        detail=encoded.refused or encoded.beyond or detail,
    )
