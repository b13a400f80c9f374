"""Asking a store: texts to gradients, gradients to the nearest documents, with what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch

from curate.errors import CurateError
from curate.gradients.documents import Batching, default_budget, document_sketches
from curate.gradients.sketches import SketchEngine
from curate.progress import Reporter
from curate.proxies.proxy import keep_freed_memory, load_proxy
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import ROW_FIELDS, Document
from curate.settings import changed, part_of
from curate.stores.approximate import Search, choose_search
from curate.stores.search import Found, Whitened
from curate.stores.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One document that was found."""

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
    """The pool's own."""


class Searcher:
    """A store with its proxy loaded: asks any number of questions."""

    def __init__(
        self, store: Store, encoder: Encoder, engine: SketchEngine, batching: Batching, search: Search
    ) -> None:
        self.store, self.encoder, self.engine, self.batching, self.search = store, encoder, engine, batching, search

    @classmethod
    def open(cls, store: Store, *, exact: bool = False, reporter: Reporter | None = None) -> "Searcher":
        """Load the proxy that a store was made with, and the store's index where it has one.

        Raises CurateError when the store is not finished or the proxy has changed.
        """
        store.require_finished()
        indexed = store.asked
        keep_freed_memory()
        # A store that was made on a GPU is asked on a laptop, too.
        proxy = load_proxy(changed(part_of(ProxySettings, indexed), device="auto"))
        store.refuse_other_model(proxy.fingerprint())
        tokens = TokenSettings(context=store.record.details.context, long=indexed.long)
        return cls(
            store,
            Encoder(proxy.tokenizer, tokens),
            SketchEngine(proxy, dim=indexed.dim, seed=indexed.seed),
            Batching(tokens=tokens, budget=indexed.batch_tokens or default_budget(proxy)),
            choose_search(Whitened(store, reporter), exact=exact),
        )

    def query(self, texts: Sequence[str | Document], k: int) -> list[list[Hit]]:
        """Return the `k` nearest documents of each text or document, the nearest first.

        Raises CurateError for one whose gradient says nothing: no scored token, or not finite.
        """
        if not texts:
            return []
        documents = [t if isinstance(t, Document) else _document(t, i) for i, t in enumerate(texts)]
        encoded = self.encoder(documents)
        for document, one in zip(documents, encoded, strict=True):
            if one.num_scored == 0:
                raise CurateError(
                    f"Query {document.row + 1} ({document.preview[:40]!r}) has no token that carries loss.",
                    hint="Give two words or more; of a prompt and its completion, the completion carries loss.",
                )
        values = torch.zeros(len(documents), self.engine.width)
        for found in document_sketches(self.engine, encoded, self.batching):
            values[list(found.documents)] = found.values.cpu().float()
        if not (finite := values.isfinite().all(1)).all():
            worst = documents[int(finite.logical_not().nonzero()[0])]
            raise CurateError(f"Query {worst.row + 1} ({worst.preview[:40]!r}) has no finite gradient.")
        return self._hits(self.search(self.search.whitened.units(values), k))

    def _hits(self, found: Found) -> list[list[Hit]]:
        whitened = self.search.whitened
        flat = found.positions.flatten()
        wanted = sorted({p for p in flat.tolist() if p >= 0})
        known: dict[int, dict[str, Any]] = {}
        for number, places in whitened.at(wanted).items():
            part = whitened.parts[number]
            positions = [wanted[i] for i in places]
            rows = [p - whitened.starts[number] for p in positions]
            table = pq.read_table(part.path).take(rows).to_pylist()
            for position, row, text in zip(positions, table, self.store.texts(part, rows), strict=True):
                known[position] = row | {"text": text}
        pairs = zip(found.cosines.tolist(), found.positions.tolist(), strict=True)
        return [
            [_hit(rank, c, known[p]) for rank, (c, p) in enumerate(zip(*each, strict=True), start=1) if p >= 0]
            for each in pairs
        ]


_OWN = {f.name for f in ROW_FIELDS}


def _hit(rank: int, cosine: float, row: dict[str, Any]) -> Hit:
    return Hit(
        rank=rank,
        score=cosine,
        doc_id=row["doc_id"],
        shard=row["shard"],
        row=row["row"],
        n_tokens=row["n_tokens"],
        text=row["text"],
        columns={k: v for k, v in row.items() if k not in _OWN | {"text"}},
    )


def _document(text: str, number: int) -> Document:
    return Document(doc_id=str(number), shard="query", row=number, content_hash="", text=text)
