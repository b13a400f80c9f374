"""Verify a selection: train the same proxy, by the same recipe and tokens, on it and on other choices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.documents import HELDOUT, read_target
from curate.documents.set_aside import sentences
from curate.errors import CurateError, SettingsError
from curate.executors import Choice
from curate.folders.folder import Folder
from curate.folders.local import open_folder
from curate.gradients.documents import Batching, make_room
from curate.progress import Reporter, Silent
from curate.proof.choices import Choices
from curate.proof.comparison import Comparison
from curate.proof.cost import VerifyPlan, plan
from curate.proof.progress import ARMS, is_verification
from curate.proof.reading import scored_hashes
from curate.proof.selection import Selected
from curate.proof.settings import VerifySettings, remember
from curate.proof.verdict import Verification
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoder
from curate.schema import Document, group_column
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.settings import changed


@dataclass(frozen=True, kw_only=True)
class Verifying:
    """A selection that can be verified."""

    settings: VerifySettings
    selected: Selected
    scoring: ScoreSettings
    """The settings of its run, with pool and model as they are now."""
    held_out: list[Document]
    out: Folder

    @classmethod
    def open(cls, settings: VerifySettings, out: Path | str, reporter: Reporter | None = None) -> "Verifying":
        """Read the selection and the target. Raises CurateError where rows of the target took part in scoring."""
        selected, folder = Selected.read(settings.selection), open_folder(out)
        _refuse_foreign(folder)
        recorded = ScoreSettings.from_record(selected.run.located_settings)
        dtype = "float64" if recorded.dtype == "float64" else "float32"
        scoring = changed(
            recorded,
            store=None,
            pool=settings.pool or recorded.pool,
            model=settings.model or recorded.model,
            revision=recorded.revision if settings.model is None else None,
            device=settings.device or recorded.device,
            dtype=dtype,
        )
        held_out = _held_out(settings, selected, recorded, reporter or Silent())
        if not settings.allow_seen_target:
            _refuse_seen(held_out, selected.run)
        return cls(settings=settings, selected=selected, scoring=scoring, held_out=held_out, out=folder)

    def run(
        self,
        proxy: Proxy,
        encoder: Encoder,
        choice: Choice,
        *,
        score: Callable[..., Run],
        reporter: Reporter,
        plot: Path | str | None = None,
    ) -> Verification:
        """Train the missing arms, compare all, and write figures and curves into the folder."""
        folder = self.out
        with folder.claim():
            if folder.is_here:
                folder.local(ARMS).mkdir(exist_ok=True)  # tells a verification from other folders
            comparison = self._comparison(proxy, encoder, score, reporter)
            seconds = plan(comparison).seconds if choice.is_open else None  # of what the settings there before lack
            remember(folder, "verify", self.settings)
            executor = choice.make(parameters=proxy.coverage.total, seconds=seconds, device=proxy.settings.device)
            verification = comparison.compare(executor)
        verification.write(self.out.address, plot)
        return verification

    def plan(self, proxy: Proxy, encoder: Encoder, *, score: Callable[..., Run], reporter: Reporter) -> VerifyPlan:
        """Measure one step and estimate the whole; nothing is written."""
        return plan(self._comparison(proxy, encoder, score, reporter))

    def _comparison(self, proxy: Proxy, encoder: Encoder, score: Callable[..., Run], reporter: Reporter) -> Comparison:
        room = make_room(proxy, self.settings.batch_tokens, reporter.note)
        choices = Choices(
            selected=self.selected,
            settings=self.scoring,
            baselines=self.settings.baselines,
            sweep=self.settings.sweep,
            out=self.out,
            seed=self.settings.seed,
            score=score,
            reporter=reporter,
        )
        return Comparison(
            settings=self.settings,
            selected=self.selected,
            fields=self.scoring.fields,
            held_out=self.held_out,
            out=self.out,
            proxy=proxy,
            encoder=encoder,
            batching=Batching(tokens=encoder.settings, room=room),
            choices=choices,
            reporter=reporter,
        )


def _held_out(
    settings: VerifySettings, selected: Selected, recorded: ScoreSettings, reporter: Reporter
) -> list[Document]:
    """Read the rows to report on: the given ones, else the rows kept aside, of the selected group."""
    fields = recorded.target_fields
    if settings.target:
        target = read_target(settings.target, fields, pool_fields=recorded.fields)
        for sentence in sentences(target.skipped, "target"):
            reporter.warn(sentence)
        return target.documents
    aside = _kept_aside(selected.run)
    if selected.column == "score":
        return read_target(aside, fields, pool_fields=recorded.fields).documents
    target = read_target(aside, fields, group_by=recorded.group_by, pool_fields=recorded.fields)
    return [d for d, g in zip(target.documents, target.groups, strict=True) if group_column(g) == selected.column]


def _kept_aside(run: Run) -> str:
    if not run.folder.exists(HELDOUT):
        raise SettingsError(
            f"No target was given, and {run.address} kept no rows of its own aside.",
            hint="Give rows that took no part in scoring: --target heldout.jsonl. `score --holdout 30%` keeps some.",
        )
    return str(run.folder.local(HELDOUT))


def _refuse_seen(held_out: Sequence[Document], run: Run) -> None:
    others = "Give other rows (`score --holdout 30%` keeps some aside)"
    if run.folder.exists(HELDOUT):
        others = f"Leave --target out, for the rows that {run.address} kept aside, or give others"
    hint = f"{others}, or accept it with --allow-seen-target."
    try:
        hashes = scored_hashes(run)
    except CurateError as error:
        message = f"It is not known whether rows of the target took part in scoring: {error.message}"
        raise CurateError(message, hint=hint) from error
    if seen := [d for d in held_out if d.content_hash in hashes]:
        example = f"the first is row {seen[0].row} of {seen[0].shard}"
        raise CurateError(f"{len(seen)} of {len(held_out)} rows took part in scoring; {example}.", hint=hint)


def _refuse_foreign(out: Folder) -> None:
    is_file = out.is_here and out.root.is_file()
    if is_file or (out.list() and not is_verification(out)):
        raise SettingsError(f"{out.address} exists and is no verification.", hint="Give another folder with --out.")
