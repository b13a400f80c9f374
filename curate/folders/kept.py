"""What was expensive to make and is kept in a folder, by a fingerprint of all that it depends on."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.folders.atomic import atomic_write

# Raised whenever a fit or a solve comes to mean something else, so that no older run's tensors are taken for it.
ALGORITHMS = 2


class Kept:
    """Tensors of a run that were expensive to make, by name and by a fingerprint of all that they depend on.

    They are looked for in the run itself, then in its neighbours, so that a second run with the same target, model and
    settings does not compute them again.
    """

    def __init__(self, run: Path, neighbours: Sequence[Path] = ()) -> None:
        self.run, self.neighbours = run, neighbours

    def get(
        self, name: str, depends_on: Mapping[str, object], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the tensors kept under `name` for exactly these dependencies, making and keeping them if need be."""
        key = xxhash.xxh3_64_hexdigest(repr([ALGORITHMS, *sorted(depends_on.items())]).encode())
        where = Path(name).with_name(f"{Path(name).name}-{key}.safetensors")
        if (own := _load(self.run / where)) is not None:
            return own
        (self.run / where).parent.mkdir(parents=True, exist_ok=True)
        for run in self.neighbours:
            if (theirs := _load(run / where)) is not None:
                with atomic_write(self.run / where) as temporary:
                    _same_file(run / where, temporary)
                return theirs
        tensors = make()
        with atomic_write(self.run / where) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        del tensors
        # Read back, so that the first use and every later one see the same memory layout and give the same bits.
        made = _load(self.run / where)
        assert made is not None
        return made


def _same_file(source: Path, copy: Path) -> None:
    """Give a file a second name where the file system can (curvature takes gigabytes), else copy it."""
    copy.unlink(missing_ok=True)
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _load(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none, or where it is damaged and is better made again."""
    if not path.exists():
        return None
    try:
        # Copies, since a file's tensors lie wherever they fell, and BLAS rounds differently by alignment.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
