"""The arms of a comparison: which documents each trains on, and where they come from."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curate.documents import Fields, Pool, documents, open_pool
from curate.folders.folder import Folder, put_text
from curate.proof.masking import Masked
from curate.proof.spool import key_of
from curate.schema import Document
from curate.scores.run import Run
from curate.selection.dump import MANIFEST
from curate.selection.formats import SPLIT
from curate.selection.ranking import SCORE, Ranking, is_summed
from curate.selection.select import select

SELECTION, ALL, SWEPT = "selection", "all", "top "
RANDOM_TOKENS, BEST_DOCUMENTS = "random tokens", "best documents"
"""Beside a selection of tokens: random ones of its documents, and whole documents of as many tokens."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of choosing documents."""

    name: str
    key: str
    """A hash of all that decides which documents they are."""
    times: float = 1.0
    """Its budget of tokens as a multiple of the others'."""
    per_seed: bool = False
    """Whether every seed has documents of its own, not only an order."""
    documents: Callable[[int], Iterable[Document | Masked]]
    """Returns the documents of a seed."""


def selected_documents(folder: Folder, fields: Fields) -> Iterator[Document]:
    """Yield the documents of a selection on disk."""
    for shard in open_pool(folder.child(SPLIT).address).shards:
        for row in documents(shard, fields):
            if isinstance(row, Document):
                yield row


def select_best(
    run: Run,
    parent: Folder,
    name: str,
    *,
    column: str,
    ranking: Ranking,
    pool: Pool,
    tokens: int | None = None,
    share: float | None = None,
    filters: Sequence[tuple[str, dict[str, Any]]] = (),
) -> str:
    """Select a run's best by a column into a folder, by a budget of tokens or a share; return a key of the request.

    `ranking` is what the filters see as scores; a run whose scores have no density is ranked by them as they are.
    A selection of the same key in the folder is taken as it is.
    """
    by_size, size = ("token_budget", {"tokens": tokens}) if share is None else ("top", {"share": share})
    all_filters = [*filters, (by_size, {**size, "score": column})]
    by = ranking.by if is_summed(run) else SCORE
    key = key_of(run.record.json, all_filters, by, ranking.group)
    key_name = f"{name}.key"
    is_there = parent.exists(f"{name}/{MANIFEST}") and parent.exists(key_name)
    if not (is_there and parent.read(key_name).decode() == key):
        parent.remove(key_name)
        select(
            run,
            filters=all_filters,
            rank_by=by,
            group=ranking.group,
            out=parent.child(name).address,
            pool=pool.address,
            overwrite=True,
        )
        put_text(parent, key_name, key)
    return key
