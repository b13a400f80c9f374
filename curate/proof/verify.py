"""Does training on a selection help? The same proxy, recipe and tokens on it, on random, on others' choices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.documents import read_target
from curate.errors import CurateError, SettingsError
from curate.folders.local import open_folder
from curate.gradients.documents import Batching, default_budget
from curate.progress import Reporter
from curate.proof.choices import Choices
from curate.proof.comparison import Comparison
from curate.proof.reading import HELDOUT, scored_hashes
from curate.proof.selection import Selected
from curate.proof.settings import VerifySettings
from curate.proof.verdict import Verification
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoder
from curate.schema import Document, group_column
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.settings import changed


@dataclass(frozen=True, kw_only=True)
class Verifying:
    """A selection that was read and found fit to be verified."""

    settings: VerifySettings
    selected: Selected
    scoring: ScoreSettings
    """As its run was scored, with pool and model as they are now."""
    held_out: list[Document]
    out: Path

    @classmethod
    def open(cls, settings: VerifySettings, out: Path) -> "Verifying":
        """Read the selection and the target. Raises CurateError where rows of the target took part in scoring."""
        selected = Selected.read(Path(settings.selection))
        _refuse_foreign(out)
        found = ScoreSettings.from_record(selected.run.record.settings)
        dtype = "float64" if found.dtype == "float64" else "float32"
        scoring = changed(
            found,
            store=None,
            pool=settings.pool or found.pool,
            model=settings.model or found.model,
            revision=found.revision if settings.model is None else None,
            device=settings.device or found.device,
            dtype=dtype,
        )
        held_out = _held_out(settings, selected, found)
        if not settings.allow_seen_target:
            _refuse_seen(held_out, selected.run)
        return cls(settings=settings, selected=selected, scoring=scoring, held_out=held_out, out=out)

    def run(
        self,
        proxy: Proxy,
        encoder: Encoder,
        *,
        score: Callable[..., Run],
        reporter: Reporter,
        plot: Path | None = None,
    ) -> Verification:
        """Train all arms that are not there yet, compare them, and leave figures and curves in the folder."""
        budget = self.settings.batch_tokens or default_budget(proxy)
        batching = Batching(tokens=encoder.settings, budget=budget)
        folder = open_folder(self.out)
        with folder.claim():
            folder.local("arms").mkdir(exist_ok=True)  # tells a verification from other folders
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
            found = Comparison(
                settings=self.settings,
                selected=self.selected,
                fields=self.scoring.fields,
                held_out=self.held_out,
                out=self.out,
                proxy=proxy,
                encoder=encoder,
                batching=batching,
                choices=choices,
                reporter=reporter,
            ).compare()
        found.write(self.out, plot)
        return found


def _held_out(settings: VerifySettings, selected: Selected, asked: ScoreSettings) -> list[Document]:
    """Read the rows to report on: those given, else what the run kept aside of the group that was selected for."""
    fields = asked.target_fields or asked.fields
    if settings.target:
        return read_target(settings.target, fields).documents
    aside = _kept_aside(selected.run)
    if selected.column == "score":
        return read_target(aside, fields).documents
    kept = read_target(aside, fields, group_by=asked.group_by)
    return [d for d, g in zip(kept.documents, kept.groups, strict=True) if group_column(g) == selected.column]


def _kept_aside(run: Run) -> str:
    path = run.path / HELDOUT
    if not path.exists():
        raise SettingsError(
            f"No target was given, and {run.path} kept no rows of its own aside.",
            hint="Give rows that took no part in scoring: --target heldout.jsonl. `score --holdout 30%` keeps some.",
        )
    return str(path)


def _refuse_seen(held_out: Sequence[Document], run: Run) -> None:
    hint = "Give other rows (`score --holdout 30%` keeps some aside), or accept it with --allow-seen-target."
    try:
        known = scored_hashes(run)
    except CurateError as error:
        message = f"Whether rows of the target took part in scoring cannot be told: {error.message}"
        raise CurateError(message, hint=hint) from error
    if seen := [d for d in held_out if d.content_hash in known]:
        first = f"the first is row {seen[0].row} of {seen[0].shard}"
        raise CurateError(f"{len(seen)} of {len(held_out)} rows took part in scoring; {first}.", hint=hint)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "arms").is_dir())):
        raise SettingsError(f"{out} is there and is no verification.", hint="Give another folder with --out.")
