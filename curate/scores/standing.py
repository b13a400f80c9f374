"""One document of a run: where it is, and how it stands among the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import CurateError
from curate.scores.run import Run
from curate.scores.session import Session
from curate.scores.views import quoted

_LISTED = 8
_NAMES = ("doc_id", "shard", "row", "content_hash", "n_tokens", "truncated", "loss", "preview")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A document's score by one column."""

    column: str
    score: float
    rank: int
    """From 1, the best; ties go by doc_id."""
    documents: int
    share: float | None
    """Its share of the sum of all positive scores; None where its own is not positive."""


def ranked_document(session: Session, rank: int, column: str) -> dict[str, Any]:
    """Return the row of the document with this rank by a column. Raises CurateError where there are not so many."""
    order = f"{quoted(column)} DESC, doc_id, shard, row"
    for row in _documents(session, f"TRUE ORDER BY {order} LIMIT 1 OFFSET ?", [rank - 1]):
        return row
    ((documents,),) = session.query("SELECT count(*) FROM scores").rows()
    raise CurateError(f"rank is {rank:,}; {session.runs[0][1].address} has {documents:,} documents.")


def named_document(session: Session, name: str) -> dict[str, Any]:
    """Return the row of the document with this doc_id, or at this `shard:row`.

    Raises CurateError where there is none, or where several have the id.
    """
    run = session.runs[0][1]
    documents = _documents(session, "doc_id = ? ORDER BY shard, row", [name])
    shard, colon, row = name.rpartition(":")
    if not documents and colon and row.isdecimal():
        documents = _documents(session, "shard = ? AND row = ?", [shard, int(row)])
    if not documents:
        raise _unknown(session, run, name)
    if len(documents) > 1:
        places = [f"{d['shard']}:{d['row']}" for d in documents]
        listed = ", ".join(places[:_LISTED]) + (" …" if len(places) > _LISTED else "")
        raise CurateError(
            f"{len(places)} documents of {run.address} have the id {name!r}: {listed}.",
            hint=f"Name one by its place: curate why {run.address} {places[0]}.",
        )
    return documents[0]


def standings(session: Session, document: dict[str, Any], columns: Sequence[str]) -> list[Standing]:
    """Return how a document stands by each of the columns, by one pass over the scores."""
    place = [document["doc_id"], document["shard"], document["row"]]
    parts = []
    for name in map(quoted, columns):
        before = (
            f"s.{name} > d.{name} OR s.{name} = d.{name} AND (s.doc_id, s.shard, s.row) < (d.doc_id, d.shard, d.row)"
        )
        positive = f"sum(greatest(s.{name}, 0)::DOUBLE)"
        parts.append(f"any_value(d.{name})::DOUBLE, 1 + count(*) FILTER ({before}), {positive}")
    one = "SELECT * FROM scores WHERE doc_id = ? AND shard = ? AND row = ?"
    query = f"SELECT count(*), {', '.join(parts)} FROM scores s, ({one}) d"
    ((documents, *values),) = session.query(query, place).rows()
    return [
        Standing(
            column=column,
            score=score,
            rank=rank,
            documents=documents,
            share=score / positive if score > 0 else None,
        )
        for column, score, rank, positive in zip(columns, values[::3], values[1::3], values[2::3], strict=True)
    ]


def _documents(session: Session, where: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    result = session.query(f"SELECT {', '.join(_NAMES)} FROM scores WHERE {where}", values)
    return [dict(zip(_NAMES, row, strict=True)) for row in result.rows()]


def _unknown(session: Session, run: Run, name: str) -> CurateError:
    """Return the error of a name that no document has; it says why where the row was set aside."""
    aside = session.query(
        "SELECT shard, row, reason FROM skipped WHERE doc_id = ? OR shard || ':' || row = ?", [name, name]
    ).rows(1)
    if aside:
        shard, row, reason = aside[0]
        return CurateError(f"{name!r} has no score in {run.address}: {shard}, row {row} was set aside ({reason}).")
    return CurateError(
        f"{run.address} has no document {name!r}.",
        hint="Give a doc_id, shard:row, or --rank N; find one with: curate sql "
        f"{run.address} \"SELECT doc_id, score, preview FROM scores WHERE preview ILIKE '%word%'\".",
    )
