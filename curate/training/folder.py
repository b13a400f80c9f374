"""A proxy's folder that appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.errors import SettingsError
from curate.folders import whole
from curate.folders.local import open_folder, refuse_place

RECORD = "warmup.json"


@contextmanager
def new_folder(out: Path | str) -> Iterator[Path]:
    """Yield a folder to fill; it takes the place of `out` when the block ends without an error.

    Removes first what a killed process left in it. Raises SettingsError when `out` exists and is neither empty
    nor a proxy of a warm-up, CurateError when another process is filling the same folder.
    """
    check_replaceable(out)
    with whole.new_folder(out, last=RECORD, by="Another warm-up") as partial:
        yield partial


def check_replaceable(out: Path | str) -> None:
    """Raise SettingsError when `out` holds anything but a proxy that a warm-up made."""
    refuse_place(out, "--out")
    folder = open_folder(out)
    if folder.is_here and folder.root.is_file():
        raise SettingsError(f"{out} is a file; expected a folder.", hint="Give another folder with --out.")
    if whole.is_taken(folder) and not folder.exists(RECORD):
        raise SettingsError(
            f"{folder.address} is not empty and has no {RECORD}, so it is no proxy made by a warm-up.",
            hint="Give another folder with --out; this one is left as it is.",
        )
