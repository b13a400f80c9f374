"""Finding the documents of a store whose gradients lie nearest to a text's."""

from collections.abc import Sequence
from pathlib import Path

from curate.progress import Reporter
from curate.schema import Document
from curate.stores.query import Hit, Searcher
from curate.stores.store import Store


def run(
    store: Store | Path | str,
    texts: Sequence[str | Document],
    k: int = 10,
    *,
    exact: bool = False,
    reporter: Reporter | None = None,
) -> list[list[Hit]]:
    """Return the `k` nearest documents of each text, the nearest first; for many calls open a Searcher once.

    `exact` looks at every document though the store has an approximate index. Raises CurateError when the store is not
    finished, or the proxy is not the one that it was indexed with.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    return Searcher.open(opened, exact=exact, reporter=reporter).query(texts, k)
