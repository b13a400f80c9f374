"""Putting a small package on the search path as an installer leaves it: its modules and their metadata."""

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, *, entry_points: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> Path:
    """Write files, and a .dist-info of version 1.0 with entry points (group → name → value), into a folder."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    sections = (
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in entry_points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(sections))
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return site
