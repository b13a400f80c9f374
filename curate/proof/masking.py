"""Documents of which some tokens alone carry loss: those that a selection chose, or as many at random."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from curate.documents import BadRow, Fields, open_pool, rows
from curate.documents.records import DocumentMaker
from curate.errors import CurateError
from curate.proof.selection import Selected
from curate.proxies.placed import placed
from curate.proxies.tokens import Encoded, Encoder
from curate.schema import Document
from curate.selection.formats import SPLIT
from curate.selection.labels import overlapping, stretches_of
from curate.selection.token_columns import SPANS, TEXT


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A document with the spans of its text that carry loss."""

    document: Document
    spans: list[list[int]]
    text: str | None
    """The text that the spans are of, where it is not simply the document's."""
    seed: int | None = None
    """Of the draw of as many of its tokens at random; None: the tokens of the spans."""

    def encoded(self, encoder: Encoder) -> Encoded:
        """Return the document's tokens; those that carry loss are scored. Raises CurateError for another text."""
        (encoded,) = encoder([self.document])
        (whole,) = placed(encoder, [self.document])
        if self.text not in (None, whole.text):
            raise CurateError(
                f"{self.document.shard}, row {self.document.row} is written otherwise by this model's chat template.",
                hint="Verify with the proxy that the selection's run was scored by.",
            )
        chosen = overlapping(stretches_of(whole.offsets), self.spans)[: len(encoded.ids)] & encoded.scored
        return replace(encoded, scored=chosen if self.seed is None else self._drawn(encoded.scored, chosen.sum()))

    def _drawn(self, scored: np.ndarray, count: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed or 0, int(self.document.content_hash[:16], 16)])
        drawn = np.zeros(len(scored), bool)
        drawn[rng.choice(np.flatnonzero(scored), count, replace=False)] = True
        return drawn


def chosen_tokens(selected: Selected, fields: Fields, seed: int | None = None) -> Iterator[Masked]:
    """Yield the documents of a selection of tokens; with a seed as many random tokens of each."""
    names = selected.manifest["token_columns"]
    for shard in open_pool(selected.folder.child(SPLIT).address).shards:
        made = DocumentMaker(shard.name, fields)
        for number, row in rows(shard):
            document = made(number, row)
            if not isinstance(row, BadRow) and isinstance(document, Document):
                text = row[names[TEXT]] if TEXT in names else None
                yield Masked(document=document, spans=row[names[SPANS]], text=text, seed=seed)
