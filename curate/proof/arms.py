"""The arms of a comparison: which documents each trains on, and where they come from."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.documents import Fields, Pool, documents, open_pool
from curate.folders.folder import put_text
from curate.folders.local import open_folder
from curate.proof.spool import key_of
from curate.schema import Document
from curate.scores.run import Run
from curate.selection.dump import MANIFEST
from curate.selection.formats import SPLIT
from curate.selection.select import select

SELECTION, ALL, SWEPT = "selection", "all", "top "


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of choosing documents."""

    name: str
    key: str
    """Of all that decides which documents they are."""
    times: float = 1.0
    """Its budget of tokens as a multiple of the others'."""
    per_seed: bool = False
    """Whether every seed has documents of its own, not only an order."""
    documents: Callable[[int], Iterable[Document]]
    """By seed."""


def dumped(folder: Path, fields: Fields) -> Iterator[Document]:
    """Yield the documents of a selection on disk."""
    for shard in open_pool(folder / SPLIT).shards:
        for row in documents(shard, fields):
            if isinstance(row, Document):
                yield row


def chosen(
    run: Run,
    folder: Path,
    *,
    column: str,
    pool: Pool,
    tokens: int | None = None,
    share: float | None = None,
    filters: Sequence[tuple[str, dict[str, Any]]] = (),
) -> str:
    """Select a run's best by a column into a folder, by a budget of tokens or a share; return a key of the request.

    What is there by the same request is taken as it is.
    """
    name, size = ("token_budget", {"tokens": tokens}) if share is None else ("top", {"share": share})
    asked = [*filters, (name, {**size, "score": column})]
    key = key_of(run.record.json, asked)
    beside, mark = open_folder(folder.parent), f"{folder.name}.key"
    there = beside.exists(f"{folder.name}/{MANIFEST}") and beside.exists(mark)
    if not (there and beside.read(mark).decode() == key):
        beside.remove(mark)
        select(run, filters=asked, out=folder, pool=pool.address, overwrite=True)
        put_text(beside, mark, key)
    return key


def ranking_column(manifest: dict, columns: Sequence[str]) -> str:
    """Return the score column that a selection was ranked by.

    That of its last filter that says how much to keep (`dedup` has a column, too, but decides between copies alone);
    else the only group's column that a filter of the user's own names in its SQL; else that of the last that has one.
    """
    ranked = [s for s in manifest["filters"] if s["values"].get("score") in columns]
    sized = [s for s in ranked if any(s["values"].get(size) is not None for size in ("share", "count", "tokens"))]
    if not sized:
        named = {c for s in manifest["filters"] for c in _columns_in(s.get("sql", ""), columns)}
        if len(named) == 1:
            return named.pop()
    found = sized or ranked
    return found[-1]["values"]["score"] if found else "score"


def _columns_in(sql: str, columns: Sequence[str]) -> set[str]:
    """Return the groups' score columns that stand in a query outside its comments."""
    words = set(re.findall(r"\w+", re.sub(r"--.*", "", sql)))
    return words & {c for c in columns if c != "score"}
