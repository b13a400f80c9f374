"""Query a store: texts to gradients, gradients to the nearest documents with their columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch

from curate.errors import CurateError
from curate.gradients.documents import Batching, make_room
from curate.methods.contract import Sketcher
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.progress import Reporter
from curate.proxies.proxy import keep_freed_memory, load_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import ROW_FIELDS, Document
from curate.settings import changed, part_of
from curate.stores.approximate import Search, choose_search
from curate.stores.indexing import sketcher_of
from curate.stores.search import Nearest, Whitened
from curate.stores.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One document near a query."""

    rank: int
    """From 1."""
    score: float
    """Cosine of whitened gradients: above 0, training on the document lowers the query's loss."""
    doc_id: str
    shard: str
    row: int
    n_tokens: int
    text: str
    columns: Mapping[str, Any]
    """The pool's own columns."""


class Searcher:
    """A store with its proxy loaded, for any number of queries."""

    def __init__(self, store: Store, encoder: Encoder, sketcher: Sketcher, batching: Batching, search: Search) -> None:
        self.store, self.encoder, self.sketcher = store, encoder, sketcher
        self.batching, self.search = batching, search

    @classmethod
    def open(cls, store: Store, *, exact: bool = False, reporter: Reporter | None = None) -> "Searcher":
        """Load the proxy that a store was made with, and the store's index where it has one.

        Raises CurateError when the store is not finished or the proxy has changed.
        """
        store.require_finished()
        indexed = store.settings
        keep_freed_memory()
        # A store that was made on a GPU can be queried on a laptop.
        proxy = load_proxy(changed(part_of(ProxySettings, indexed), device="auto"))
        checkpoints = needed_checkpoints(indexed.method, proxy)
        store.refuse_other_model(fingerprints_of(proxy, checkpoints))
        tokens = TokenSettings(context=store.record.details.context, long=indexed.long, vocabulary=proxy.vocabulary)
        return cls(
            store,
            Encoder(proxy.tokenizer, tokens),
            sketcher_of(indexed, proxy, checkpoints),
            Batching(tokens=tokens, room=make_room(proxy, indexed.batch_tokens)),
            choose_search(Whitened(store, reporter), exact=exact),
        )

    def query(self, texts: Sequence[str | Document], k: int) -> list[list[Hit]]:
        """Return the `k` nearest documents of each text or document, the nearest first.

        Raises CurateError for a query without a scored token or a finite gradient.
        """
        if not texts:
            return []
        documents = [t if isinstance(t, Document) else _document(t, i) for i, t in enumerate(texts)]
        encoded = self.encoder(documents)
        for document, document_tokens in zip(documents, encoded, strict=True):
            if document_tokens.num_scored == 0:
                raise CurateError(
                    f"Query {document.row + 1} ({document.preview[:40]!r}) has no token that carries loss.",
                    hint="Give two words or more; of a prompt and its completion, the completion carries loss.",
                )
        values = torch.zeros(len(documents), self.store.storage.width)
        for batch in self.sketcher.queries(encoded, self.batching):
            values[list(batch.documents)] = batch.values.cpu().float()
        if not (finite := values.isfinite().all(1)).all():
            document = documents[int(finite.logical_not().nonzero()[0])]
            raise CurateError(f"Query {document.row + 1} ({document.preview[:40]!r}) has no finite gradient.")
        return self._hits(self.search(self.search.whitened.units(values), k))

    def _hits(self, nearest: Nearest) -> list[list[Hit]]:
        whitened = self.search.whitened
        flat = nearest.positions.flatten()
        found_positions = sorted({p for p in flat.tolist() if p >= 0})
        rows: dict[int, dict[str, Any]] = {}
        for number, indices in whitened.at(found_positions).items():
            part = whitened.parts[number]
            positions = [found_positions[i] for i in indices]
            numbers = [p - whitened.starts[number] for p in positions]
            table = pq.read_table(part.path).take(numbers).to_pylist()
            for position, row, text in zip(positions, table, self.store.texts(part, numbers), strict=True):
                rows[position] = row | {"text": text}
        queries = zip(nearest.cosines.tolist(), nearest.positions.tolist(), strict=True)
        return [
            [_hit(rank, c, rows[p]) for rank, (c, p) in enumerate(zip(*hits, strict=True), start=1) if p >= 0]
            for hits in queries
        ]


_ROW_NAMES = {f.name for f in ROW_FIELDS}


def _hit(rank: int, cosine: float, row: dict[str, Any]) -> Hit:
    return Hit(
        rank=rank,
        score=cosine,
        doc_id=row["doc_id"],
        shard=row["shard"],
        row=row["row"],
        n_tokens=row["n_tokens"],
        text=row["text"],
        columns={k: v for k, v in row.items() if k not in _ROW_NAMES | {"text"}},
    )


def _document(text: str, number: int) -> Document:
    return Document(doc_id=str(number), shard="query", row=number, content_hash="", text=text)
