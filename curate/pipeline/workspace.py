"""What a request needs in memory: proxy, encoder, batching, target, and the inputs of methods."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

from curate import __version__
from curate.documents import FirstRows, Overlap, Pool, Target, rows_of_each, sample_rows
from curate.errors import CurateError, SettingsError
from curate.folders.folder import Folder
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.folders.tensors import TENSORS
from curate.gradients.aggregation import MEANS, Aggregation
from curate.gradients.documents import Batching, make_room
from curate.methods.contract import EncodedTarget, Inputs, Sizes
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.pipeline.ending import nothing_usable
from curate.pipeline.origin import Origin
from curate.pipeline.request import Request, aggregation
from curate.progress import Reporter
from curate.proxies.proxy import Proxy, keep_freed_memory, load_proxy
from curate.proxies.settings import MAX_DEFAULT_CONTEXT, PassSettings, ProxySettings
from curate.proxies.tokens import Encoded, Encoder, TokenSettings
from curate.score_settings import background_fingerprint
from curate.settings import part_of
from curate.stores.store import Store
from curate.training.states import Checkpoint

CHAT_HINT = (
    "Use a chat model as the proxy, or write them by --chat-template shipped (ChatML) or a file of your own:"
    " --chat-template chat.jinja."
)
NO_TARGET = EncodedTarget(encoded=[], groups=[], names=[""], fingerprint="")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A loaded proxy, and how a pool's documents go through it."""

    settings: PassSettings
    proxy: Proxy
    encoder: Encoder
    pool: Pool
    fingerprints: Mapping[str, str]
    """Of the pool and of what else was read, and the model's."""
    target: EncodedTarget = NO_TARGET
    against: EncodedTarget | None = None
    aggregation: Aggregation = MEANS
    per_token: bool = False
    lineage: Sequence[Folder] = ()
    """Of the runs that narrow the pool: what they keep is of the same pool, target and background."""
    origin: Origin | None = None
    store: Store | None = None
    checkpoints: Sequence[Checkpoint] = ()
    """States of the proxy's training, for a method that needs them."""
    scores_pool: bool = False
    """Whether the pool's documents are scored one by one, which sketches of the background can spare."""

    note: Callable[[str], None] | None = None
    """Is told when a batch did not fit into memory."""

    @cached_property
    def batching(self) -> Batching:
        """How documents go through the proxy together: one room, which learns from all of them."""
        return make_batching(self.settings, self.proxy, self.encoder, self.note)

    def inputs(
        self, folder: Folder, reporter: Reporter, record: Callable[[Mapping[str, object]], None] = lambda _: None
    ) -> Inputs:
        """Return what a method prepares on; what is expensive goes into a folder, or comes from beside it.

        A store gives the background's sketches, and what was fitted on them.
        """
        return Inputs(
            proxy=self.proxy,
            proxy_fingerprint=self.fingerprints["model"],
            target=self.target,
            background=self._background if self.origin is None else self.origin.no_background,
            background_fingerprint=self._background_fingerprint(),
            batching=self.batching,
            kept=Kept(folder, TENSORS, self.neighbours(folder)),
            reporter=reporter,
            against=self.against,
            aggregation=self.aggregation,
            per_token=self.per_token,
            stored=self.store,
            record=record,
            checkpoints=self.checkpoints,
            whole=self.sizes if self.scores_pool else None,
        )

    def neighbours(self, folder: Folder) -> list[Folder]:
        """Return the folders that may keep what a run in this one would make: the nearest of kin first."""
        neighbours = [*self.lineage, *_beside(folder)]
        if self.origin is not None:
            neighbours = [self.origin.run.folder, *neighbours]
        return neighbours if self.store is None else [self.store.folder, *neighbours]

    def sizes(self) -> Sizes:
        """Estimate how much there is of everything; of many shards some hundreds are looked into."""
        shards = self.pool.shards
        some = shards[:: max(1, len(shards) // 256)]
        pool = round(sum(rows_of_each(some)) * len(shards) / max(1, len(some)))
        return Sizes.of(pool, self.settings.background or 0, self.target, self.against)

    def _background(self) -> list[Encoded]:
        settings = self.settings
        sample = sample_rows(self.pool, settings.background or 0, settings.seed, settings.fields)
        if not sample:
            raise nothing_usable(self.pool, settings.fields)
        return [e for e in self.encoder(sample) if e.num_scored > 0]

    def _background_fingerprint(self) -> str:
        if self.store is not None:
            return self.store.record.details.background
        if self.origin is not None:
            return self.origin.background
        return background_fingerprint(self.fingerprints["pool"], self.settings)


def _beside(folder: Folder) -> list[Folder]:
    """Return the runs that lie beside a folder; in an object store none is looked for, at a request each."""
    if not folder.is_here:
        return []
    run = folder.root
    return [open_folder(p) for p in sorted(run.parent.glob("*/")) if (p / "run.json").exists() and p != run]


def open_workspace(request: Request, reporter: Reporter) -> Workspace:
    """Load the proxy and encode the target. Raises CurateError."""
    proxy, encoder = load(request.settings, reporter)
    checkpoints = needed_checkpoints(request.method, proxy)
    fingerprints = request.fingerprints | fingerprints_of(proxy, checkpoints)
    if request.origin is not None:
        request.origin.refuse_other_model(fingerprints)
    if request.store is not None:
        request.store.refuse_other_model(fingerprints)
    refuse_unwritable(encoder, request.pool_read_as, reporter)
    control = request.against
    return Workspace(
        settings=request.settings,
        proxy=proxy,
        encoder=encoder,
        pool=request.pool,
        fingerprints=fingerprints,
        target=encode_target(encoder, request.split.used, reporter),
        against=None if control is None else encode_target(encoder, control, reporter, what="control set"),
        aggregation=aggregation(request.settings),
        per_token=request.settings.per_token,
        lineage=[run.folder for run in request.narrowing.lineage] if request.narrowing else [],
        origin=request.origin,
        store=request.store,
        checkpoints=checkpoints,
        scores_pool=request.origin is None and request.store is None,
        note=reporter.note,
    )


def load(settings: PassSettings, reporter: Reporter | None = None) -> tuple[Proxy, Encoder]:
    """Load the proxy and return it with its encoder; say to a reporter which share of its parameters is tracked."""
    keep_freed_memory()
    proxy = load_proxy(part_of(ProxySettings, settings))
    if reporter is not None:
        report_coverage(proxy, reporter)
    return proxy, make_encoder(settings, proxy)


def make_encoder(settings: PassSettings, proxy: Proxy) -> Encoder:
    """Return the encoder of a proxy. Raises SettingsError for a context that it has not."""
    limit = min(proxy.context or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
    if settings.context and proxy.context and settings.context > proxy.context:
        raise SettingsError(
            f"context is {settings.context}; {settings.model} has {proxy.context} positions.",
            hint=f"Give --context {proxy.context} or less; --long windows reads longer documents whole.",
        )
    tokens = TokenSettings(context=settings.context or limit, long=settings.long, vocabulary=proxy.vocabulary)
    return Encoder(proxy.tokenizer, tokens)


def refuse_unwritable(encoder: Encoder, first_rows: FirstRows | None, reporter: Reporter) -> None:
    """Raise SettingsError where a pool begins with nothing but conversations and there is no template for them."""
    if not encoder.chat.lacking or first_rows is None:
        return
    if first_rows.chat:
        raise SettingsError(f"The pool holds conversations, and {encoder.chat.lacking}.", hint=CHAT_HINT)
    if first_rows.some_chat:
        reporter.warn(f"the pool holds conversations, and {encoder.chat.lacking}: they are set aside. {CHAT_HINT}")


def make_batching(
    settings: PassSettings, proxy: Proxy, encoder: Encoder, note: Callable[[str], None] | None = None
) -> Batching:
    """Return how documents go through a proxy together."""
    return Batching(tokens=encoder.settings, room=make_room(proxy, settings.batch_tokens, note))


def encode_target(encoder: Encoder, target: Target, reporter: Reporter, what: str = "target") -> EncodedTarget:
    """Return a target as tokens, and report rows without a scored token. Raises CurateError where a group has none."""
    encoded = encoder(target.documents)
    kept = [i for i, e in enumerate(encoded) if e.num_scored > 0]
    refused = next((e.refused for e in encoded if e.refused), None)
    beyond = next((e.beyond for e in encoded if e.beyond), None)
    if len(kept) < len(encoded):
        why = f" (the chat template: {refused})" if refused else f" ({beyond})" if beyond else ""
        reporter.warn(f"{len(encoded) - len(kept)} {what} row(s) set aside: no scored token{why}.")
    if cut := sum(encoded[i].truncated for i in kept):
        reporter.note(
            f"{cut} {what} row(s) are longer than the context: their beginning alone counts, but for --long windows."
        )
    groups = [target.groups[i] for i in kept]
    if lost := sorted(set(target.groups) - set(groups)):
        where = f"The {what}'s group {lost[0]!r}" if len(target.group_names) > 1 else f"The {what}"
        lacking = encoder.chat.lacking if refused else ""
        raise CurateError(
            f"{where} has no row with a scored token{f': {lacking}' if lacking else ''}.",
            hint=CHAT_HINT if lacking else None,
        )
    return EncodedTarget(
        encoded=[encoded[i] for i in kept], groups=groups, names=target.group_names, fingerprint=target.fingerprint()
    )


def overlap_with(target: Target | None) -> Overlap:
    """Return the search for a target's rows in documents; rows that are kept aside count, too."""
    return Overlap(d.plain_text for d in (target.documents if target else ()))


def report_coverage(proxy: Proxy, reporter: Reporter) -> None:
    """Say which share of the proxy's parameters takes part in scores."""
    coverage = proxy.coverage
    reporter.note(
        f"{proxy.settings.model}: {len(proxy.tracked)} layers tracked, {coverage.tracked:,} of {coverage.total:,}"
        f" parameters ({coverage.share:.0%}), {proxy.settings.dtype} on {proxy.device}."
    )
    if (lacking := len(proxy.tokenizer) - proxy.vocabulary) > 0:
        reporter.warn(
            f"the tokenizer knows {lacking:,} token(s) more than the {proxy.vocabulary:,} that the model has embeddings"
            " for; documents that hold one are set aside."
        )
    if coverage.uncovered:
        names = ", ".join(f"{n} ({c:,})" for n, c in coverage.uncovered.items())
        reporter.warn(f"weights of the decoder that no tracked layer covers take no part in scores: {names}.")


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's bytes."""
    packages = ("torch", "transformers", "tokenizers", "pyarrow")
    return {"curate": __version__, "python": platform.python_version()} | {p: version(p) for p in packages}
