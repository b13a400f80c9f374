import numpy as np
import pyarrow as pa
import pytest

from curate.schema import Document
from curate.selection.places import places_of, with_places


def documents(count: int) -> list[Document]:
    return [Document(doc_id=str(i), shard="s", row=i, content_hash="", text="t") for i in range(count)]


def embeddings(count: int, dim: int = 5) -> np.ndarray:
    rng = np.random.default_rng(count)
    return (rng.normal(size=(count, dim)) * [9, 4, 1, 1, 1][:dim] + 3).astype(np.float32)


@pytest.mark.parametrize("count", [3, 256, 700])
def test_places_are_the_first_two_principal_components(tmp_path, count):
    values = embeddings(count)
    found = places_of(documents(count), lambda batch: values[[d.row for d in batch]], tmp_path / "map")
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    _, _, vectors = np.linalg.svd(centred)
    two = vectors[:2].T
    two = two * np.sign(two[np.abs(two).argmax(0), [0, 1]])
    np.testing.assert_allclose(found, centred @ two, atol=1e-3)


def test_a_documents_place_does_not_depend_on_the_sign_that_a_solver_gives(tmp_path, monkeypatch):
    values = embeddings(40)
    found = places_of(documents(40), lambda batch: values[[d.row for d in batch]], tmp_path / "one").copy()
    solve = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (solve(matrix)[0], -solve(matrix)[1]))
    again = places_of(documents(40), lambda batch: values[[d.row for d in batch]], tmp_path / "two")
    np.testing.assert_array_equal(found, again)


def test_a_document_without_an_embedding_has_no_place_and_moves_no_other(tmp_path):
    values = embeddings(20)
    found = places_of(documents(20), lambda batch: values[[d.row for d in batch]], tmp_path / "one").copy()
    lacking = np.concatenate([values, np.full((1, 5), np.nan, np.float32)])
    again = places_of(documents(21), lambda batch: lacking[[d.row for d in batch]], tmp_path / "two")
    np.testing.assert_array_equal(found, again[:20])
    table = with_places(pa.table({"row": [0, 1]}), np.stack([again[0], again[20]]))
    assert table["x"].null_count == table["y"].null_count == 1
