"""The selection on disk: the pool's own columns and the scores of the documents that are left, in pool order.

train/…        the data, as `datasets.load_dataset(folder)` reads it (Arrow also with `load_from_disk`)
README.md      dataset card: the filters and what they left
HANDOVER.md    the lines that load it into trainers
manifest.json  all that it takes to reproduce the selection
rejected/      documents that a filter dropped, with the filter's name; no part of the dataset
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.errors import SettingsError, nearest
from curate.folders.local import open_folder, parent_of
from curate.folders.record import canonical
from curate.folders.whole import is_taken, new_folder
from curate.progress import Reporter
from curate.selection.card import Described
from curate.selection.formats import FORMATS, MEGATRON
from curate.selection.funnel import Funnel
from curate.selection.handover import NAME as HANDOVER
from curate.selection.handover import of_rows
from curate.selection.kinds import Kind, sorted_kinds
from curate.selection.left import Left
from curate.selection.places import COLUMNS as PLACES
from curate.selection.places import Embed, places_of
from curate.selection.row_files import write_row_files
from curate.selection.token_columns import IDS, LABELS
from curate.selection.token_rows import chosen_rows, masked_rows, refuse_endless, write_tokens
from curate.selection.tokenised import TokenCount, TokenView
from curate.selection.tokens import TokenChoice
from curate.selection.workers import Hire, Workers

MANIFEST = "manifest.json"
KIND = "curate selection"
_NO_WEIGHTS = "The weights that filters give are left out: rows of tokens have no place for them."


def check_form(format: str, view: TokenView | None) -> None:
    """Refuse, before any work, a format that cannot be written."""
    if format not in FORMATS:
        raise SettingsError(f"The format is {format!r}; expected {', '.join(FORMATS)}.", hint=nearest(format, FORMATS))
    if format == MEGATRON or (view is not None and view.pack is not None):
        refuse_endless(format, view)


def refuse_taken(out: Path | str, *, overwrite: bool, option: str = "--out") -> None:
    """Raise SettingsError for a folder with other content than a selection that may be replaced."""
    parent_of(out)  # a bucket is no folder of it
    folder = open_folder(out)
    is_file = folder.is_here and folder.root.is_file()
    if not is_file and not is_taken(folder):
        return
    if is_file or not folder.exists(MANIFEST) or KIND not in folder.read(MANIFEST).decode():
        raise SettingsError(
            f"{folder.address} exists and is not a selection of curate.", hint=f"Give another folder with {option}."
        )
    if not overwrite:
        raise SettingsError(
            f"{folder.address} holds a selection already.",
            hint=f"Replace it with --overwrite, or give another {option}.",
        )


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a selection is written."""

    format: str
    view: TokenView | None = None
    """As tokens."""
    embed: Embed | None = None
    """With places on a map."""
    choice: TokenChoice | None = None
    """Of tokens, of which the others carry no loss."""
    hire: Hire | None = None
    """Finds the workers that share the writing; None: this process alone. No byte depends on them."""

    def workers(self, tokens: int) -> Workers | None:
        """Return the workers for so many tokens; chosen ones are written by the process that has chosen them."""
        return None if self.hire is None or self.choice is not None else self.hire(tokens)


def write_dump(
    left: Left,
    form: Form,
    out: Path | str,
    *,
    manifest: dict[str, Any],
    card: Callable[[Described], str],
    reporter: Reporter,
) -> Described:
    """Write the whole selection into a new folder that takes the place of `out`, so that it is complete or not there.

    `card` makes the dataset card.
    """
    place = parent_of(out)[1]
    left.funnel.materialise()
    with new_folder(out, last=MANIFEST, by="Another selection") as folder:
        written = _write_rows if form.view is None else _write_tokens
        described, handover = written(left, form, folder, manifest["fingerprint"], place, reporter)
        _write_rejected(left.funnel, folder / "rejected")
        (folder / HANDOVER).write_text(handover, encoding="utf-8")
        (folder / "README.md").write_text(card(described), encoding="utf-8")
        told = canonical({**manifest, **_told(described, manifest, form.choice)})
        (folder / MANIFEST).write_text(told, encoding="utf-8")
    return described


def _write_tokens(
    left: Left, form: Form, folder: Path, fingerprint: str, place: str, reporter: Reporter
) -> tuple[Described, str]:
    """Write rows of tokens; return what they are, and the text of the hand-over."""
    assert form.view is not None
    count, last = TokenCount(), left.funnel.stages[-1]
    with reporter.stage("write", total=last.documents) as task:
        if form.choice is not None:
            rows = chosen_rows(form.choice, left.funnel, count, task)
        else:
            rows = masked_rows(left, form.view, count, folder / "spools", task, form.workers(last.tokens))
        described, handover = write_tokens(rows, count, folder, form.format, form.view, fingerprint, place)
    shutil.rmtree(folder / "spools", ignore_errors=True)
    if left.funnel.weighted:
        described = replace(described, changes=(*described.changes, _NO_WEIGHTS))
    return described, handover


def _write_rows(
    left: Left, form: Form, folder: Path, fingerprint: str, place: str, reporter: Reporter
) -> tuple[Described, str]:
    """Write the pool's own rows with their scores; return what they are, and the text of the hand-over."""
    choice = form.choice
    places = None if form.embed is None else places_of(left.documents(), form.embed, folder / "map")
    by_token = None if choice is None else (choice.schema, choice.rows(left.funnel))
    workers = form.workers(left.funnel.stages[-1].tokens)
    files = write_row_files(
        left, folder, form.format, fingerprint, reporter, places=places, by_token=by_token, workers=workers
    )
    shutil.rmtree(folder / "map", ignore_errors=True)
    if by_token is not None and next(by_token[1], None) is not None:  # which ends the count of what was written, too
        raise AssertionError("a document with chosen tokens was not written")
    names, of_tokens = files.columns.score_names, [] if choice is None else choice.schema.names
    tokens = {column: names[column] for column in of_tokens}
    described = Described(
        scores=[name for column, name in names.items() if column not in (*PLACES, *of_tokens)],
        places=[name for column, name in names.items() if column in PLACES],
        tokens=tokens,
        figures=None if choice is None else choice.figures,
        features=files.features,
        changes=files.columns.notes,
    )
    kinds = [Kind("tokens", (tokens[IDS], tokens[LABELS]))] if tokens else sorted_kinds(files.kinds)
    return described, of_rows(kinds, place)


def _told(described: Described, manifest: dict[str, Any], choice: TokenChoice | None) -> dict[str, Any]:
    """Return what the manifest says of the data once they are written."""
    told: dict[str, Any] = {"score_columns": described.scores, "changes": list(described.changes)}
    if described.token_count is not None:
        told["tokenised"] = {**manifest["tokenised"], **asdict(described.token_count)}
    if choice is not None and choice.figures is not None:
        told |= {"tokens": asdict(choice.figures), "token_columns": dict(described.tokens)}
    return told


def _write_rejected(funnel: Funnel, folder: Path) -> None:
    folder.mkdir()
    with (
        funnel.rejected() as reader,
        pq.ParquetWriter(folder / "rejected.parquet", reader.schema, compression="zstd") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
