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

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.documents import Pool
from curate.errors import CurateError, SettingsError
from curate.folders.codecs import ARRAY
from curate.folders.folder import Folder, put_json, read_json
from curate.folders.part_folder import FINISHED, PartFolder
from curate.folders.parts import Part, put_table
from curate.gradients.roots import Whitening, flat, from_flat, moved
from curate.gradients.sketches import Block
from curate.schema import ROW_FIELDS
from curate.stores.settings import IndexSettings
from curate.stores.storage import Codes, Storage

_ELSEWHERE = "eigenvectors"
_WIDENED = 64  # low-rank sketches that are made whole at a time: each may be megabytes
SHARDS, BACKGROUND, WHITENING = "shards.json", "background.json", "curvature/whitening.safetensors"


@final
class Store(PartFolder):
    """A pool's sketches on disk. Open one to score any target from it, or to query its nearest documents."""

    KIND: ClassVar[str] = "store"
    RECORD: ClassVar[str] = "store.json"
    ROWS: ClassVar[str] = "rows"
    WHICH: ClassVar[str] = "Make one with `curate index --pool FOLDER`, or give the folder that it wrote."

    @cached_property
    def settings(self) -> IndexSettings:
        """The settings that the store was made with."""
        return IndexSettings.from_record(self.record.settings, self.record.details.pool)

    @cached_property
    def storage(self) -> Storage:
        blocks = [Block(**b) for b in self.record.details.blocks]
        return Storage(self.settings.storage, blocks, self.settings.rank or 0)

    @property
    def shards(self) -> dict[str, dict[str, Any]]:
        """Every shard by name: its number, and the fingerprint that it had when it was indexed."""
        return read_json(self.folder, SHARDS) if self.folder.exists(SHARDS) else {}

    @cached_property
    def pool(self) -> Pool:
        """The pool by its address alone; no shard is read."""
        return Pool(address=self.record.details.pool, shards=())

    def refuse_other_model(self, fingerprints: Mapping[str, str]) -> None:
        """Raise CurateError unless the store was made with a model, and states of its training, of these."""
        if not self.record.fingerprints.same_model(fingerprints):
            raise CurateError(
                f"{self.settings.model} is not the model that {self.address} was indexed with.",
                hint="Put that model back, or index into another store.",
            )

    def refuse_other_method(self, method: str) -> None:
        """Raise SettingsError where its parts hold another method's sketches."""
        if self.settings.method != method and self.has_parts(self.address):
            raise SettingsError(
                f"{self.address} was indexed for {self.settings.method!r}; you asked for {method!r}.",
                hint="Give another folder with --out.",
            )

    def require_finished(self) -> None:
        """Raise CurateError unless the store holds its whole pool."""
        if not self.is_finished:
            raise CurateError(
                f"{self.address} is not finished.",
                hint=f"Repeat the `curate index --pool … --out {self.address}` that began it; it continues.",
            )

    def __len__(self) -> int:
        """Return how many documents the store holds."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """The number of documents of every part."""
        return [pq.read_metadata(p.path).num_rows for p in self.all_parts()]

    @property
    def sketch_bytes(self) -> int:
        """Bytes of the sketches on disk."""
        return sum(facts.size for facts in self.folder.child("sketches").files() if facts.name.endswith(".npy"))

    def forget(self) -> None:
        """Remove everything beside the parts, before there are any."""
        folders = ("sketches", "texts", "curvature", "norms", "search", "neighbours")
        for name in (SHARDS, BACKGROUND, FINISHED, *folders):
            self.folder.remove(name)

    def add_shards(self, pool: Pool) -> None:
        """Add a pool's shards: indexed ones keep their number, new ones come after them.

        Raises CurateError when an indexed shard has changed.
        """
        shards, fingerprints = dict(self.shards), pool.shard_fingerprints()
        former = {
            shards[n]["fingerprint"]: n for n in shards if n not in {s.name for s in pool.shards} and self.parts(n)
        }
        for shard in pool.shards:
            fingerprint = fingerprints.get(shard.name)
            indexed = shards.get(shard.name)
            if indexed is None and fingerprint is not None and fingerprint in former:
                raise CurateError(
                    f"{shard.name} is in {self.address} already, as {former[fingerprint]}: with another address beside"
                    " it, equal names of files are told apart by their folders.",
                    hint="Give new shards names of their own, or index all into another store (--out).",
                )
            if indexed is None:
                shards[shard.name] = {"number": len(shards), "fingerprint": fingerprint}
            elif not self.parts(shard.name):
                shards[shard.name] = {**indexed, "fingerprint": fingerprint}
            elif indexed["fingerprint"] != fingerprint:
                raise CurateError(
                    f"{shard.name} has changed since it was indexed into {self.address}.",
                    hint="Index the changed pool into another store (--out); new shards alone may be added to one.",
                )
        put_json(self.folder, SHARDS, shards)

    def remember_background(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Record which rows the second moment is fitted on; they stay when the pool grows."""
        put_json(self.folder, BACKGROUND, {shard: sorted(numbers) for shard, numbers in rows.items()})

    @property
    def has_background(self) -> bool:
        return self.folder.exists(BACKGROUND)

    def write_sketches(self, part: str, codes: Codes, texts: Sequence[str]) -> None:
        """Write a part's sketches and texts; its rows are written after them."""
        for whitening in self.folder.list("norms"):  # of an earlier part of this name that was lost
            self.folder.remove(f"{whitening}{part}.npy")
        for name, array in (("codes", codes.codes), ("scales", codes.scales)):
            put_array(self.folder, f"sketches/{part}.{name}.npy", array)
            self._copies.pop(f"sketches/{part}.{name}.npy", None)
        put_table(self.folder, f"texts/{part}.parquet", pa.table({"text": pa.array(texts, pa.string())}), {})

    def codes(self, part: Part) -> Codes:
        """Return a part's stored sketches, memory-mapped."""
        name = part.path.stem
        return Codes(**{n: read_array(self._copy(f"sketches/{name}.{n}.npy")) for n in ("codes", "scales")})

    def _copy(self, name: str) -> Path:
        """Return the file here of sketches, which an object store is asked for once: a search reads them many times."""
        if (path := self._copies.get(name)) is None or not path.exists():
            path = self._copies[name] = self.folder.local(name)
        return path

    @cached_property
    def _copies(self) -> dict[str, Path]:
        return {}

    def texts(self, part: Part, rows: Sequence[int] | None = None) -> list[str]:
        """Return the texts of a part's documents, or of the given rows of the part."""
        column = pq.read_table(self.folder.local(f"texts/{part.path.stem}.parquet"), columns=["text"])["text"]
        return (column if rows is None else column.take(pa.array(rows, pa.int64()))).to_pylist()

    def rows(self) -> pl.LazyFrame:
        """Return every document's row in the order of the sketches, lazily; columns that differ are unified."""
        return self.table(pa.schema(ROW_FIELDS))

    def background(self) -> Iterator[Float[Tensor, "documents sketch"]]:
        """Yield the sketches of the background sample, a few of a part at a time."""
        background = read_json(self.folder, BACKGROUND)
        for part in self.all_parts():
            numbers = pq.read_table(part.path, columns=["row"])["row"].to_numpy()
            positions = np.flatnonzero(np.isin(numbers, background.get(part.shard, [])))
            step = _WIDENED if self.storage.rank else max(1, len(positions))
            for i in range(0, len(positions), step):
                yield self.storage.decode(self.codes(part)[positions[i : i + step]])

    def keep_whitening(self, whitening: Whitening) -> None:
        """Keep the second moment's roots, the default whitening of sketches."""
        roots = flat(moved(whitening, torch.device("cpu"), torch.float32))
        elsewhere, stored = self._eigenvectors(roots)
        new_roots = {name: root.contiguous() for name, root in roots.items() if name not in stored}
        metadata = {_ELSEWHERE: elsewhere} if stored else None
        self.folder.put(WHITENING, lambda path: save_file(new_roots, path, metadata=metadata))

    def whitening(self) -> Whitening:
        """Return the kept roots, in float32."""
        with safe_open(self.folder.local(WHITENING), framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            elsewhere = (file.metadata() or {}).get(_ELSEWHERE)
        if elsewhere is not None:
            with safe_open(self.folder.local(elsewhere), framework="pt") as file:
                missing = {n.replace(" damping", " vectors") for n in tensors if n.endswith(" damping")} - set(tensors)
                tensors |= {name: file.get_tensor(name).float().clone() for name in missing}
        return from_flat(tensors)

    def _eigenvectors(self, roots: Mapping[str, Tensor]) -> tuple[str, set[str]]:
        """Return the file of the store's fits that already holds eigenvectors of these roots, and their names.

        Those of large layers are the largest tensors beside the sketches: they are stored once.
        """
        for name in self.folder.list("curvature"):
            if not name.startswith("curvature/eigen-"):
                continue
            with safe_open(self.folder.local(name), framework="pt") as file:
                names = {n for n in file.keys() if n in roots}  # noqa: SIM118
                if names and all(file.get_tensor(n).float().equal(roots[n]) for n in names):
                    return name, names
        return "", set()


def put_array(folder: Folder, name: str, array: np.ndarray) -> None:
    """Put an array."""
    folder.put(name, partial(ARRAY.write, array))


def read_array(path: Path) -> np.ndarray:
    """Open an array, memory-mapped. Raises CurateError naming the file when it is not whole."""
    try:
        # Mode c copies on write, which never happens; torch warns of read-only arrays.
        return np.load(path, mmap_mode="c").view(np.ndarray)  # a memmap's own slices are slow to make
    except OSError as error:
        raise CurateError(f"{path}: cannot be opened ({error}).") from error
    except ValueError as error:
        remade = "the part's file in rows/" if path.parent.name == "sketches" else "this file"
        raise CurateError(
            f"{path}: cannot be read ({error}).", hint=f"Delete {remade} and index again: it is written anew."
        ) from error
