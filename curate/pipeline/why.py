"""Why one document of a run has its score: its rank, its tokens, the target's rows, and the documents near it.

Nothing is fitted: tokens and rows are scored along the directions that the run keeps.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curate import methods
from curate.documents import Pool, Split, Target, documents, hold_out
from curate.errors import CurateError, SettingsError
from curate.folders.kept import Kept
from curate.folders.local import put_text_file, refuse_other_file, refuse_place
from curate.folders.tensors import TENSORS
from curate.methods.contract import EncodedTarget, Inputs, RowScorer, Scorer
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.pipeline.request import aggregation, method_settings, read_against, read_rows, resolve
from curate.pipeline.workspace import Workspace, load
from curate.progress import Reporter, Silent
from curate.proxies.token_texts import TokenTexts
from curate.proxies.tokens import Encoded
from curate.reports.explanation import MADE_HERE, Explanation, Neighbour, RowScore
from curate.reports.tokens import TokenScore
from curate.schema import Document, group_column
from curate.score_settings import ScoreSettings
from curate.scores.narrowing import ranking_columns
from curate.scores.run import Run
from curate.scores.session import open_session, pool_of
from curate.scores.standing import Standing, named_document, ranked_document, standings
from curate.settings import changed
from curate.stores.query import Searcher
from curate.stores.store import Store

ROW_TOKENS = 2048
"""Tokens of target rows that are scored one by one where no number is given: a second or so of a small proxy."""
LEAST_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A run's scorer, with its proxy in memory."""

    workspace: Workspace
    scorer: Scorer
    split: Split


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What target rows add to an explanation."""

    helps: tuple[RowScore, ...] = ()
    hurts: tuple[RowScore, ...] = ()
    scored: int = 0
    of: int = 0
    mean: float | None = None
    note: str | None = None


def run(
    run: Run | Path | str,
    doc: str | None = None,
    *,
    rank: int | None = None,
    group: str | None = None,
    rows: int = 5,
    target_rows: int | str | None = None,
    store: Store | Path | str | None = None,
    pool: Sequence[str] | None = None,
    html: Path | str | None = None,
    reporter: Reporter | None = None,
) -> Explanation:
    """Say why a document of a run has its score; write the page to `html`, if given.

    `doc` is a doc_id or `shard:row`; `rank` stands for the document of that rank by `score`, or by the group's column.
    `rows` of the target and of the store are shown on each side. `target_rows`: how many of the target's rows are
    scored one by one, drawn by a seed, or "all". `store`: a gradient store with the pool's documents, by default that
    of the run. `pool`: where the pool is now, if it has moved. Raises CurateError where the document is not in the run,
    or the run does not keep what it was scored along.
    """
    reporter = reporter or Silent()
    opened_run = run if isinstance(run, Run) else Run.open(run)
    _refuse(doc, rank, rows, target_rows)
    refuse_place(html, "--html")
    if html is not None:
        refuse_other_file(html, MADE_HERE, option="--html", example="why.html", problem="`curate why` did not write it")
    column = ranking_columns(opened_run, [group])[0] if group else "score"
    with open_session(opened_run) as session:
        row = named_document(session, doc) if doc is not None else ranked_document(session, rank or 1, column)
        columns = ("score",) if opened_run.record.is_rescoring else opened_run.record.details.columns
        by_column = standings(session, row, columns)
    standing = next(s for s in by_column if s.column == column)
    opened_pool = pool_of(opened_run, pool)
    document = _document(opened_run, opened_pool, row)
    tokens, of_rows, tokens_note = (), _Rows(), _no_directions(opened_run)
    if tokens_note is None:
        opened = _open(opened_run, opened_pool, reporter)
        (encoded,) = opened.workspace.encoder([document])
        tokens = _tokens(opened, encoded, columns.index(column))
        of_rows = _rows(opened, encoded, None if column == "score" else column, rows, target_rows)
    address = store or opened_run.located_settings.get("store")
    opened_store = address if isinstance(address, Store) or address is None else Store.open(address)
    explanation = Explanation(
        run=opened_run.address,
        method=opened_run.record.method or "",
        column=column,
        **{n: row[n] for n in ("doc_id", "shard", "row", "n_tokens", "truncated", "preview")},
        standings=tuple(by_column),
        left_out=_left_out(opened_run, standing),
        tokens=tokens,
        tokens_note=tokens_note,
        helps=of_rows.helps,
        hurts=of_rows.hurts,
        rows_scored=of_rows.scored,
        rows_of=of_rows.of,
        rows_mean=of_rows.mean,
        rows_note=of_rows.note,
        neighbours=() if opened_store is None else _neighbours(opened_store, document, rows, reporter),
        store=None if opened_store is None else opened_store.address,
    )
    if html is not None:
        put_text_file(html, explanation.html())
    return explanation


def _refuse(doc: str | None, rank: int | None, rows: int, target_rows: int | str | None) -> None:
    """Raise SettingsError for what cannot be asked."""
    if (doc is None) == (rank is None):
        raise SettingsError(
            "No document is named." if doc is None else "Both a document and a rank are given; expected one of them.",
            hint="Give a doc_id or shard:row, or --rank 1 for the best.",
        )
    for name, value in (("rank", rank), ("rows", rows), ("target_rows", target_rows)):
        if (isinstance(value, int) and value < 1) or (isinstance(value, str) and value != "all"):
            raise SettingsError(f"{name} is {value!r}; expected at least 1{' or all' * (name == 'target_rows')}.")


def _document(run: Run, pool: Pool, row: dict[str, Any]) -> Document:
    """Read one row of the pool, and no other. Raises CurateError where it is not as it was scored."""
    fields = ScoreSettings.from_record(run.located_settings).fields
    shard = next((s for s in pool.shards if s.name == row["shard"]), None)
    read = next(documents(shard, fields, only=[row["row"]]), None) if shard is not None else None
    if not isinstance(read, Document) or read.content_hash != row["content_hash"]:
        raise CurateError(
            f"{row['shard']}, row {row['row']} is no longer as it was scored.",
            hint="Give the pool as it was with --pool, or score the changed pool into another run.",
        )
    return read


def _no_directions(run: Run) -> str | None:
    """Return why a run's tokens and target rows have no scores; None where they have."""
    record = run.record
    if record.is_prediction:
        return "These scores were predicted from another run's: ask that run why."
    if record.is_rescoring:
        return "A rescoring keeps no directions: its scores are those of whole documents."
    if "per_token" not in methods.get(record.method or "").OFFERS:
        return f"The method {record.method} scores whole documents: it has no scores of tokens or of target rows."
    return None


def _open(run: Run, pool: Pool, reporter: Reporter) -> _Opened:
    """Load the proxy and prepare the run's method from what the run keeps. Raises CurateError."""
    settings = resolve(changed(ScoreSettings.from_record(run.located_settings), fit_from=None))
    target = read_rows(settings, Silent())
    split = hold_out(target, settings.holdout, settings.seed, address=settings.target)
    against = read_against(settings, Silent())
    fingerprints = {"pool": pool.fingerprint(), **split.fingerprints()}
    fingerprints |= {} if against is None else {"against": against.fingerprint()}
    scored = run.record.json["fingerprints"]
    if changes := [n for n, value in fingerprints.items() if scored.get(n) != value]:
        raise CurateError(
            f"The {changes[0]}'s content has changed since {run.address} was scored.",
            hint="Put it back as it was, or score the changed one into another run.",
        )
    proxy, encoder = load(settings)
    checkpoints = needed_checkpoints(settings.method, proxy)
    if not run.record.fingerprints.same_model(fingerprints_of(proxy, checkpoints)):
        raise CurateError(
            f"The model {run.record.model} has changed since {run.address} was scored.", hint="Put that model back."
        )
    workspace = Workspace(
        settings=settings,
        proxy=proxy,
        encoder=encoder,
        pool=pool,
        fingerprints=fingerprints | fingerprints_of(proxy, checkpoints),
        target=_unread(split.used),
        against=None if against is None else _unread(against),
        aggregation=aggregation(settings),
        per_token=True,
        checkpoints=checkpoints,
        note=reporter.note,
    )
    scorer = methods.get(settings.method).prepare(_from_kept(run, workspace), method_settings(settings))
    return _Opened(workspace=workspace, scorer=scorer, split=split)


def _unread(target: Target) -> EncodedTarget:
    """Return a target by its fingerprint: what a run keeps of it is found by that, without its tokens."""
    return EncodedTarget(encoded=[], groups=target.groups, names=target.group_names, fingerprint=target.fingerprint())


def _from_kept(run: Run, workspace: Workspace) -> Inputs:
    """Return what a method prepares on where everything must be kept already."""
    refusal = CurateError(
        f"{run.address} does not keep what it was scored along (curvature/ and target/ of its folder).",
        hint=f"Its own command, given again, fits it anew: curate score --continue {run.address}.",
    )

    def background() -> Sequence[Encoded]:
        raise refusal

    inputs = workspace.inputs(run.folder, Silent())
    return replace(
        inputs,
        background=background,
        background_fingerprint=run.record.fingerprints.fit or inputs.background_fingerprint,
        kept=Kept(run.folder, TENSORS, inputs.kept.neighbours, refusal=refusal),
    )


def _tokens(opened: _Opened, encoded: Encoded, column: int) -> tuple[TokenScore, ...]:
    """Score a document by token."""
    scored = opened.scorer([encoded], opened.workspace.batching)
    assert scored.tokens is not None
    texts = TokenTexts(opened.workspace.encoder.tokenizer)(encoded.ids.tolist())
    parts = scored.tokens[0][:, column].tolist()
    return tuple(TokenScore(text=t, score=s) for t, s in zip(texts, parts, strict=True))


def _rows(opened: _Opened, document: Encoded, column: str | None, shown: int, number: int | str | None) -> _Rows:
    """Score target rows one by one: all of a group's column, or some that a seed draws."""
    target = opened.split.used
    members = [i for i, g in enumerate(target.groups) if column in (None, group_column(g))]
    if not isinstance(opened.scorer, RowScorer):
        return _Rows(of=len(members), note="The target's rows have no scores of their own: it enters the run whole.")
    chosen = _drawn(opened, target, members, number)
    scores = opened.scorer.by_row(document, list(chosen.values()), opened.workspace.batching)
    if scores is None:
        return _Rows(of=len(members), note="The target's rows have no scores of their own: directions were refined.")
    finite = {i: s for i, s in zip(chosen, scores.tolist(), strict=True) if s == s}
    order = sorted(finite, key=lambda i: -finite[i])
    notes = []
    if len(chosen) < len(members):
        notes.append(
            f"{len(chosen)} of {len(members):,} target rows, drawn at random, were scored; --target-rows all: all."
        )
    if opened.workspace.against is not None:
        notes.append("The control set is not subtracted from the scores of rows.")

    def told(i: int) -> RowScore:
        row = target.documents[i]
        return RowScore(shard=row.shard, row=row.row, group=target.groups[i], score=finite[i], text=row.plain_text)

    return _Rows(
        helps=tuple(told(i) for i in order[:shown] if finite[i] > 0),
        hurts=tuple(told(i) for i in order[::-1][:shown] if finite[i] < 0),
        scored=len(finite),
        of=len(members),
        mean=sum(finite.values()) / len(finite) if finite else None,
        note=" ".join(notes) or None,
    )


def _drawn(opened: _Opened, target: Target, members: Sequence[int], number: int | str | None) -> dict[int, Encoded]:
    """Return the target rows to score: so many, all, or as many as ROW_TOKENS hold."""
    if number == "all":
        return dict(_encoded(opened, target, members))
    order = random.Random(0).sample(members, len(members))
    if isinstance(number, int):
        return dict(sorted(_encoded(opened, target, order[:number])))
    chosen: dict[int, Encoded] = {}
    tokens = 0
    for i in order:
        for position, row in _encoded(opened, target, [i]):
            if len(chosen) >= LEAST_ROWS and tokens + len(row.ids) > ROW_TOKENS:
                return chosen
            chosen[position] = row
            tokens += len(row.ids)
    return chosen


def _encoded(opened: _Opened, target: Target, members: Sequence[int]) -> Iterable[tuple[int, Encoded]]:
    encoded = opened.workspace.encoder([target.documents[i] for i in members])
    return ((i, e) for i, e in zip(members, encoded, strict=True) if e.num_scored > 0)


def _neighbours(store: Store, document: Document, count: int, reporter: Reporter) -> tuple[Neighbour, ...]:
    """Return the nearest documents of a store, the document itself left out."""
    (hits,) = Searcher.open(store, reporter=reporter).query([document], count + 1)
    others = [h for h in hits if (h.shard, h.row) != (document.shard, document.row)]
    return tuple(
        Neighbour(doc_id=h.doc_id, shard=h.shard, row=h.row, cosine=h.score, text=h.text) for h in others[:count]
    )


def _left_out(run: Run, standing: Standing) -> str:
    """Say what it would cost to leave a document out."""
    record = run.record
    change = f"{-standing.score:+.3g}" if standing.score else "0"
    if record.method == "magic" and record.method_settings.get("normalize", "none") == "none":
        rises = "rise" if standing.score > 0 else "fall"
        return (
            f"Left out of a training like the run's, the target's loss is predicted to {rises} by "
            f"{abs(standing.score):.3g} nats per token."
        )
    share = "" if standing.share is None else f", {100 * standing.share:.2g} % of all positive score"
    return (
        f"Leaving it out changes the sum of scores by {change}{share}. To first order the target's loss moves the"
        f" other way, in units of {record.method}, which compare documents and are not nats."
    )
