"""The documents at both ends of the ranking, with the pool's own text where it can be read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from curate.documents import Fields, Pool, documents
from curate.errors import CurateError
from curate.progress import Reporter
from curate.reports.figures import Excerpt
from curate.reports.ranks import rounded
from curate.reports.tokens import TokenScore
from curate.schema import TOKEN_TEXTS, Document, token_column
from curate.scores.run import Run
from curate.scores.session import TOKEN_LISTS, Result, Session, open_session, pool_of
from curate.scores.views import literal, quoted

SHOWN = 3000
"""The most characters of a document that a report shows."""
BEST, WORST, BEST_OF_GROUP = 10, 5, 5
GROUPS = 16
"""The most groups whose best documents are shown."""

Place = tuple[str, int]


def excerpts(
    run: Run, columns: Sequence[str], *, by: str, pool: Sequence[str] | None, texts: bool, reporter: Reporter
) -> tuple[tuple[Excerpt, ...], str | None]:
    """Find the best documents of every score column and the worst of the first, and read their texts.

    The second value is a note where the pool cannot be read and only previews are shown. Only shards that hold one of
    the documents are opened. Ties go by place.
    """
    with open_session(run) as session:
        ends = _ends(session, columns[: GROUPS + 1])
        rows_by_place = _rows(session, {place for _, _, places in ends for place in places}, by)
    texts_by_place, note = _texts(run, rows_by_place, pool, reporter) if texts else ({}, "Previews only, as asked.")
    shown = [
        replace(
            _excerpt(column, best, rows_by_place[place], texts_by_place.get(place)),
            tokens=_tokens(rows_by_place[place], column) if texts else (),
        )
        for column, best, places in ends
        for place in places
    ]
    return tuple(shown), note


def _ends(session: Session, columns: Sequence[str]) -> list[tuple[str, bool, list[Place]]]:
    """Return (column, whether the best, places) in the order of the report, by one query."""
    ends = [(columns[0], True, BEST), (columns[0], False, WORST), *((c, True, BEST_OF_GROUP) for c in columns[1:])]
    place = "struct_pack(shard := shard, row := row)"
    expressions = [
        f"arg_min({place}, ({'-' if best else ''}{quoted(c)}::DOUBLE, shard, row), {count})" for c, best, count in ends
    ]
    (places_of_ends,) = session.query(f"SELECT {', '.join(expressions)} FROM scores").rows()
    return [
        (column, best, [(p["shard"], p["row"]) for p in places])
        for (column, best, _), places in zip(ends, places_of_ends, strict=True)
    ]


def _rows(session: Session, places: set[Place], by: str) -> dict[Place, dict[str, Any]]:
    shards = ", ".join(literal(s) for s in sorted({s for s, _ in places}))
    numbers = ", ".join(str(r) for r in sorted({r for _, r in places}))
    there = f"WHERE row IN ({numbers}) AND shard IN ({shards})"
    rows = _by_place(session.query(f"SELECT *, {quoted(by)}::VARCHAR AS _by FROM scores {there}"), places)
    lists = session.query(f"SELECT * FROM {TOKEN_LISTS} {there}") if "tokens" in session.views else None
    by_token = {} if lists is None else _by_place(lists, places)
    return {place: row | by_token.get(place, {}) for place, row in rows.items()}


def _by_place(result: Result, places: set[Place]) -> dict[Place, dict[str, Any]]:
    rows = (dict(zip(result.columns, values, strict=True)) for values in result.rows())
    return {place: row for row in rows if (place := (row["shard"], row["row"])) in places}


def _texts(
    run: Run, rows: Mapping[Place, Mapping[str, Any]], address: Sequence[str] | None, reporter: Reporter
) -> tuple[dict[Place, str], str | None]:
    """Read documents of the pool; the second value is a note about those that cannot be read."""
    try:
        pool = pool_of(run, address)
        return _read(pool, run.fields, rows, reporter)
    except (CurateError, OSError) as error:
        return {}, f"Previews only: the pool cannot be read here ({str(error).splitlines()[0]})"


def _read(
    pool: Pool, fields: Fields, rows: Mapping[Place, Mapping[str, Any]], reporter: Reporter
) -> tuple[dict[Place, str], str | None]:
    row_numbers: dict[str, list[int]] = defaultdict(list)
    for shard, row in rows:
        row_numbers[shard].append(row)
    shards = [s for s in pool.shards if s.name in row_numbers]
    texts: dict[Place, str] = {}
    with reporter.stage("texts", total=len(shards), unit="shards") as stage:
        for shard in shards:
            for document in documents(shard, fields, only=sorted(row_numbers[shard.name])):
                place = (document.shard, document.row)
                if isinstance(document, Document) and document.content_hash == rows[place]["content_hash"]:
                    texts[place] = document.plain_text
            stage.advance(1)
    num_lost = len(rows) - len(texts)
    return texts, f"{num_lost} of {len(rows)} documents shown are no longer as they were scored." if num_lost else None


def _tokens(row: Mapping[str, Any], column: str) -> tuple[TokenScore, ...]:
    """Return a document's tokens with their parts of a column, as many as SHOWN characters hold."""
    texts, scores = row.get(TOKEN_TEXTS) or (), row.get(token_column(column)) or ()
    ends = accumulate(map(len, texts))
    return tuple(
        TokenScore(text=text, score=rounded(score) or 0.0)
        for text, score, end in zip(texts, scores, ends, strict=False)
        if end <= SHOWN
    )


def _excerpt(column: str, best: bool, row: Mapping[str, Any], text: str | None) -> Excerpt:
    content = row["preview"] if text is None else text
    loss = row["loss"]
    return Excerpt(
        column=column,
        best=best,
        shard=row["shard"],
        row=row["row"],
        doc_id=row["doc_id"],
        score=rounded(row[column]) or 0.0,
        n_tokens=row["n_tokens"],
        loss=None if loss is None else rounded(loss),
        source=row["_by"],
        target_exact=row["target_exact"],
        target_overlap=rounded(row["target_overlap"]) or 0.0,
        text=content[:SHOWN],
        cut=max(0, len(content) - SHOWN),
    )
