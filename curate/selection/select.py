"""Select documents by filters over a run's scores, and write them as a dataset. Never scores again.

from curate.scores.run import latest_run
from curate.selection.select import select

selection = select(latest_run(), filters=["dedup", ("quota", {"by": "source"})], budget="20M", out="selected")
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial as with_arguments
from pathlib import Path
from typing import Any

import xxhash

from curate.errors import CurateError, SettingsError, nearest
from curate.folders.local import path_or_url, refuse_place
from curate.folders.record import canonical
from curate.progress import Reporter, Silent
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.scores.session import open_session, pool_of
from curate.selection.card import Described, card
from curate.selection.dump import Form, check_form, refuse_taken, write_dump
from curate.selection.filters import bind
from curate.selection.funnel import SHARD_STATISTICS, Funnel
from curate.selection.left import Left
from curate.selection.places import Embed
from curate.selection.ranking import ranking_of
from curate.selection.selection import Selection, composition_column, selection_of
from curate.selection.sizes import shortfall, tell_share, warn_of_size
from curate.selection.steps import FilterChoice, Step, chooses_by_turns, steps_of
from curate.selection.tokenised import TokenView
from curate.selection.tokens import NAME as TOKENS
from curate.selection.tokens import TokenChoice, TokenRequest
from curate.selection.values import parse_budget, parse_top
from curate.selection.workers import Hire

UNITS = ("document", "shard", "token")


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
    hire: Hire | None = None,
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
    map (`curate.select` makes all three); `hire` finds workers that share the writing. `pool`: where the pool is now,
    if it has moved.
    `neighbours`: pairs of near documents, for filters that need them (`curate.neighbours` finds them); by
    default those of the store that the run was scored from. `threads` changes only the time.
    Raises SettingsError for wrong settings, before any work.
    """
    refuse_place(out, "--out")
    start, reporter = time.perf_counter(), reporter or Silent()
    ranking = ranking_of(run, by=rank_by, group=group, is_budget=budget is not None)
    by_turns = chooses_by_turns(run, aggregate, unit, group)
    steps = steps_of(filters, top, budget, decontaminate, by_turns=by_turns, may_be_none=tokens is not None)
    _check(run, unit, shard_score, partial)
    if (unit == "token") != (tokens is not None):
        raise SettingsError(f"The unit is {unit!r}; expected 'token' with `tokens`, and no other.")
    size = {**(parse_top(top) if top is not None else {}), **({"tokens": parse_budget(budget)} if budget else {})}
    check_form(format, view)
    if out is not None:
        refuse_taken(out, overwrite=overwrite)
    option = "--top" if tokens is None else "--documents"
    if (few := size.get("count", 1000)) <= 100:
        reporter.note(f"{option} {few} is a number of documents: the {few} best are kept. A share is {option} {few}%.")
    if note := narrowed_note(run.record):
        reporter.note(f"{run.address} holds {note}.")
    with open_session(run, pool=pool, threads=threads, neighbours=neighbours) as session:
        funnel = Funnel(session, shard_score=shard_score, ranking=ranking)
        tell_share(size, funnel, option, reporter)
        warn_of_size(size, funnel, option, reporter)
        _apply(funnel, steps, size, unit, reporter)
        choice = None
        if tokens is not None:
            choice = TokenChoice(request=tokens, run=run, pool=pool_of(run, pool), column=ranking.column)
            choice.choose(funnel, reporter)
        if (wanted := size.get("tokens")) is not None and (short := shortfall(wanted, funnel)):
            reporter.warn(short)
        column = composition_column(funnel, by)
        selection = selection_of(run, funnel, unit, column, start, path_or_url(out) if out is not None else None)
        selection = replace(selection, token_figures=choice and choice.figures)
        if selection.out is None:
            return selection
        form = Form(format=format, view=view, embed=embed, choice=choice, hire=hire)
        described = _dump(selection, funnel, form, pool, reporter)
    return replace(
        selection,
        changes=described.changes,
        token_count=described.token_count,
        token_figures=choice and choice.figures,
        seconds=time.perf_counter() - start,
    )


def _apply(funnel: Funnel, steps: list[Step], size: Mapping[str, Any], unit: str, reporter: Reporter) -> None:
    with reporter.stage("select", total=len(steps), unit="filters") as task:
        for step in steps:
            if unit == "shard" and funnel.unit != "shard" and not step.on_documents:
                funnel.use_shards()
            bound = bind(step.filter, step.parameters, funnel.columns, total=funnel.total, size=size)
            funnel.apply(bound)
            task.advance(1)


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


def _dump(
    selection: Selection, funnel: Funnel, form: Form, pool: Sequence[str] | None, reporter: Reporter
) -> Described:
    """Write what is left. Raises CurateError where that is nothing."""
    if not selection.documents:
        raise _nothing(next(s.name for s in selection.stages if not s.documents))
    assert selection.out is not None
    manifest = selection.record()
    if form.embed is not None:
        manifest["map"] = True
    if form.view is not None:
        manifest["tokenised"] = form.view.record()
    manifest["fingerprint"] = xxhash.xxh3_64_hexdigest(canonical({**manifest, "seconds": None}).encode())
    text = with_arguments(card, manifest, form.format)
    source = pool_of(selection.run, pool) if form.choice is None else form.choice.pool
    left = Left(funnel=funnel, pool=source, fields=selection.run.fields)
    return write_dump(left, form, selection.out, manifest=manifest, card=text, reporter=reporter)


def _nothing(empty: str) -> CurateError:
    """Return the error of a selection of which a filter has left nothing."""
    hint = "Look at the funnel with --dry-run."
    if empty == TOKENS:
        hint = "What is chosen together (--smooth) has more tokens than there are to choose: choose more."
    if empty == "decontaminate":
        hint = f"Every document holds rows of the target; --no-decontaminate keeps them. {hint}"
    return CurateError(f"Nothing is left after the filter {empty!r}.", hint=hint)
