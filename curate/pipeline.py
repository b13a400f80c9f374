"""The tool on one page: each verb takes settings and gives back what it made."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from curate import __version__, methods
from curate.arithmetic import check_arithmetic
from curate.documents import Overlap, Pool, Target, check_fields, estimated_rows, open_pool, read_target, sample_rows
from curate.errors import CurateError, SettingsError
from curate.executors.local import Work, score_parts
from curate.executors.reading import Reader
from curate.gradients.documents import Batching, default_budget
from curate.methods._contract import EncodedTarget, Inputs, Kept
from curate.models import Proxy, ProxySettings, choose_device, keep_freed_memory, load_proxy
from curate.progress import Reporter, Silent
from curate.proof.bank import Laboratory
from curate.proof.places import draw
from curate.proof.predictions import Subject
from curate.proof.reading import drawn, scored_rows, usable
from curate.proof.settings import ValidateSettings, VerifySettings, default_validate_out, default_verify_out
from curate.proof.validate import ValidatePlan, Validating, Validation
from curate.proof.verdict import Verification
from curate.proof.verify import Verifying
from curate.proof.workers import devices_of
from curate.rescoring.attribution import ADJOINT, SPREAD, Rescoring
from curate.rescoring.plan import RescorePlan, plan
from curate.rescoring.settings import RescoreSettings, default_rescore_out, parents_of, runs_of_one_pool, scored_like
from curate.rescoring.shortlist import background as draw_background
from curate.rescoring.shortlist import best_places, fingerprint, movement, read_places
from curate.schema import Document, group_column
from curate.scores.counts import count
from curate.scores.run import Run
from curate.scores.session import pool_of
from curate.settings import MAX_DEFAULT_CONTEXT, ScoreSettings, build, default_out
from curate.tokens import Encoded, Encoder, TokenSettings


def score(settings: ScoreSettings, out: Path | str | None = None, *, reporter: Reporter | None = None) -> Run:
    """Score every document of a pool against a target, or go on with a run that was stopped.

    Everything that can be wrong with the settings, the pool's columns or the target is found before the model loads.
    Raises CurateError; parts that were finished stay.
    """
    reporter, started = reporter or Silent(), time.time()
    method = methods.get(settings.method)
    settings = replace(settings, background=settings.background or methods.background_of(settings.method))
    methods.refuse_unoffered(settings.method, against=bool(settings.against), per_token=settings.per_token)
    method_settings = build(method.Settings, settings.method_settings, owner=f"Method {settings.method!r}")
    proxy_settings = _proxy_settings(settings)
    path = Path(out) if out is not None else default_out(settings)
    pool, target = _read(settings, reporter)
    columns = score_columns(target.group_names)
    device = choose_device(settings.device).type
    record = settings.as_dict() | {"method_settings": asdict(method_settings), "device": device}
    against = _read_against(settings, reporter)
    fingerprints = {"pool": pool.fingerprint(), "target": target.fingerprint()}
    if against is not None:
        fingerprints["against"] = against.fingerprint()
    _refuse_early(path, record, fingerprints)

    keep_freed_memory()
    proxy = load_proxy(proxy_settings)
    _report_coverage(proxy, reporter)
    fingerprints["model"] = proxy.fingerprint()
    details = {"versions": _versions(), "coverage": vars(proxy.coverage), "columns": columns}
    encoder = _encoder(settings, proxy)
    encoded = _encoded_target(encoder, target, reporter)
    control = None if against is None else _encoded_target(encoder, against, reporter, what="control set")
    with Run.start(path, settings=record, fingerprints=fingerprints, details=details) as run:
        inputs = _inputs(settings, proxy, fingerprints, pool, encoder, encoded, control, run, reporter)
        check_arithmetic(run, method, method_settings, inputs, pool, settings, columns)
        loaded = time.time()
        scorer = method.prepare(inputs, method_settings)
        prepared = time.time()
        overlap = Overlap(d.plain_text for d in target.documents)
        reader = Reader(
            pool=pool,
            fields=settings.fields,
            encoder=encoder,
            overlap=overlap,
            part_documents=settings.part_documents,
        )
        total = sum(estimated_rows(s) for s in pool.shards)
        work = score_parts(run, reader, scorer, inputs.batching, columns, reporter, total=total)
        _log(run, work, {"load": loaded - started, "prepare": prepared - loaded, "score": time.time() - prepared})
        run.finish(count(run))
    return run


def rescore(settings: RescoreSettings, out: Path | str | None = None, *, reporter: Reporter | None = None) -> Run:
    """Rescore runs' best documents by differentiating through a training run on them, or go on where it was stopped.

    The result is a run of the shortlist. Raises CurateError, also where the training is too rough to be differentiated.
    """
    reporter, started = reporter or Silent(), time.time()
    parents = parents_of(settings)
    path = Path(out) if out is not None else default_rescore_out(parents[0], settings)
    asked, rescoring, fingerprints = _rescoring(settings, parents, reporter)
    device = rescoring.proxy.device.type
    record = asked.as_dict() | {"device": device, "parent_run": [str(run.path) for run in parents]}
    details = {
        "versions": _versions(),
        "coverage": vars(rescoring.proxy.coverage),
        "columns": [*rescoring.columns, ADJOINT, *([SPREAD] if settings.repeats > 1 else [])],
    }
    with Run.start(path, settings=record, fingerprints=fingerprints, details=details) as run:
        if not run.is_finished:
            loaded = time.time()
            rescoring.attribute(run)
            moved = {str(parent.path): movement(parent, run.scores().collect()) for parent in parents}
            run.add_details(moved=moved)
            _log(
                run, Work(documents=len(rescoring.usable)), {"load": loaded - started, "rescore": time.time() - loaded}
            )
            run.finish(count(run))
    return run


def plan_rescore(settings: RescoreSettings, *, reporter: Reporter | None = None) -> RescorePlan:
    """Say what a rescoring will take, from one step that is measured; nothing is written."""
    return plan(_rescoring(settings, parents_of(settings), reporter or Silent())[1])


def _rescoring(
    settings: RescoreSettings, parents: Sequence[Run], reporter: Reporter
) -> tuple[ScoreSettings, Rescoring, dict[str, str]]:
    """Read, load and encode what a rescoring needs."""
    asked = scored_like(parents[0], settings)
    pool, target = pool_of(parents[0], asked.pool), _read(asked, reporter)[1]
    fingerprints = {"pool": pool.fingerprint(), "target": target.fingerprint()}
    if fingerprints["target"] != parents[0].fingerprints["target"]:
        raise CurateError(
            f"The target's content has changed since {parents[0].path} was scored.",
            hint="Score the changed target into another run first.",
        )
    keep_freed_memory()
    proxy = load_proxy(_proxy_settings(asked))
    encoder = _encoder(asked, proxy)
    reader = Reader(
        pool=pool,
        fields=asked.fields,
        encoder=encoder,
        overlap=Overlap(d.plain_text for d in target.documents),
        part_documents=asked.part_documents,
    )
    places = best_places(parents, settings.shortlist)
    chunks = read_places(reader, places)
    shortlist = [d for chunk in chunks for d in chunk.documents]
    wanted = settings.background or len(shortlist)
    others = draw_background(pool, reader, shortlist, wanted, settings.seed)
    if len(others) < wanted:
        reporter.note(f"{len(others):,} documents of the pool beside the shortlist; {wanted:,} were asked for.")
    rescoring = Rescoring(
        settings=settings,
        proxy=proxy,
        target=_encoded_target(encoder, target, reporter),
        chunks=chunks,
        others=[e for e in encoder(others) if e.num_scored > 0],
        batching=Batching(tokens=encoder.settings, budget=asked.batch_tokens or default_budget(proxy)),
        columns=score_columns(target.group_names),
        reporter=reporter,
    )
    return asked, rescoring, fingerprints | {"model": proxy.fingerprint(), "shortlist": fingerprint(places)}


def validate(
    settings: ValidateSettings,
    out: Path | str | None = None,
    *,
    plot: Path | None = None,
    reporter: Reporter | None = None,
) -> Validation:
    """Measure by real retraining how well runs' methods predict it: LDS and QLD, on a bank that is kept and goes on."""
    found = _validating(settings, reporter or Silent()).run()
    found.write(Path(out) if out is not None else default_validate_out(settings), plot)
    return found


def plan_validate(settings: ValidateSettings, *, reporter: Reporter | None = None) -> ValidatePlan:
    """Say what a validation will take, from one step that is measured; nothing is retrained."""
    return _validating(settings, reporter or Silent()).plan()


def verify(
    settings: VerifySettings,
    out: Path | str | None = None,
    *,
    plot: Path | None = None,
    reporter: Reporter | None = None,
) -> Verification:
    """Train the proxy on a selection, on random documents and on others' choices, and compare the target's loss."""
    reporter = reporter or Silent()
    found = Verifying.open(settings, Path(out) if out is not None else default_verify_out(settings))
    keep_freed_memory()
    proxy = load_proxy(replace(_proxy_settings(found.asked), modules=()))
    return found.run(proxy, _encoder(found.asked, proxy), score=score, reporter=reporter, plot=plot)


def _validating(settings: ValidateSettings, reporter: Reporter) -> Validating:
    """Read, load and encode what a bank of retrainings and the methods that it judges need."""
    runs = runs_of_one_pool(settings.runs)
    asked = [settings.scored_like(run) for run in runs]
    first, pool, target = asked[0], pool_of(runs[0], settings.pool or None), scored_rows(runs[0])
    keep_freed_memory()
    proxy = load_proxy(settings.proxy_like(first))
    encoder = _encoder(first, proxy)
    batching = Batching(tokens=encoder.settings, budget=settings.batch_tokens or default_budget(proxy))
    documents, sample = usable(
        draw(runs, settings.seed, documents=settings.documents).read(pool, first.fields), encoder
    )
    queries, rows = usable(drawn(target.documents, settings.queries, settings.seed), encoder)
    subjects = [_subject(run, one, pool, queries, reporter) for run, one in zip(runs, asked, strict=True)]
    return Validating(
        settings=settings,
        laboratory=Laboratory(
            proxy=proxy,
            recipe=settings.recipe,
            documents=sample,
            queries=rows,
            tokens=batching.tokens,
            budget=batching.budget,
        ),
        documents=documents,
        queries=queries,
        subjects=subjects,
        root=Path(settings.banks) if settings.banks else runs[0].path.parent / "banks",
        devices=devices_of(settings.devices, proxy.device),
        reporter=reporter,
    )


def _subject(run: Run, asked: ScoreSettings, pool: Pool, queries: Sequence[Document], reporter: Reporter) -> Subject:
    """Return a run's method as it was prepared, but for its target, which the single queries replace."""
    proxy = load_proxy(_proxy_settings(asked))
    fingerprints = {"pool": pool.fingerprint(), "model": proxy.fingerprint()}
    if fingerprints["model"] != run.fingerprints["model"]:
        raise CurateError(f"The model {asked.model} has changed since {run.path} was scored.")
    encoder = _encoder(asked, proxy)
    target = EncodedTarget(encoded=encoder(queries), groups=[""] * len(queries), names=[""], fingerprint="")
    against = _read_against(asked, reporter)
    control = None if against is None else _encoded_target(encoder, against, reporter, what="control set")
    inputs = _inputs(asked, proxy, fingerprints, pool, encoder, target, control, run, reporter)
    return Subject(run=run, inputs=inputs)


def score_columns(groups: Sequence[str]) -> list[str]:
    """Name the score columns: `score`, then one per group when there are several."""
    if len(groups) < 2:
        return ["score"]
    columns = {group: group_column(group) for group in groups}
    known: dict[str, str] = {}
    for group, column in columns.items():
        other = known.setdefault(column.casefold(), group)  # SQL does not tell names apart by case
        if other != group:
            raise SettingsError(
                f"Groups {other!r} and {group!r} would both have the column {column}.",
                hint="Rename one in the target's column (--group-by).",
            )
    return ["score", *columns.values()]


def _proxy_settings(settings: ScoreSettings) -> ProxySettings:
    return ProxySettings(
        model=settings.model,
        revision=settings.revision,
        modules=settings.modules,
        dtype=settings.dtype,
        device=settings.device,
    )


def _read(settings: ScoreSettings, reporter: Reporter) -> tuple[Pool, Target]:
    pool = open_pool(settings.pool)
    check_fields(pool, settings.fields)
    target = read_target(settings.target, settings.target_fields or settings.fields, group_by=settings.group_by)
    _report_skipped(target, "target", reporter)
    return pool, target


def _read_against(settings: ScoreSettings, reporter: Reporter) -> Target | None:
    if not settings.against:
        return None
    against = read_target(settings.against, settings.target_fields or settings.fields)
    _report_skipped(against, "control set", reporter)
    return against


def _report_skipped(target: Target, what: str, reporter: Reporter) -> None:
    for reason in sorted({s.reason for s in target.skipped}):
        rows = [s.row for s in target.skipped if s.reason == reason]
        reporter.warn(f"{len(rows)} {what} row(s) set aside: {reason} (the first is row {rows[0]}).")


def _refuse_early(path: Path, record: dict[str, Any], fingerprints: dict[str, str]) -> None:
    """Find a run of other settings before the model loads; `Run.start` looks again, with the model's fingerprint."""
    if (path / "run.json").exists():
        Run.open(path).refuse_other(record, fingerprints)


def _encoder(settings: ScoreSettings, proxy: Proxy) -> Encoder:
    limit = min(proxy.context or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
    if settings.context and proxy.context and settings.context > proxy.context:
        raise SettingsError(
            f"context is {settings.context}; {settings.model} has {proxy.context} positions.",
            hint=f"Give --context {proxy.context} or less; --long windows reads longer documents whole.",
        )
    return Encoder(proxy.tokenizer, TokenSettings(context=settings.context or limit, long=settings.long))


def _inputs(
    settings: ScoreSettings,
    proxy: Proxy,
    fingerprints: dict[str, str],
    pool: Pool,
    encoder: Encoder,
    target: EncodedTarget,
    against: EncodedTarget | None,
    run: Run,
    reporter: Reporter,
) -> Inputs:
    budget = settings.batch_tokens or default_budget(proxy)
    neighbours = [p for p in sorted(run.path.parent.glob("*/")) if (p / "run.json").exists() and p != run.path]

    def background() -> list[Encoded]:
        sample = sample_rows(pool, settings.background or 0, settings.seed, settings.fields)
        return [e for e in encoder(sample) if e.num_scored > 0]

    return Inputs(
        proxy=proxy,
        proxy_fingerprint=fingerprints["model"],
        target=target,
        background=background,
        background_fingerprint=f"{fingerprints['pool']}:{settings.background}:{settings.seed}:{settings.fields}",
        batching=Batching(tokens=encoder.settings, budget=budget),
        kept=Kept(run.path, neighbours),
        reporter=reporter,
        against=against,
        per_token=settings.per_token,
        record=lambda found: run.add_details(**found),
    )


def _encoded_target(encoder: Encoder, target: Target, reporter: Reporter, what: str = "target") -> EncodedTarget:
    encoded = encoder(target.documents)
    kept = [i for i, e in enumerate(encoded) if e.num_scored > 0]
    refused = next((e.refused for e in encoded if e.refused), None)
    if len(kept) < len(encoded):
        why = f" (the chat template: {refused})" if refused else ""
        reporter.warn(f"{len(encoded) - len(kept)} {what} row(s) set aside: no scored token{why}.")
    groups = [target.groups[i] for i in kept]
    if lost := sorted(set(target.groups) - set(groups)):
        where = f"The {what}'s group {lost[0]!r}" if len(target.group_names) > 1 else f"The {what}"
        raise CurateError(f"{where} has no row with a scored token.")
    return EncodedTarget(
        encoded=[encoded[i] for i in kept], groups=groups, names=target.group_names, fingerprint=target.fingerprint()
    )


def _report_coverage(proxy: Proxy, reporter: Reporter) -> None:
    coverage = proxy.coverage
    reporter.note(
        f"{proxy.settings.model}: {len(proxy.tracked)} layers tracked, {coverage.tracked:,} of {coverage.total:,}"
        f" parameters ({coverage.share:.0%}), {proxy.settings.dtype} on {proxy.device}."
    )
    if coverage.uncovered:
        names = ", ".join(f"{n} ({c:,})" for n, c in coverage.uncovered.items())
        reporter.warn(f"weights of the decoder that no tracked layer covers take no part in scores: {names}.")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "tokenizers", "pyarrow")
    return {"curate": __version__, "python": platform.python_version()} | {p: version(p) for p in packages}


def _log(run: Run, work: Work, seconds: dict[str, float]) -> None:
    """Append what this session did; times live here and nowhere else, so that equal runs have equal bytes."""
    line = {"ended": round(time.time()), "seconds": {k: round(v, 3) for k, v in seconds.items()}, **vars(work)}
    with (run.path / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
