"""From settings to a request: every default decided, and all checked that can be known without a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any

from curate import methods
from curate.documents import (
    DAMAGED,
    FirstRows,
    Pool,
    Shard,
    Split,
    Target,
    check_fields,
    documents,
    hold_out,
    look,
    open_pool,
    read_target,
)
from curate.documents.check import refusal
from curate.documents.located import same_places
from curate.documents.set_aside import sentences
from curate.errors import CurateError, SettingsError
from curate.fields import Fields
from curate.folders.record import as_json, differences
from curate.gradients.aggregation import Aggregation
from curate.methods.contract import Method
from curate.pipeline.narrowing import Narrowing
from curate.pipeline.origin import Origin
from curate.progress import Reporter
from curate.proxies.devices import choose_device
from curate.proxies.settings import PassSettings
from curate.schema import Document, group_column, rare_columns
from curate.score_settings import NARROWING, ScoreSettings
from curate.scores.run import Run
from curate.settings import build, changed, given
from curate.stores.store import Store

COLUMNS_PROBED, NAMED = 32, 5
SHARDS_PROBED, DOCUMENTS_PROBED = 8, 256  # for documents that the target holds, too: said before any work


@dataclass(frozen=True, kw_only=True)
class Request:
    """A scoring run, resolved and checked. A value: it pickles, and holds no model."""

    settings: ScoreSettings
    method: str
    method_settings: Any
    pool: Pool
    pool_read_as: FirstRows | None
    """The shapes of the pool's first rows; None for a store's."""
    target: Target
    """All rows: those kept aside may not be in the pool either."""
    split: Split
    """Which rows scoring uses."""
    against: Target | None
    narrowing: Narrowing | None
    """What of the pool is scored; None: every document."""
    origin: Origin | None
    store: Store | None
    columns: list[str]
    record: dict[str, Any]
    """Resolved settings, for run.json."""
    fingerprints: dict[str, str]
    """Of pool, target, control set and the background that fits come from."""


def make_request(settings: ScoreSettings, reporter: Reporter, *, strict: bool = False) -> Request:
    """Resolve and check settings, open the pool, read the target. Raises CurateError."""
    settings = resolve(settings)
    store = Store.open(settings.store) if settings.store else None
    pool = open_candidates(settings, reporter) if store is None else store.pool
    pool_read_as = note_shapes(pool, settings.fields, reporter) if store is None else None
    target = read_rows(settings, reporter, strict=strict)
    warn_of_shared(pool, target, settings.fields, reporter)
    if store is None:
        note_rare_columns(pool, settings.fields, reporter)
    split = hold_out(target, settings.holdout, settings.seed, address=settings.target)
    against = read_against(settings, reporter)
    pool_fingerprint = pool.fingerprint() if store is None else store.record.details.pool_fingerprint
    fingerprints = {"pool": pool_fingerprint, **split.fingerprints()}
    narrowing = Narrowing.of(settings, pool) if settings.narrows else None
    if narrowing is not None:
        fingerprints |= narrowing.fingerprints()
    if against is not None:
        fingerprints["against"] = against.fingerprint()
    record = settings.as_dict() | {"device": choose_device(settings.device).type}
    origin = Origin.open(settings.fit_from, record) if settings.fit_from else None
    if origin is not None:
        fingerprints["fit"] = origin.background
    return Request(
        settings=settings,
        method=settings.method,
        method_settings=method_settings(settings),
        pool=pool,
        pool_read_as=pool_read_as,
        target=target,
        split=split,
        against=against,
        narrowing=narrowing,
        origin=origin,
        store=store,
        columns=score_columns(target.group_names),
        record=record,
        fingerprints=fingerprints,
    )


def resolve(settings: ScoreSettings) -> ScoreSettings:
    """Decide what was left open: by the run that fits come from, by the store, by the method, in this order.

    The only place that does: what comes back says all that a run's record holds. Raises SettingsError.
    """
    settings.refuse_conflicts()
    if settings.fit_from:
        settings = _like_run(settings, settings.fit_from)
    store = Store.open(settings.store) if settings.store else None
    if store is not None:
        if "method" not in given(settings):
            settings = changed(settings, method=store.settings.method)
        methods.refuse_store(settings.method, store.settings.method)
    method = methods.get(settings.method)
    methods.refuse_unoffered(
        settings.method,
        against=bool(settings.against),
        per_token=settings.per_token,
        aggregate={settings.aggregate, settings.aggregate_rows} - {None, "mean"} != set(),
    )
    own = dict(settings.method_settings)
    if store is not None:
        settings, projection = _like_store(settings, store)
        own |= projection
    elif "seed" in {f.name for f in fields(method.Settings)}:
        own.setdefault("seed", settings.seed)
    check = settings.check or 0
    if "check" in {f.name for f in fields(method.Settings)}:
        own = own if settings.check is None else own | {"check": check}
        check = None
    resolved = asdict(_method_settings(method, settings.method, own))
    background = settings.background or methods.background_of(settings.method)
    aggregates = {}
    if "aggregate" in method.OFFERS:
        usual = method.AGGREGATION
        aggregates["aggregate"] = settings.aggregate or usual.groups
        aggregates["aggregate_rows"] = settings.aggregate_rows or usual.rows
    return changed(settings, background=background, method_settings=resolved, check=check, **aggregates)


def aggregation(settings: ScoreSettings) -> Aggregation:
    """Return how a resolved run's rows and groups make scores."""
    return Aggregation(rows=settings.aggregate_rows or "mean", groups=settings.aggregate or "mean")


def method_settings(settings: ScoreSettings) -> Any:
    """Return the settings of a run's method, checked."""
    return _method_settings(methods.get(settings.method), settings.method, settings.method_settings)


def _method_settings(method: Method, name: str, values: Any) -> Any:
    others = [f.name for f in fields(ScoreSettings)]
    return build(method.Settings, values, owner=f"Method {name!r}", prefix=f"Method {name!r}: ", others=others)


def _like_run(settings: ScoreSettings, path: str) -> ScoreSettings:
    """Return a run's settings, changed to what was given here."""
    theirs = ScoreSettings.from_record(Run.open(path).located_settings)
    here = {name: value for name, value in given(settings).items() if value is not None}
    if (method := here.get("method", theirs.method)) != theirs.method:
        raise SettingsError(
            f"Nothing can be taken from {path}: it was scored by {theirs.method!r}, not {method!r}.",
            hint="Leave --method out, or score without --fit-from.",
        )
    own = here.pop("method_settings", {})
    if "fields" in here:
        here.setdefault("target_fields", theirs.target_fields or theirs.fields)
    if "target" in here and not same_places(here["target"], theirs.target):
        here.setdefault("group_by", None)  # another target may have other columns
    return changed(
        theirs,
        **({"store": None, "check": None} | NARROWING | here | {"method_settings": {**theirs.method_settings, **own}}),
    )


def _like_store(settings: ScoreSettings, store: Store) -> tuple[ScoreSettings, dict[str, Any]]:
    """Return a scoring's settings with all that a store decides, and those of its method.

    Raises SettingsError where something else was given, and CurateError unless the store is finished.
    """
    store.require_finished()
    indexed = store.settings
    shared = {f.name: getattr(indexed, f.name) for f in fields(PassSettings) if f.name != "device"}
    here = {name: value for name, value in asdict(settings).items() if name in shared and name in given(settings)}
    projection: dict[str, Any] = dict(indexed.projection)
    wanted = asdict(method_settings(settings))
    here |= {name: wanted[name] for name in settings.method_settings if name in projection}
    had = as_json({name: (asdict(indexed) | projection)[name] for name in here})
    if lines := differences(had, here, had="the store has"):
        raise SettingsError(
            f"{store.address} was indexed otherwise:\n  " + "\n  ".join(lines),
            hint="Leave these settings out (they come from the store), or index into another store.",
        )
    return changed(settings, **shared), projection


def open_candidates(settings: PassSettings, reporter: Reporter) -> Pool:
    """Open the pool, say what of it is read, and check its columns. Raises CurateError."""
    pool = open_pool(settings.pool, txt_lines=settings.fields.txt_lines)
    if not pool.is_one_file:
        reporter.note(f"pool: {pool.listing}.")
    check_fields(pool, settings.fields)
    return pool


def note_shapes(pool: Pool, fields: Fields, reporter: Reporter) -> FirstRows | None:
    """Say what a pool's first rows are read as, and warn where many of them cannot be read."""
    first_rows = look(pool, fields)
    if first_rows is not None:
        reporter.note(f"pool read as: {first_rows}.")
    if problem := refusal(pool, fields):
        reporter.warn(f"pool: {problem}")
    return first_rows


def warn_of_shared(pool: Pool, target: Target, columns: Fields, reporter: Reporter) -> None:
    """Warn where files, or documents among the first of a few shards, are in the target and in the pool."""
    files = set(target.shards.values())
    shared = [name for name, content in pool.shard_fingerprints().items() if content in files and content[:2] != "0-"]
    if shared:
        whole = "The target is the pool" if len(shared) == len(pool.shards) else f"{shared[0]} is in pool and target"
        reporter.warn(f"{whole}: its own documents come out best, and `curate select` leaves them out.")
        return
    contents = {d.content_hash for d in target.documents}
    first = first_documents(pool, columns, DOCUMENTS_PROBED)
    if both := sum(d.content_hash in contents for d in first):
        reporter.warn(
            f"{both:,} of the first {len(first):,} documents of the pool are rows of the target, too: they are marked "
            "(target_exact), and `curate select` leaves them out."
        )


def note_rare_columns(pool: Pool, columns: Fields, reporter: Reporter) -> None:
    """Say which columns the scores of a very wide pool leave out, as the first rows of a few shards tell."""
    first = first_documents(pool, columns, COLUMNS_PROBED)
    counts = Counter(name for document in first for name in document.metadata)
    if rare := rare_columns(counts, len(first)):
        listed = ", ".join(rare[:NAMED]) + (" …" if len(rare) > NAMED else "")
        reporter.note(
            f"The pool's first rows have {len(counts):,} columns: scores leave out {len(rare):,} that fewer than a "
            f"tenth of the documents have ({listed}). `curate sql` reads them in the view documents."
        )


def first_documents(pool: Pool, columns: Fields, count: int) -> list[Document]:
    """Return the documents among the first `count` rows of each of a pool's first shards."""
    return [d for shard in pool.shards[:SHARDS_PROBED] for d in _first_documents(shard, columns, count)]


def _first_documents(shard: Shard, columns: Fields, count: int) -> list[Document]:
    try:
        return [d for d in islice(documents(shard, columns), count) if isinstance(d, Document)]
    except CurateError:  # a damaged shard: reading the pool reports it
        return []


def read_rows(settings: ScoreSettings, reporter: Reporter, *, strict: bool = False) -> Target:
    """Read the target; rows that are set aside are reported. Raises CurateError; with `strict` for a damaged file."""
    target = read_target(
        settings.target, settings.target_fields, group_by=settings.group_by, pool_fields=settings.fields
    )
    damaged = next((s for s in target.skipped if s.reason == DAMAGED), None)
    if damaged is not None and strict:
        raise CurateError(
            f"The target cannot be read to its end: {damaged.detail}",
            hint="Write the file again, or go on with what can be read of it: leave --strict out.",
        )
    _report(target, "target", reporter)
    if target.left_out:
        reporter.note(f"target: {target.left_out}.")
    return target


def read_against(settings: ScoreSettings, reporter: Reporter) -> Target | None:
    """Read the control set, where there is one."""
    if not settings.against:
        return None
    against = read_target(settings.against, settings.target_fields, pool_fields=settings.fields)
    _report(against, "control set", reporter)
    return against


def _report(target: Target, what: str, reporter: Reporter) -> None:
    """Say what a target is read as, and what is set aside."""
    if target.read_as is not None:
        reporter.note(f"{what} read as: {target.read_as}.")
    for sentence in sentences(target.skipped, what):
        reporter.warn(sentence)


def score_columns(groups: Sequence[str]) -> list[str]:
    """Name the score columns: `score`, then one per group when there are several."""
    if len(groups) < 2:
        return ["score"]
    columns = {group: group_column(group) for group in groups}
    taken: dict[str, str] = {}
    for group, column in columns.items():
        other = taken.setdefault(column.casefold(), group)  # SQL does not tell names apart by case
        if other != group:
            raise SettingsError(
                f"Groups {other!r} and {group!r} would both have the column {column}.",
                hint="Rename one in the target's column (--group-by).",
            )
    return ["score", *columns.values()]
