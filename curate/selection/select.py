"""Select documents by filters over a run's scores, and write them as a dataset. Never scores again.

from curate.scores.run import latest_run
from curate.selection.select import select

selection = select(latest_run(), filters=["dedup", ("quota", {"by": "source"})], budget="20M", out="selected")
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial as with_arguments
from pathlib import Path
from typing import Any

import xxhash

from curate import __version__
from curate.amounts import portion_of, portion_text
from curate.errors import CurateError, SettingsError, nearest
from curate.folders.local import path_or_url, refuse_place
from curate.folders.record import as_json, canonical
from curate.progress import Reporter, Silent
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.scores.session import open_session, pool_of
from curate.scores.views import score_columns
from curate.selection.card import Described, card
from curate.selection.dump import KIND, check_out, write_dump
from curate.selection.filters import Filter, bind, find_filter
from curate.selection.funnel import NEARLY_ALL, SHARD_STATISTICS, Funnel, Stage
from curate.selection.places import Embed
from curate.selection.ranking import Ranking, ranking_column, ranking_of
from curate.selection.token_columns import TokenFigures
from curate.selection.tokenised import TokenCount, TokenView
from curate.selection.tokens import NAME as TOKENS
from curate.selection.tokens import TokenChoice, TokenRequest
from curate.selection.values import parse_int, parse_top

UNITS = ("document", "shard", "token")
FilterChoice = str | Path | tuple[str | Path, Mapping[str, Any]]
"""A filter by name or by the path of its .sql file, alone or with its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """One value of a column: its documents in the run, and those that are left."""

    value: Any
    pool_documents: int
    pool_tokens: int
    documents: int
    tokens: int
    mean_score: float | None
    """Of what ranked: `Selection.ranked_by`."""
    enrichment: float
    """Its share of the selection's documents (of its tokens, where tokens are chosen) over its share of the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The result of a selection: the funnel, and the documents that are left."""

    run: Run
    unit: str
    ranking: Ranking
    column: str
    """The run's score column that chose the documents."""
    stages: tuple[Stage, ...]
    documents_before: int
    tokens_before: int
    documents: int
    tokens: int
    by: str
    composition: tuple[Composition, ...]
    seconds: float
    out: Path | str | None
    """A URL where it lies in an object store."""
    changes: tuple[str, ...] = ()
    """Sentences on what is written otherwise than the pool has it."""
    token_figures: TokenFigures | None = None
    """Where tokens were chosen."""
    token_count: TokenCount | None = None
    """What was written as tokens."""

    @property
    def ranked_by(self) -> str:
        """What chose the documents: `score_law per token`."""
        return self.ranking.label(self.column)

    def record(self) -> dict[str, Any]:
        """Return the selection as JSON values, as manifest.json holds it."""
        tokenised = {} if self.token_count is None else {"tokenised": asdict(self.token_count)}
        return as_json(
            {
                "kind": KIND,
                "format": 1,
                "curate": __version__,
                "run": {"path": self.run.address, **self.run.record.json},
                "unit": self.unit,
                "ranking": {**asdict(self.ranking), "column": self.column},
                "filters": [asdict(s) for s in self.stages],
                "before": {"documents": self.documents_before, "tokens": self.tokens_before},
                "narrowed": narrowed_note(self.run.record),
                "after": {"documents": self.documents, "tokens": self.tokens},
                "composition": {"by": self.by, "rows": [asdict(c) for c in self.composition]},
                "changes": list(self.changes),
                "seconds": round(self.seconds, 3),
                **({} if self.token_figures is None else {"tokens": asdict(self.token_figures)}),
                **tokenised,
            }
        )


def select(
    run: Run,
    *,
    filters: Sequence[FilterChoice] = (),
    top: str | float | int | None = None,
    budget: str | int | None = None,
    rank_by: str | None = None,
    group: str | None = None,
    decontaminate: bool = True,
    aggregate: str | None = None,
    unit: str = "document",
    tokens: TokenRequest | None = None,
    shard_score: str = "mean",
    by: str | None = None,
    out: Path | str | None = None,
    format: str = "arrow",
    view: TokenView | None = None,
    embed: Embed | None = None,
    overwrite: bool = False,
    partial: bool = False,
    pool: Sequence[str] | None = None,
    neighbours: Path | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Selection:
    """Narrow a run's documents by filters in the order given, then by `top` and `budget`; write them to `out`.

    `group` ranks by that target group's column; `rank_by="density"` by the score per token, of methods whose scores
    are sums over tokens. Without `out` nothing is written. Documents that hold a target row go first unless
    `decontaminate` is false.
    With `aggregate="round-robin"` every target group chooses in turn, with "score" the best by `score` are taken; by
    default as the run was scored. With `unit="shard"` the filters see whole shards, each with the `shard_score` (mean,
    sum, max, q05 … q95) of its documents. With `unit="token"` `tokens` says how many are chosen, of the documents that
    are left. `by`: the column to compare composition by (by default the one of `quota`, else `source`, else the shard).
    `format`: arrow, parquet, jsonl.zst or megatron. `view` writes the documents as tokens and `embed` adds places on a
    map (`curate.select` makes all three). `pool`: where the pool is now, if it has moved.
    `neighbours`: pairs of near documents, for filters that need them (`curate.neighbours` finds them); by
    default those of the store that the run was scored from. `threads` changes only the time.
    Raises SettingsError for wrong settings, before any work.
    """
    refuse_place(out, "--out")
    start, reporter = time.perf_counter(), reporter or Silent()
    ranking = ranking_of(run, by=rank_by, group=group, is_budget=budget is not None)
    by_turns = _by_turns(run, aggregate, unit, group)
    steps = _steps(filters, top, budget, decontaminate, by_turns=by_turns, may_be_none=tokens is not None)
    _check(run, unit, shard_score, partial)
    if (unit == "token") != (tokens is not None):
        raise SettingsError(f"The unit is {unit!r}; expected 'token' with `tokens`, and no other.")
    size = {**(parse_top(top) if top is not None else {}), **({"tokens": _budget(budget)} if budget else {})}
    if out is not None:
        check_out(out, overwrite=overwrite, format=format, view=view)
    option = "--top" if tokens is None else "--documents"
    if (few := size.get("count", 1000)) <= 100:
        reporter.note(f"{option} {few} is a number of documents: the {few} best are kept. A share is {option} {few}%.")
    if note := narrowed_note(run.record):
        reporter.note(f"{run.address} holds {note}.")
    with open_session(run, pool=pool, threads=threads, neighbours=neighbours) as session:
        funnel = Funnel(session, shard_score=shard_score, ranking=ranking)
        _tell_share(size, funnel, option, reporter)
        _warn_of_size(size, funnel, option, reporter)
        _apply(funnel, steps, size, unit, reporter)
        choice = None
        if tokens is not None:
            choice = TokenChoice(request=tokens, run=run, pool=pool_of(run, pool), column=ranking.column)
            choice.choose(funnel, reporter)
        if (wanted := size.get("tokens")) is not None and (short := _shortfall(wanted, funnel)):
            reporter.warn(short)
        column = _composition_column(funnel, by)
        selection = _selection(run, funnel, unit, column, start, path_or_url(out) if out is not None else None)
        selection = replace(selection, token_figures=choice and choice.figures)
        if selection.out is not None:
            described = _dump(selection, funnel, format, view, embed, choice, pool, reporter)
            told = {"changes": described.changes, "token_count": described.token_count}
            figures = choice and choice.figures
            selection = replace(selection, **told, token_figures=figures, seconds=time.perf_counter() - start)
    return selection


@dataclass(frozen=True, slots=True)
class _Step:
    filter: Filter
    parameters: Mapping[str, Any]
    on_documents: bool = False
    """Also where whole shards are the candidates."""


def _by_turns(run: Run, aggregate: str | None, unit: str, group: str | None) -> bool:
    """Whether the groups choose in turn. Raises SettingsError where there are none."""
    if aggregate not in (None, "score", "round-robin"):
        raise SettingsError(f"aggregate is {aggregate!r}; expected score or round-robin.")
    groups = len(run.record.details.columns) > 1
    if aggregate == "round-robin" and group is not None:
        raise SettingsError(
            f"group is {group!r}, and with aggregate 'round-robin' every group chooses; expected one of the two.",
            hint="Leave --group or --aggregate out.",
        )
    if aggregate == "round-robin" and not groups:
        raise SettingsError(
            f"{run.address} has one score column; groups that choose in turn need one each.",
            hint="Score with --group-by COLUMN, or leave --aggregate out.",
        )
    is_usual = aggregate is None and group is None and run.record.by_turns and groups and unit != "shard"
    return aggregate == "round-robin" or is_usual


def _steps(
    filters: Sequence[FilterChoice], top: Any, budget: Any, decontaminate: bool, *, by_turns: bool, may_be_none: bool
) -> list[_Step]:
    steps = [_step(choice) for choice in filters]
    if top is not None:
        steps.append(_Step(find_filter("round_robin" if by_turns else "top"), parse_top(top)))
    if budget is not None:
        steps.append(_Step(find_filter("round_robin" if by_turns else "token_budget"), {"tokens": _budget(budget)}))
    if not steps and not may_be_none:
        raise SettingsError(
            "No filter was given; expected --top, --budget or --filter.",
            hint="Give --top 5%, --budget 20M or --filter NAME; `curate select --list-filters` shows the filters.",
        )
    if decontaminate and not any(s.filter.name == "decontaminate" for s in steps):
        steps.insert(0, _Step(find_filter("decontaminate"), {}, on_documents=True))
    return steps


def _step(choice: Any) -> _Step:
    match choice:
        case str() | Path():
            return _Step(find_filter(choice), {})
        case [str() | Path() as name, Mapping() as parameters]:
            return _Step(find_filter(name), dict(parameters))
    raise SettingsError(
        f"filters holds {choice!r}; expected a name, or a name with its parameters.",
        hint='Give filters=["dedup", ("quota", {"by": "source"})].',
    )


def _budget(value: Any) -> int:
    try:
        tokens = parse_int(value)
    except ValueError as error:
        raise SettingsError(f"--budget: {error}.") from None
    if tokens <= 0:
        raise SettingsError(f"--budget is {value}; expected more than 0.", hint="Give a number of tokens: 20M, 1.5B.")
    return tokens


def _check(run: Run, unit: str, shard_score: str, partial: bool) -> None:
    if unit not in UNITS:
        raise SettingsError(
            f"The unit is {unit!r}; expected {', '.join(UNITS)}.", hint="Give --unit document, shard or token."
        )
    if shard_score not in SHARD_STATISTICS:
        raise SettingsError(
            f"The shard score is {shard_score!r}; expected {', '.join(SHARD_STATISTICS)}.",
            hint=nearest(shard_score, SHARD_STATISTICS),
        )
    parts = run.all_parts()
    if not parts:
        raise CurateError(f"{run.address} has no scores yet.", hint="Run `curate score` with its settings again.")
    if not run.is_finished and not partial:
        whole = sum(p.last for p in parts)
        raise CurateError(
            f"{run.address} is not finished: {len(parts)} parts are there, {whole} shards have reached their end.",
            hint=f"Go on with it: {shlex.join(['curate', 'score', '--continue', run.address])}. "
            "Or select from these parts with --partial.",
        )


def _apply(funnel: Funnel, steps: list[_Step], size: Mapping[str, Any], unit: str, reporter: Reporter) -> None:
    with reporter.stage("select", total=len(steps), unit="filters") as task:
        for step in steps:
            if unit == "shard" and funnel.unit != "shard" and not step.on_documents:
                funnel.use_shards()
            bound = bind(step.filter, step.parameters, funnel.columns, total=funnel.total, size=size)
            funnel.apply(bound)
            task.advance(1)


def _warn_of_size(size: Mapping[str, Any], funnel: Funnel, top: str, reporter: Reporter) -> None:
    """Say before the work that a size is no limit."""
    for name, option, whole in (("tokens", "--budget", funnel.tokens), ("count", top, funnel.documents)):
        if (wanted := size.get(name)) is not None and wanted > whole:
            what = "tokens" if name == "tokens" else "documents"
            reporter.warn(f"{option} is {wanted:,} {what}; the run has {whole:,}, so that it keeps all that is left.")


def _tell_share(size: Mapping[str, Any], funnel: Funnel, option: str, reporter: Reporter) -> None:
    """Say how many documents a share means where it is not of those that the run scored."""
    if (share := size.get("share")) is None or funnel.total == funnel.documents:
        return
    wanted, scored = portion_of(share, funnel.total), f"the {funnel.documents:,} that were scored"
    text = f"{option} {portion_text(share)} is {wanted:,} of the pool's {funnel.total:,} documents"
    if wanted > funnel.documents:
        reporter.warn(f"{text}, more than {scored}: it keeps all that is left.")
    else:
        reporter.note(f"{text}: {wanted / funnel.documents:.1%} of {scored}.")


def _shortfall(wanted: int, funnel: Funnel) -> str | None:
    """Say by how much a selection falls short of its budget, and which filter is why; None where the pool is."""
    final, unit = funnel.stages[-1].tokens, f"{funnel.unit}s"
    stage = next((s for s in funnel.stages if s.tokens < wanted), None)
    if stage is None or funnel.tokens < wanted or final >= NEARLY_ALL * wanted:
        return None
    reason = f"after {stage.name!r} no more than {stage.tokens:,} are left"
    if stage.name == "token_budget":
        reason = f"whole {unit} are kept, and the next best one does not fit"
    elif stage.values.get("tokens") is not None and "by" in stage.values:
        reason = (
            f"{stage.name!r} keeps whole {unit} of each {stage.values['by']} up to its share, and the next best one of "
            "each does not fit, or it has no more"
        )
    return f"--budget is {wanted:,} tokens; {final:,} are kept, {1 - final / wanted:.0%} less: {reason}."


def _composition_column(funnel: Funnel, by: str | None) -> str:
    """Return the given column, else that of the last `quota`, else `source`, else `shard`."""
    names = funnel.schema.names
    if by is None:
        divided = [s.values["by"] for s in funnel.stages if s.name == "quota" and s.values["by"] in names]
        return divided[-1] if divided else "source" if "source" in names else "shard"
    if by not in names:
        raise SettingsError(f"--by: no column {by!r}.", hint=nearest(by, list(names)))
    return by


def _enrichment(kept: int, kept_in_all: int, before: int, before_in_all: int) -> float:
    """Return a share of what is left over the same share before; 0.0 where nothing is left."""
    return (kept / kept_in_all) / (before / before_in_all) if kept_in_all and before else 0.0


def _selection(run: Run, funnel: Funnel, unit: str, by: str, start: float, out: Path | str | None) -> Selection:
    last, ranking = funnel.stages[-1], funnel.ranking
    chosen_by = ranking_column([asdict(s) for s in funnel.stages], score_columns(funnel.schema))
    column = ranking.column if chosen_by == "score" else chosen_by
    rows = [
        Composition(
            value=value,
            pool_documents=documents,
            pool_tokens=tokens,
            documents=kept,
            tokens=kept_tokens,
            mean_score=score,
            enrichment=_enrichment(kept_tokens, last.tokens, tokens, funnel.tokens)
            if unit == "token"
            else _enrichment(kept, last.documents, documents, funnel.documents),
        )
        for value, documents, tokens, kept, kept_tokens, score in funnel.composition(by, column)
    ]
    return Selection(
        run=run,
        unit=unit,
        ranking=ranking,
        column=column,
        stages=tuple(funnel.stages),
        documents_before=funnel.documents,
        tokens_before=funnel.tokens,
        documents=last.documents,
        tokens=last.tokens,
        by=by,
        composition=tuple(rows),
        seconds=time.perf_counter() - start,
        out=out,
    )


def _dump(
    selection: Selection,
    funnel: Funnel,
    format: str,
    view: TokenView | None,
    embed: Embed | None,
    choice: TokenChoice | None,
    pool: Sequence[str] | None,
    reporter: Reporter,
) -> Described:
    if not selection.documents:
        empty = next(s.name for s in selection.stages if not s.documents)
        hint = "Look at the funnel with --dry-run."
        if empty == TOKENS:
            hint = "What is chosen together (--smooth) has more tokens than there are to choose: choose more."
        if empty == "decontaminate":
            hint = f"Every document holds rows of the target; --no-decontaminate keeps them. {hint}"
        raise CurateError(f"Nothing is left after the filter {empty!r}.", hint=hint)
    assert selection.out is not None
    manifest = selection.record()
    if embed is not None:
        manifest["map"] = True
    if view is not None:
        manifest["tokenised"] = view.record()
    manifest["fingerprint"] = xxhash.xxh3_64_hexdigest(canonical({**manifest, "seconds": None}).encode())
    text = with_arguments(card, manifest, format)
    source = pool_of(selection.run, pool) if choice is None else choice.pool
    with reporter.stage("write", total=selection.documents) as task:
        return write_dump(
            funnel,
            source,
            selection.run.fields,
            selection.out,
            format=format,
            manifest=manifest,
            card=text,
            task=task,
            view=view,
            embed=embed,
            choice=choice,
        )
