"""The documents at both ends of the ranking, with the pool's own text where it can be read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from curate.documents import Fields, Pool, documents
from curate.errors import CurateError
from curate.progress import Reporter
from curate.reports.figures import Excerpt
from curate.reports.ranks import rounded
from curate.schema import Document
from curate.scores.run import Run
from curate.scores.session import Session, open_session, pool_of
from curate.scores.views import literal, quoted

SHOWN = 3000
"""Characters of a document that a report shows at most."""
BEST, WORST, BEST_OF_GROUP = 10, 5, 5
GROUPS = 16
"""Groups whose best documents are shown."""

Place = tuple[str, int]


def excerpts(
    run: Run, columns: Sequence[str], *, by: str, pool: Sequence[str] | None, texts: bool, reporter: Reporter
) -> tuple[tuple[Excerpt, ...], str | None]:
    """Find the best documents of every score column and the worst of the first, and read their texts.

    The second value says why there are previews only, where the pool cannot be read. Only shards that hold one of the
    documents are opened. Ties go by place.
    """
    with open_session(run) as session:
        ends = _ends(session, columns[: GROUPS + 1])
        rows = _rows(session, {place for _, _, places in ends for place in places}, by)
    read, note = _texts(run, rows, pool, reporter) if texts else ({}, "Previews only, as asked.")
    found = [_excerpt(column, best, rows[place], read.get(place)) for column, best, places in ends for place in places]
    return tuple(found), note


def _ends(session: Session, columns: Sequence[str]) -> list[tuple[str, bool, list[Place]]]:
    """Return (column, whether the best, places) in the order that a report shows them, from one look at the scores."""
    wanted = [(columns[0], True, BEST), (columns[0], False, WORST), *((c, True, BEST_OF_GROUP) for c in columns[1:])]
    place = "struct_pack(shard := shard, row := row)"
    asked = [
        f"arg_min({place}, ({'-' if best else ''}{quoted(c)}::DOUBLE, shard, row), {count})"
        for c, best, count in wanted
    ]
    (found,) = session.query(f"SELECT {', '.join(asked)} FROM scores").rows()
    return [
        (column, best, [(p["shard"], p["row"]) for p in places])
        for (column, best, _), places in zip(wanted, found, strict=True)
    ]


def _rows(session: Session, places: set[Place], by: str) -> dict[Place, dict[str, Any]]:
    shards = ", ".join(literal(s) for s in sorted({s for s, _ in places}))
    numbers = ", ".join(str(r) for r in sorted({r for _, r in places}))
    result = session.query(
        f"SELECT *, {quoted(by)}::VARCHAR AS _by FROM scores WHERE row IN ({numbers}) AND shard IN ({shards})"
    )
    found = (dict(zip(result.columns, values, strict=True)) for values in result.rows())
    return {place: row for row in found if (place := (row["shard"], row["row"])) in places}


def _texts(
    run: Run, rows: Mapping[Place, Mapping[str, Any]], address: Sequence[str] | None, reporter: Reporter
) -> tuple[dict[Place, str], str | None]:
    """Read documents of the pool, all that can be; the second value says what could not."""
    try:
        pool = pool_of(run, address)
        return _read(pool, Fields(**run.record.fields), rows, reporter)
    except (CurateError, OSError) as error:
        return {}, f"Previews only: the pool cannot be read here ({str(error).splitlines()[0]})"


def _read(
    pool: Pool, fields: Fields, rows: Mapping[Place, Mapping[str, Any]], reporter: Reporter
) -> tuple[dict[Place, str], str | None]:
    wanted: dict[str, list[int]] = defaultdict(list)
    for shard, row in rows:
        wanted[shard].append(row)
    shards = [s for s in pool.shards if s.name in wanted]
    found: dict[Place, str] = {}
    with reporter.stage("texts", total=len(shards), unit="shards") as stage:
        for shard in shards:
            for document in documents(shard, fields, only=sorted(wanted[shard.name])):
                place = (document.shard, document.row)
                if isinstance(document, Document) and document.content_hash == rows[place]["content_hash"]:
                    found[place] = document.plain_text
            stage.advance(1)
    lost = len(rows) - len(found)
    return found, f"{lost} of {len(rows)} documents shown are no longer as they were scored." if lost else None


def _excerpt(column: str, best: bool, row: Mapping[str, Any], text: str | None) -> Excerpt:
    whole = row["preview"] if text is None else text
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
        text=whole[:SHOWN],
        cut=max(0, len(whole) - SHOWN),
    )
