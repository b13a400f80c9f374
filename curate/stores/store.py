"""The store's folder: a pool's sketches as they lie, with ids, norms and texts beside them.

store.json                  settings, the model's fingerprint, details (the pool's address and fingerprint, layers …)
rows/S-P.parquet            part P of shard S: ids, tokens, loss, gradient norm and the pool's columns of its documents
sketches/S-P.codes.npy      their sketches, layer after layer, in that order; memory-mapped when read
sketches/S-P.scales.npy     what the numbers are multiplied by
texts/S-P.parquet           their words: for people, and to look for the rows of a target in them
skipped/S-P.parquet         rows of the same stretch that were set aside
shards.json                 every shard's number and what it was when it was indexed
background.json             the rows that the second moment is fitted on
curvature/, norms/          that second moment with its eigendecomposition; norms of the whitened sketches
search/, neighbours/        an approximate index; pairs of near documents
finished.json               totals; there once every shard has reached its end
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.documents import Fields, Pool
from curate.errors import CurateError, SettingsError
from curate.folders.atomic import atomic_write, write_text
from curate.folders.part_folder import FINISHED, PartFolder
from curate.folders.parts import Part, write_table
from curate.folders.record import canonical, differences
from curate.gradients.roots import Whitening, flat, from_flat, moved
from curate.gradients.sketches import Block
from curate.schema import ROW_FIELDS, Document
from curate.settings import ScoreSettings
from curate.stores.settings import IndexSettings
from curate.stores.storage import Codes, Storage

if TYPE_CHECKING:
    from curate.stores.query import Hit

_ELSEWHERE = "eigenvectors"
_WIDENED = 64  # low-rank sketches that are made whole at a time: each may be megabytes
SHARDS, BACKGROUND, WHITENING = "shards.json", "background.json", "curvature/whitening.safetensors"


@final
class Store(PartFolder):
    """A pool's sketches on disk. Open one to score any target from it, or to ask it for the nearest documents."""

    KIND: ClassVar[str] = "store"
    RECORD: ClassVar[str] = "store.json"
    ROWS: ClassVar[str] = "rows"
    WHICH: ClassVar[str] = "Make one with `curate index --pool FOLDER`, or give the folder that it wrote."

    def query(self, texts: Sequence[str | Document], k: int = 10) -> "list[list[Hit]]":
        """Return the `k` documents whose gradients lie nearest to each text's, the nearest first.

        Loads the proxy on the first call. Raises CurateError when the proxy is not the one that was indexed with.
        """
        return self._searcher.query(texts, k)

    @cached_property
    def _searcher(self) -> Any:
        from curate.stores.query import Searcher

        return Searcher.open(self)

    @cached_property
    def asked(self) -> IndexSettings:
        """What the store was made with."""
        return IndexSettings.from_record(self.settings, tuple(self.details["pool"]))

    @cached_property
    def storage(self) -> Storage:
        blocks = [Block(**b) for b in self.details["blocks"]]
        return Storage(self.asked.storage, blocks, self.asked.rank)

    @property
    def shards(self) -> dict[str, dict[str, Any]]:
        """Every shard by name: its number, and the fingerprint that it had when it was indexed."""
        path = self.path / SHARDS
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @cached_property
    def pool(self) -> Pool:
        """The pool by its address alone: none of its shards is looked at."""
        return Pool(address=tuple(self.details["pool"]), shards=())

    def decided(self, settings: ScoreSettings) -> ScoreSettings:
        """Return a scoring's settings with all that the store decides.

        Raises SettingsError where something else was asked for, and CurateError unless the store is finished.
        """
        self.require_finished()
        own = self.asked.scoring(target=settings.target, method=settings.method)
        bound = {f.name: getattr(own, f.name) for f in dataclasses.fields(IndexSettings) if hasattr(own, f.name)}
        del bound["device"]  # sketches are the same wherever they are asked for
        usual = {f.name: f.default for f in dataclasses.fields(ScoreSettings)} | {"fields": Fields()}
        asked = {k: getattr(settings, k) for k in bound if getattr(settings, k) not in (usual[k], bound[k])}
        projection = {k: v for k, v in settings.method_settings.items() if k in own.method_settings}
        had = {k: bound[k] for k in asked} | {k: own.method_settings[k] for k in projection}
        given = {k: int(v) if str(v).lstrip("-").isdigit() else v for k, v in projection.items()}
        if lines := differences(had, asked | given, had="the store has"):
            raise SettingsError(
                f"{self.path} was indexed otherwise:\n  " + "\n  ".join(lines),
                hint="Leave these settings out (they come from the store), or index into another store.",
            )
        return replace(settings, **bound, method_settings={**settings.method_settings, **own.method_settings})

    def refuse_other_model(self, model: str) -> None:
        """Raise CurateError unless the store was made with a model of this fingerprint."""
        if self.fingerprints["model"] != model:
            raise CurateError(
                f"{self.asked.model} is not the model that {self.path} was indexed with.",
                hint="Put that model back, or index into another store.",
            )

    def require_finished(self) -> None:
        """Raise CurateError unless the store holds its whole pool."""
        if not self.is_finished:
            raise CurateError(
                f"{self.path} is not finished.",
                hint=f"Give the `curate index --pool … --out {self.path}` that began it again: it goes on.",
            )

    def __len__(self) -> int:
        """How many documents it holds."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many documents every part holds."""
        return [pq.read_metadata(p.path).num_rows for p in self.all_parts()]

    @property
    def sketch_bytes(self) -> int:
        """What the sketches take on disk."""
        return sum(p.stat().st_size for p in (self.path / "sketches").glob("*.npy"))

    def forget(self) -> None:
        """Remove all that lies beside the parts; there are none yet."""
        for name in (SHARDS, BACKGROUND, FINISHED):
            (self.path / name).unlink(missing_ok=True)
        for folder in ("sketches", "texts", "curvature", "norms", "search", "neighbours"):
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def add_shards(self, pool: Pool) -> None:
        """Take note of a pool's shards: known ones keep their number, new ones come after them.

        Raises CurateError when one that is known has changed.
        """
        known, now = dict(self.shards), pool.shard_fingerprints()
        gone = {known[n]["fingerprint"]: n for n in known if n not in {s.name for s in pool.shards} and self.parts(n)}
        for shard in pool.shards:
            fingerprint = now.get(shard.name)
            old = known.get(shard.name)
            if old is None and fingerprint is not None and fingerprint in gone:
                raise CurateError(
                    f"{shard.name} is in {self.path} already, as {gone[fingerprint]}: with another address beside it,"
                    " equal names of files are told apart by their folders.",
                    hint="Give new shards names of their own, or index all into another store (--out).",
                )
            if old is None:
                known[shard.name] = {"number": len(known), "fingerprint": fingerprint}
            elif not self.parts(shard.name):
                known[shard.name] = {**old, "fingerprint": fingerprint}
            elif old["fingerprint"] != fingerprint:
                raise CurateError(
                    f"{shard.name} has changed since it was indexed into {self.path}.",
                    hint="Index the changed pool into another store (--out); new shards alone may be added to one.",
                )
        write_text(self.path / SHARDS, canonical(known))

    def remember_background(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Write down which rows the second moment is fitted on; they stay when the pool grows."""
        write_text(self.path / BACKGROUND, canonical({shard: sorted(found) for shard, found in rows.items()}))

    @property
    def has_background(self) -> bool:
        return (self.path / BACKGROUND).exists()

    def write_sketches(self, part: str, codes: Codes, texts: Sequence[str]) -> None:
        """Write what lies beside a part's rows, which are written after it."""
        for folder in ("sketches", "texts"):
            (self.path / folder).mkdir(exist_ok=True)
        for norms in self.path.glob(f"norms/*/{part}.npy"):  # of what the part was before it was lost
            norms.unlink()
        for name, array in (("codes", codes.codes), ("scales", codes.scales)):
            write_array(self._sketches(part, name), array)
        write_table(pa.table({"text": pa.array(texts, pa.string())}), self.path / "texts" / f"{part}.parquet", {})

    def codes(self, part: Part) -> Codes:
        """Return a part's sketches as they lie, memory-mapped."""
        name = part.path.stem
        return Codes(codes=read_array(self._sketches(name, "codes")), scales=read_array(self._sketches(name, "scales")))

    def texts(self, part: Part, rows: Sequence[int] | None = None) -> list[str]:
        """Return the words of a part's documents, or of some of them by their place in it."""
        column = pq.read_table(self.path / "texts" / f"{part.path.stem}.parquet", columns=["text"])["text"]
        return (column if rows is None else column.take(pa.array(rows, pa.int64()))).to_pylist()

    def rows(self) -> pl.LazyFrame:
        """Every document's row in the order of the sketches, lazily; columns that differ are unified."""
        return self.table(pa.schema(ROW_FIELDS))

    def background(self) -> Iterator[Float[Tensor, "documents sketch"]]:
        """Yield the sketches of the background sample, some of a part at a time."""
        wanted = json.loads((self.path / BACKGROUND).read_text(encoding="utf-8"))
        for part in self.all_parts():
            numbers = pq.read_table(part.path, columns=["row"])["row"].to_numpy()
            places = np.flatnonzero(np.isin(numbers, wanted.get(part.shard, [])))
            step = _WIDENED if self.storage.rank else max(1, len(places))
            for i in range(0, len(places), step):
                yield self.storage.decode(self.codes(part)[places[i : i + step]])

    def keep_whitening(self, whitening: Whitening) -> None:
        """Keep what the second moment gives: the roots that sketches are whitened by unless told otherwise."""
        roots = flat(moved(whitening, torch.device("cpu"), torch.float32))
        elsewhere, there = self._eigenvectors(roots)
        with atomic_write(self.path / WHITENING) as temporary:
            own = {name: root.contiguous() for name, root in roots.items() if name not in there}
            save_file(own, temporary, metadata={_ELSEWHERE: elsewhere} if there else None)

    def whitening(self) -> Whitening:
        """Return those roots, in float32."""
        with safe_open(self.path / WHITENING, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            elsewhere = (file.metadata() or {}).get(_ELSEWHERE)
        if elsewhere is not None:
            with safe_open(self.path / elsewhere, framework="pt") as file:
                missing = {n.replace(" damping", " vectors") for n in tensors if n.endswith(" damping")} - set(tensors)
                tensors |= {name: file.get_tensor(name).float().clone() for name in missing}
        return from_flat(tensors)

    def _eigenvectors(self, roots: Mapping[str, Tensor]) -> tuple[str, set[str]]:
        """Return the file of the store's fits that holds eigenvectors of these roots already, and their names.

        Those of large layers are the most that there is beside sketches: once is enough.
        """
        for path in sorted((self.path / WHITENING).parent.glob("eigen-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                there = {n for n in file.keys() if n in roots}  # noqa: SIM118
                if there and all(file.get_tensor(n).float().equal(roots[n]) for n in there):
                    return str(path.relative_to(self.path)), there
        return "", set()

    def _sketches(self, part: str, name: str) -> Path:
        return self.path / "sketches" / f"{part}.{name}.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))


def read_array(path: Path) -> np.ndarray:
    """Open an array, memory-mapped. Raises CurateError naming the file when it is not whole."""
    try:
        # Copied when written to, which nothing does: torch warns of arrays that cannot be written at all.
        return np.load(path, mmap_mode="c").view(np.ndarray)  # a memmap's own slices are slow to make
    except OSError as error:
        raise CurateError(f"{path}: cannot be opened ({error}).") from error
    except ValueError as error:
        remade = "the part's file in rows/" if path.parent.name == "sketches" else "this file"
        raise CurateError(
            f"{path}: cannot be read ({error}).", hint=f"Delete {remade} and index again: it is made anew."
        ) from error
