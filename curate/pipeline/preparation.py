"""From settings to all that a method prepares on: what was asked, checked without a model, then what was loaded."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curate import __version__, methods
from curate.documents import Overlap, Pool, Split, Target, check_fields, hold_out, open_pool, read_target, sample_rows
from curate.errors import CurateError, SettingsError
from curate.folders.kept import Kept
from curate.gradients.documents import Batching, default_budget
from curate.methods import Method
from curate.methods.contract import EncodedTarget, Inputs
from curate.pipeline.origin import Origin
from curate.progress import Reporter
from curate.proxies.proxy import Proxy, ProxySettings, choose_device, keep_freed_memory, load_proxy
from curate.proxies.tokens import Encoded, Encoder, TokenSettings
from curate.schema import group_column
from curate.scores.run import Run
from curate.settings import MAX_DEFAULT_CONTEXT, ScoreSettings, background_fingerprint, build
from curate.stores.settings import IndexSettings
from curate.stores.store import Store

Record = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A scoring run as it was asked for: everything that can be wrong without a model has been found."""

    settings: ScoreSettings
    method_settings: Any
    pool: Pool
    target: Target
    """All rows: those kept aside may not be in the pool either."""
    split: Split
    """Which rows scoring uses."""
    against: Target | None
    origin: Origin | None
    store: Store | None
    columns: list[str]
    record: dict[str, Any]
    """Resolved settings, for run.json."""
    fingerprints: dict[str, str]
    """Of pool, target, control set and the background that fits come from."""

    @property
    def method(self) -> Method:
        return methods.get(self.settings.method)  # a module, which does not pickle


def ask(settings: ScoreSettings, reporter: Reporter) -> Asked:
    """Resolve and check settings, open the pool, read the target. Raises CurateError."""
    method = methods.get(settings.method)
    methods.refuse_unoffered(
        settings.method, against=bool(settings.against), per_token=settings.per_token, store=bool(settings.store)
    )
    store = Store.open(settings.store) if settings.store else None
    if store is not None:
        settings = store.decided(settings)
    settings = replace(settings, background=settings.background or methods.background_of(settings.method))
    method_settings = build(method.Settings, settings.method_settings, owner=f"Method {settings.method!r}")
    proxy_settings_of(settings)
    pool = open_candidates(settings) if store is None else store.pool
    target = read_rows(settings, reporter)
    split = hold_out(target, settings.holdout, settings.seed, address=settings.target)
    device = choose_device(settings.device).type
    record = settings.as_dict() | {"method_settings": asdict(method_settings), "device": device}
    against = read_against(settings, reporter)
    known = pool.fingerprint() if store is None else store.details["pool_fingerprint"]
    fingerprints = {"pool": known, **split.fingerprints()}
    if against is not None:
        fingerprints["against"] = against.fingerprint()
    origin = Origin.open(settings.fit_from, record) if settings.fit_from else None
    if origin is not None:
        fingerprints["fit"] = origin.background
    return Asked(
        settings=settings,
        method_settings=method_settings,
        pool=pool,
        target=target,
        split=split,
        against=against,
        origin=origin,
        store=store,
        columns=score_columns(target.group_names),
        record=record,
        fingerprints=fingerprints,
    )


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The proxy, and the target as its tokens."""

    asked: Asked
    proxy: Proxy
    encoder: Encoder
    target: EncodedTarget
    against: EncodedTarget | None
    fingerprints: dict[str, str]
    """Those of what was asked, and the model's."""

    @property
    def details(self) -> dict[str, Any]:
        """What run.json tells beside settings and fingerprints."""
        found = {"versions": versions(), "coverage": vars(self.proxy.coverage), "columns": self.asked.columns}
        if self.asked.store is not None and "arithmetic" in self.asked.store.details:
            found["arithmetic"] = self.asked.store.details["arithmetic"]  # checked when the sketches were made
        return found | self.asked.split.details()

    @property
    def batching(self) -> Batching:
        return make_batching(self.asked.settings, self.proxy, self.encoder)

    def inputs(self, run: Path, reporter: Reporter, record: Record | None = None) -> Inputs:
        """Return what the method prepares on; see `make_inputs`."""
        return make_inputs(
            self.asked.settings,
            self.proxy,
            self.fingerprints,
            self.asked.pool,
            self.encoder,
            self.target,
            self.against,
            run=run,
            origin=self.asked.origin,
            store=self.asked.store,
            reporter=reporter,
            record=record,
        )


def load(asked: Asked, reporter: Reporter) -> Loaded:
    """Load the proxy and encode the target. Raises CurateError."""
    keep_freed_memory()
    proxy = load_proxy(proxy_settings_of(asked.settings))
    report_coverage(proxy, reporter)
    fingerprints = asked.fingerprints | {"model": proxy.fingerprint()}
    if asked.origin is not None:
        asked.origin.refuse_other_model(fingerprints["model"])
    if asked.store is not None:
        asked.store.refuse_other_model(fingerprints["model"])
    encoder = make_encoder(asked.settings, proxy)
    control = asked.against
    return Loaded(
        asked=asked,
        proxy=proxy,
        encoder=encoder,
        target=encode_target(encoder, asked.split.used, reporter),
        against=None if control is None else encode_target(encoder, control, reporter, what="control set"),
        fingerprints=fingerprints,
    )


def make_inputs(
    settings: ScoreSettings,
    proxy: Proxy,
    fingerprints: Mapping[str, str],
    pool: Pool,
    encoder: Encoder,
    target: EncodedTarget,
    against: EncodedTarget | None,
    *,
    run: Path,
    origin: Origin | None,
    store: Store | None = None,
    reporter: Reporter,
    record: Record | None = None,
) -> Inputs:
    """Return what a method prepares on; what is expensive goes into the folder `run`, or comes from beside it.

    A store gives the background's sketches, and what was fitted on them.
    """

    def background() -> list[Encoded]:
        sample = sample_rows(pool, settings.background or 0, settings.seed, settings.fields)
        return [e for e in encoder(sample) if e.num_scored > 0]

    neighbours = [p for p in sorted(run.parent.glob("*/")) if (p / "run.json").exists() and p != run]
    if origin is not None:
        neighbours = [origin.run.path, *neighbours]
    sample = background_fingerprint(fingerprints["pool"], settings) if origin is None else origin.background
    if store is not None:
        neighbours = [store.path, *neighbours]
        sample = store.details["background"]
    return Inputs(
        proxy=proxy,
        proxy_fingerprint=fingerprints["model"],
        target=target,
        background=background if origin is None else origin.no_background,
        background_fingerprint=sample,
        batching=make_batching(settings, proxy, encoder),
        kept=Kept(run, neighbours),
        reporter=reporter,
        against=against,
        per_token=settings.per_token,
        stored=store,
        record=record or (lambda _: None),
    )


def make_batching(settings: ScoreSettings | IndexSettings, proxy: Proxy, encoder: Encoder) -> Batching:
    """Return how documents go through the proxy together."""
    return Batching(tokens=encoder.settings, budget=settings.batch_tokens or default_budget(proxy))


def refuse_early(path: Path, record: dict[str, Any], fingerprints: dict[str, str]) -> None:
    """Find a run of other settings before the model loads; `Run.start` looks again, with the model's fingerprint."""
    if (path / "run.json").exists():
        Run.open(path).refuse_other(record, fingerprints)


def overlap_with(target: Target | None) -> Overlap:
    """Return what looks for all rows of a target in documents, those that are kept aside, too."""
    return Overlap(d.plain_text for d in (target.documents if target else ()))


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


def proxy_settings_of(settings: ScoreSettings | IndexSettings) -> ProxySettings:
    """Return how the proxy is loaded. Raises SettingsError."""
    return ProxySettings(
        model=settings.model,
        revision=settings.revision,
        modules=settings.modules,
        dtype=settings.dtype,
        device=settings.device,
    )


def read(settings: ScoreSettings, reporter: Reporter) -> tuple[Pool, Target]:
    """Open the pool and read the target. Raises CurateError; odd rows of the target are told."""
    return open_candidates(settings), read_rows(settings, reporter)


def open_candidates(settings: ScoreSettings | IndexSettings) -> Pool:
    """Open the pool and check its columns. Raises CurateError."""
    pool = open_pool(settings.pool)
    check_fields(pool, settings.fields)
    return pool


def read_rows(settings: ScoreSettings, reporter: Reporter) -> Target:
    """Read the target. Raises CurateError; odd rows are told."""
    target = read_target(settings.target, settings.target_fields or settings.fields, group_by=settings.group_by)
    _report_skipped(target, "target", reporter)
    return target


def read_against(settings: ScoreSettings, reporter: Reporter) -> Target | None:
    """Read the control set, where there is one."""
    if not settings.against:
        return None
    against = read_target(settings.against, settings.target_fields or settings.fields)
    _report_skipped(against, "control set", reporter)
    return against


def _report_skipped(target: Target, what: str, reporter: Reporter) -> None:
    for reason in sorted({s.reason for s in target.skipped}):
        rows = [s.row for s in target.skipped if s.reason == reason]
        reporter.warn(f"{len(rows)} {what} row(s) set aside: {reason} (the first is row {rows[0]}).")


def make_encoder(settings: ScoreSettings | IndexSettings, proxy: Proxy) -> Encoder:
    """Return what turns documents into the proxy's tokens. Raises SettingsError for a context that it has not."""
    limit = min(proxy.context or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
    if settings.context and proxy.context and settings.context > proxy.context:
        raise SettingsError(
            f"context is {settings.context}; {settings.model} has {proxy.context} positions.",
            hint=f"Give --context {proxy.context} or less; --long windows reads longer documents whole.",
        )
    return Encoder(proxy.tokenizer, TokenSettings(context=settings.context or limit, long=settings.long))


def encode_target(encoder: Encoder, target: Target, reporter: Reporter, what: str = "target") -> EncodedTarget:
    """Return a target as tokens; rows without a scored token are told. Raises CurateError where a group has none."""
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


def report_coverage(proxy: Proxy, reporter: Reporter) -> None:
    """Say which share of the proxy's parameters takes part in scores."""
    coverage = proxy.coverage
    reporter.note(
        f"{proxy.settings.model}: {len(proxy.tracked)} layers tracked, {coverage.tracked:,} of {coverage.total:,}"
        f" parameters ({coverage.share:.0%}), {proxy.settings.dtype} on {proxy.device}."
    )
    if coverage.uncovered:
        names = ", ".join(f"{n} ({c:,})" for n, c in coverage.uncovered.items())
        reporter.warn(f"weights of the decoder that no tracked layer covers take no part in scores: {names}.")


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's bytes."""
    packages = ("torch", "transformers", "tokenizers", "pyarrow")
    return {"curate": __version__, "python": platform.python_version()} | {p: version(p) for p in packages}
