"""A proxy's folder that appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.errors import SettingsError
from curate.folders.atomic import atomic_folder
from curate.folders.local import refuse_place

RECORD = "warmup.json"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to fill; it takes the place of `out` when the block ends without an error.

    Removes first what a killed process left in it. Raises SettingsError when `out` exists and is neither empty
    nor a proxy of a warm-up, CurateError when another process is filling the same folder.
    """
    check_replaceable(out)
    with atomic_folder(out, by="Another warm-up") as partial:
        yield partial


def check_replaceable(out: Path) -> None:
    """Raise SettingsError when `out` holds anything but a proxy that a warm-up made."""
    refuse_place(out, "--out")
    if not out.exists():
        return
    if not out.is_dir():
        raise SettingsError(f"{out} is a file; expected a folder.", hint="Give another folder with --out.")
    if any(out.iterdir()) and not (out / RECORD).is_file():
        raise SettingsError(
            f"{out} is not empty and has no {RECORD}, so it is no proxy made by a warm-up.",
            hint="Give another folder with --out; this one is left as it is.",
        )
