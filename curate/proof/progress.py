"""How far a validation or a verification is, from its folder alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.folders.folder import Folder, read_json
from curate.folders.local import open_folder
from curate.proof.settings import SETTINGS

_FIGURES = {"validate": "validation.json", "verify": "verify.json"}
ARMS = "arms"
UNTRAINED = "untrained"


@dataclass(frozen=True, kw_only=True)
class ProofProgress:
    """A folder of `curate validate` or `curate verify`."""

    folder: str
    command: str
    settings: Mapping[str, Any]
    finished: bool
    trainings: int | None
    """Kept by a verification; None of a validation, whose bank keeps them elsewhere."""
    of_trainings: int | None
    sentence: str | None
    """The verdict of a verification that is finished."""


def is_proof(folder: Path | str) -> bool:
    """Return whether a validation or a verification was begun in a folder."""
    return open_folder(folder).exists(SETTINGS)


def is_verification(folder: Folder) -> bool:
    """Return whether a verification was begun in a folder."""
    return folder.exists(ARMS) or (folder.exists(SETTINGS) and read_json(folder, SETTINGS)["command"] == "verify")


def proof_progress(path: Path | str) -> ProofProgress:
    """Read how far a validation or a verification is. Raises CurateError where its settings cannot be read."""
    folder = open_folder(path)
    content = read_json(folder, SETTINGS)
    command, settings = content["command"], content["settings"]
    figures = _FIGURES[command]
    finished, is_verification = folder.exists(figures), command == "verify"
    return ProofProgress(
        folder=folder.address,
        command=command,
        settings=settings,
        finished=finished,
        trainings=len(kept_trainings(folder)) if is_verification else None,
        of_trainings=_trainings(settings) if is_verification else None,
        sentence=read_json(folder, figures)["sentence"] if finished and is_verification else None,
    )


def kept_trainings(folder: Folder) -> set[str]:
    """Return the trainings that a verification keeps, as `arm-seed`."""
    files = [name.removeprefix(f"{ARMS}/") for name in folder.list(ARMS)]
    names = (f.removesuffix(".json").rpartition("-")[0] for f in files if f.endswith(".json"))
    return {name for name in names if name not in ("", UNTRAINED)}


def _trainings(settings: Mapping[str, Any]) -> int:
    arms = 2 + len(set(settings["baselines"])) + len(settings["sweep"]) + bool(settings["all_times"])
    return settings["seeds"] * arms
