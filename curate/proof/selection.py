"""A selection on disk and its run, from its manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import CurateError
from curate.folders.folder import Folder, read_json
from curate.folders.local import open_folder, path_or_url
from curate.folders.record import RunRecord
from curate.scores.run import Run
from curate.selection.dump import KIND, MANIFEST
from curate.selection.funnel import NEARLY_ALL
from curate.selection.ranking import Ranking, ranking_column
from curate.selection.tokens import NAME as TOKENS

_SIZES = ("top", "token_budget", "decontaminate", TOKENS)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A selection: its folder, manifest and run."""

    folder: Folder
    manifest: dict[str, Any]
    run: Run
    """From the record in the manifest; its folder may be gone."""

    @classmethod
    def read(cls, address: Path | str) -> "Selected":
        """Read a selection's manifest. Raises CurateError for another folder."""
        folder = open_folder(address)
        try:
            manifest = read_json(folder, MANIFEST)
        except (OSError, ValueError) as error:
            raise CurateError(
                f"{folder.address} holds no selection ({MANIFEST}: {error})."
                if folder.exists(MANIFEST)
                else f"{folder.address} holds no selection: there is no {MANIFEST}.",
                hint="Give the folder that `curate select` wrote.",
            ) from error
        if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
            raise CurateError(
                f"{folder.address}/{MANIFEST} is not the manifest of a selection.",
                hint="Give the folder that `curate select` wrote.",
            )
        if "tokenised" in manifest:
            raise CurateError(
                f"{folder.address} holds tokens; expected the documents themselves.",
                hint="Select them again without --tokenised, into another folder.",
            )
        record = RunRecord({k: v for k, v in manifest["run"].items() if k != "path"})
        return cls(folder=folder, manifest=manifest, run=Run(open_folder(_run_of(folder, manifest)), record))

    @property
    def is_of_tokens(self) -> bool:
        """Whether it chose tokens, not whole documents."""
        return self.manifest["unit"] == "token"

    @property
    def tokens(self) -> int:
        """Tokens that carry loss."""
        return self.manifest["after"]["tokens"]

    @property
    def budget(self) -> int:
        """The budget of tokens that it fills, else its tokens: alike for selections of one budget."""
        last = self.manifest["filters"][-1]
        wanted = last["values"].get("tokens")
        if last["name"] not in _SIZES or wanted is None:
            return self.tokens
        return wanted if NEARLY_ALL * wanted <= self.tokens <= wanted else self.tokens

    @property
    def mean_tokens(self) -> float:
        """Tokens of one of the run's documents on average."""
        before = self.manifest["before"]
        return before["tokens"] / before["documents"]

    @property
    def column(self) -> str:
        """The score column that it was ranked by."""
        if (ranking := self.manifest.get("ranking")) is not None:
            return ranking["column"]
        return ranking_column(self.manifest["filters"], self.run.record.details.columns or ["score"])

    @property
    def ranking(self) -> Ranking:
        """What its filters saw as scores."""
        given = self.manifest.get("ranking") or {}
        return Ranking(**{k: v for k, v in given.items() if k != "column"})

    @property
    def filters(self) -> list[tuple[str, dict[str, Any]]]:
        """Its filters except those of size, and decontamination, which every selection has."""
        return [(s.get("file") or s["name"], s["asked"]) for s in self.manifest["filters"] if s["name"] not in _SIZES]


def _run_of(folder: Folder, manifest: dict[str, Any]) -> Path | str:
    """Return where the run lies: as the selection names it, from here or from a folder above the selection."""
    path = path_or_url(manifest["run"]["path"])
    if isinstance(path, str):
        return path
    places = [path, *(above / path for above in folder.root.resolve().parents if folder.is_here)]
    return next((place for place in places if (place / Run.RECORD).exists()), path)
