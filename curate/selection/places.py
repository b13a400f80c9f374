"""Places of documents on a map: two principal components of their embeddings, kept on disk meanwhile."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.schema import Document

COLUMNS = ("x", "y")
Embed = Callable[[Sequence[Document]], np.ndarray]
"""Returns an embedding of each document, `[documents, d]`; NaN for one that has none."""
_TOGETHER = 256


def places_of(documents: Iterable[Document], embed: Embed, folder: Path) -> np.ndarray:
    """Return each document's place, float32 `[documents, 2]`, mapped from a file in `folder`; NaN where it has none.

    The components are those of these documents' embeddings, each with the sign that makes its largest entry positive.
    """
    folder.mkdir()
    stream, sums = iter(documents), _Sums()
    with (folder / "embeddings").open("wb") as file:
        while batch := list(islice(stream, _TOGETHER)):
            embeddings = np.asarray(embed(batch), np.float32)
            sums.add(embeddings)
            file.write(embeddings.tobytes())
    mean, components = sums.components()
    places = np.memmap(folder / "places", np.float32, "w+", shape=(sums.documents, 2))
    embeddings = np.memmap(folder / "embeddings", np.float32, "r", shape=(sums.documents, len(mean)))
    for start in range(0, sums.documents, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        places[part] = (embeddings[part] - mean) @ components
    return places


def with_places(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Append the columns of places; null where there is none."""
    for name, values in zip(COLUMNS, places.T, strict=True):
        table = table.append_column(name, pa.array(values, pa.float32(), from_pandas=True))
    return table


class _Sums:
    """Sums over embeddings, from which their principal components follow."""

    def __init__(self) -> None:
        self.documents = self._number = 0
        self._sum = self._products = np.zeros(())

    def add(self, embeddings: np.ndarray) -> None:
        finite = embeddings[np.isfinite(embeddings).all(1)].astype(np.float64)
        self.documents += len(embeddings)
        self._number += len(finite)
        self._sum = self._sum + finite.sum(0)
        self._products = self._products + finite.T @ finite

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean `[d]` and the components `[d, 2]`."""
        mean = self._sum / max(1, self._number)
        _, vectors = np.linalg.eigh(self._products / max(1, self._number) - np.outer(mean, mean))
        two = vectors[:, ::-1][:, :2]
        return mean, two * np.sign(np.take_along_axis(two, np.abs(two).argmax(0)[None], 0))
