"""Make a pool in every shard format, and a target that is held out of it, from the standard library."""

import gzip
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from curate.errors import CurateError, SettingsError, nearest
from curate.quickstart.library import Piece, read_library


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySettings:
    """The target's package and the sizes of target and pool."""

    package: str = "asyncio"
    """The target: some of its pieces are held out, the rest stay in the pool to be found."""
    target_rows: int = 200
    documents: int = 3000
    """Size of the pool; a smaller library gives all it has."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("target_rows", "documents"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPool:
    """The pool and target, and the share of the package in the pool."""

    pool: Path
    target: Path
    package: str
    documents: int
    target_rows: int
    in_package: int
    """Documents of the target's package in the pool."""

    @property
    def base_rate(self) -> float:
        return self.in_package / self.documents


def build_library_pool(out: Path, settings: LibrarySettings, *, root: Path | None = None) -> LibraryPool:
    """Write `out/pool/` (five shard formats) and `out/target.jsonl`; the same Python gives the same rows.

    Raises CurateError where `package` is unknown, or too small to be split into a target and a remainder.
    """
    pieces = _distinct(read_library(root))
    random.Random(settings.seed).shuffle(pieces)
    package_pieces = [p for p in pieces if p.source == settings.package]
    if not package_pieces:
        hint = nearest(settings.package, sorted({p.source for p in pieces}))
        raise CurateError(f"The standard library has no package {settings.package!r}.", hint=hint)
    if len(package_pieces) < 2 * settings.target_rows:
        raise CurateError(
            f"Package {settings.package!r} gives {len(package_pieces)} documents; expected at least "
            f"{2 * settings.target_rows}, to hold out half of them and leave the others in the pool.",
            hint=f"Take at most {len(package_pieces) // 2} target rows, or a larger package.",
        )
    target, remainder = package_pieces[: settings.target_rows], package_pieces[settings.target_rows :]
    others = [p for p in pieces if p.source != settings.package]
    rows = remainder + others[: max(settings.documents - len(remainder), 0)]
    rows = sorted(rows[: settings.documents], key=lambda p: p.id)
    _write_shards(out / "pool", rows)
    _write_jsonl(out / "target.jsonl", sorted(target, key=lambda p: p.id))
    return LibraryPool(
        pool=out / "pool",
        target=out / "target.jsonl",
        package=settings.package,
        documents=len(rows),
        target_rows=len(target),
        in_package=sum(p.source == settings.package for p in rows),
    )


def _distinct(pieces: Iterable[Piece]) -> list[Piece]:
    """Keep the first of equal texts: a target row's copy in the pool would flatter the result."""
    by_text: dict[str, Piece] = {}
    for piece in pieces:
        by_text.setdefault(piece.text, piece)
    return list(by_text.values())


def _write_shards(folder: Path, rows: Sequence[Piece]) -> None:
    """Deal the rows to one shard per format, as a grown collection would hold them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, write) in enumerate(_WRITERS.items()):
        write(folder / name, rows[i :: len(_WRITERS)])


def _lines(rows: Sequence[Piece]) -> bytes:
    return "".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rows).encode()


def _write_jsonl(path: Path, rows: Sequence[Piece]) -> None:
    path.write_bytes(_lines(rows))


def _write_gzip(path: Path, rows: Sequence[Piece]) -> None:
    path.write_bytes(gzip.compress(_lines(rows), mtime=0))


def _write_zstd(path: Path, rows: Sequence[Piece]) -> None:
    import zstandard

    path.write_bytes(zstandard.ZstdCompressor().compress(_lines(rows)))


def _write_parquet(path: Path, rows: Sequence[Piece]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rows]), path)


def _write_dataset(path: Path, rows: Sequence[Piece]) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list([asdict(r) for r in rows]).save_to_disk(path)


_WRITERS: dict[str, Callable[[Path, Sequence[Piece]], None]] = {
    "part-0.jsonl": _write_jsonl,
    "part-1.jsonl.gz": _write_gzip,
    "part-2.jsonl.zst": _write_zstd,
    "part-3.parquet": _write_parquet,
    "part-4": _write_dataset,
}
