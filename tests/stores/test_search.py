"""Search against brute force over dense whitened vectors."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import curate
from curate.errors import CurateError, SettingsError
from curate.gradients.roots import moved, whiten
from curate.progress import Silent
from curate.schema import Document
from curate.stores.approximate import Approximate, choose_search, open_approximate
from curate.stores.making import ensure_search, make_approximate
from curate.stores.neighbours import LEAST, find_neighbours
from curate.stores.query import Searcher
from curate.stores.search import Exact, Whitened
from curate.stores.store import Store
from curate.stores.streaming import stream
from curate.stores.whitening import norms
from tests.stores.conftest import DOCUMENTS, asked


@pytest.fixture(params=["store", "low_rank"])
def whitened(request: pytest.FixtureRequest) -> Whitened:
    return Whitened(request.getfixturevalue(request.param))


def dense(whitened: Whitened) -> torch.Tensor:
    """Every document's unit vector, in float64, by the definition."""
    values = torch.cat([whitened.store.storage.decode(whitened.store.codes(p)) for p in whitened.parts]).double()
    blocks = whitened.store.storage.blocks
    roots = moved(whitened.whitening, values.device, torch.float64)
    white = torch.cat([whiten(values[:, b.start : b.stop], roots[b.name]) for b in blocks], 1)
    return white / white.norm(dim=1, keepdim=True)


def test_a_pass_gives_every_row_once_and_in_order(store: Store) -> None:
    values = torch.cat([store.storage.decode(store.codes(p)) for p in store.all_parts()])
    found = list(stream(store, lambda codes: torch.from_numpy(codes.codes).sum(1)))
    assert [p for p, _ in found] == store.all_parts()
    torch.testing.assert_close(torch.cat([f for _, f in found]), values.sum(1))


def test_a_pass_leaves_torch_its_threads(store: Store) -> None:
    before = torch.get_num_threads()
    list(stream(store, lambda codes: torch.zeros(len(codes))))
    assert torch.get_num_threads() == before


def test_whitened_norms_are_those_of_the_whitened_sketches(whitened: Whitened) -> None:
    store = whitened.store
    values = torch.cat([store.storage.decode(store.codes(p)) for p in whitened.parts]).double()
    blocks = store.storage.blocks
    roots = moved(whitened.whitening, values.device, torch.float64)
    white = torch.cat([whiten(values[:, b.start : b.stop], roots[b.name]) for b in blocks], 1)
    found = torch.cat([whitened.norms[p.path.stem] for p in whitened.parts])
    torch.testing.assert_close(found.double(), white.norm(dim=1), rtol=1e-5, atol=1e-9)
    plain = norms(store, None, Silent())
    found = torch.cat([plain[p.path.stem] for p in whitened.parts])
    torch.testing.assert_close(found.double(), values.norm(dim=1), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("k", [1, 7, DOCUMENTS, 200])
def test_exact_search_finds_the_nearest_in_order(whitened: Whitened, k: int) -> None:
    vectors = dense(whitened)
    queries = vectors[5:9].float()
    expected = (queries.double() @ vectors.T).sort(dim=1, descending=True)
    found = Exact(whitened)(queries, k)
    there = min(k, len(whitened))
    torch.testing.assert_close(found.cosines[:, :there].double(), expected.values[:, :k], rtol=1e-5, atol=1e-6)
    assert (found.positions[:, 0] == torch.arange(5, 9)).all()
    assert (found.positions[:, there:] == -1).all()


def test_equal_documents_come_in_the_stores_order(place: Path, tmp_path: Path) -> None:
    rows = [f'{{"text": "add three and four to get seven number {i % 3}"}}\n' for i in range(9)]
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text("".join(rows))
    store = curate.index(asked(place, pool=(str(tmp_path / "pool"),), part_documents=4), tmp_path / "store")
    whitened = Whitened(store)
    found = Exact(whitened)(whitened.vectors(whitened.parts[0])[:1], 3)
    assert found.positions.tolist() == [[0, 3, 6]]


def test_candidates_get_their_exact_cosines(whitened: Whitened) -> None:
    vectors = dense(whitened)
    candidates = torch.tensor([[3, DOCUMENTS - 1, -1], [40, 3, 17]])
    found = whitened.cosines(vectors[:2].float(), candidates)
    expected = (vectors[:2, None] * vectors[candidates]).sum(2)
    torch.testing.assert_close(found[:, :2].double(), expected[:, :2], rtol=1e-5, atol=1e-6)
    assert found[0, 2] == -1


@pytest.fixture(scope="module")
def apart(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of its own, for indexes."""
    return curate.index(asked(place, storage="float16"), tmp_path_factory.mktemp("apart") / "store")


@pytest.mark.parametrize(
    "factory", ["BFlat", "IVF8,SQ8", *(pytest.param(f, marks=pytest.mark.slow) for f in ("BHNSW16", "HNSW8", "Flat"))]
)
@pytest.mark.filterwarnings("ignore")  # FAISS's bindings declare types in a way that Python warns of
def test_an_index_reaches_the_recall_that_it_says(apart: Store, factory: str) -> None:
    whitened = Whitened(apart)
    made = make_approximate(whitened, factory, width=24)
    width = apart.storage.width if factory.startswith("B") else 24
    assert (made.record.factory, made.record.documents, made.record.width) == (factory, DOCUMENTS, width)
    assert made.record.recall >= 0.97
    opened = open_approximate(whitened)
    assert isinstance(opened, Approximate)
    queries = whitened.vectors(whitened.parts[0])
    exact, found = Exact(whitened)(queries, 10), opened(queries, 10)
    same = (found.positions[:, :, None] == exact.positions[:, None, :]).any(2).float().mean()
    assert same >= 0.9
    assert (found.positions[:, 0] == torch.arange(len(queries))).all()
    torch.testing.assert_close(found.cosines[:, 0], torch.ones(len(queries)), rtol=1e-3, atol=1e-3)
    assert (found.cosines.diff(dim=1) <= 0).all()


def test_a_factory_that_there_is_not_is_refused(apart: Store) -> None:
    with pytest.raises(SettingsError, match="search is 'IVFx'; expected a factory string") as error:
        make_approximate(Whitened(apart), "IVFx")
    assert "HNSW32" in error.value.hint


def test_few_documents_are_searched_exactly_unless_told_otherwise(apart: Store) -> None:
    assert ensure_search(apart, "auto", Silent()) is None
    assert ensure_search(apart, "none", Silent()) is None
    made = ensure_search(apart, "IVF4,Flat", Silent())
    assert made is not None
    assert ensure_search(apart, "IVF4,Flat", Silent()) == made  # not made again
    assert isinstance(choose_search(Whitened(apart)), Approximate)
    assert isinstance(choose_search(Whitened(apart), exact=True), Exact)


def test_an_index_of_fewer_documents_is_not_used(apart: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whitened = Whitened(apart)
    make_approximate(whitened, "Flat")
    monkeypatch.setattr(Whitened, "__len__", lambda self: DOCUMENTS + 1)
    assert open_approximate(whitened) is None


def test_pairs_are_every_documents_nearest_others_both_ways_round(whitened: Whitened) -> None:
    path = find_neighbours(whitened.store, Silent(), nearest=3)
    cosines = dense(whitened) @ dense(whitened).T
    cosines.fill_diagonal_(-2)
    nearest = cosines.topk(3, dim=1)
    expected = {
        frozenset((i, int(j)))
        for i in range(len(cosines))
        for c, j in zip(nearest.values[i], nearest.indices[i], strict=True)
        if c >= LEAST
    }
    rows = whitened.store.rows().select("shard", "row").collect().rows()
    places = {place: i for i, place in enumerate(rows)}
    pairs = pl.read_parquet(path)
    found = [(places[r[0], r[1]], places[r[2], r[3]]) for r in pairs.rows()]
    assert {frozenset(pair) for pair in found} == expected
    assert len(found) == 2 * len(expected)
    assert found == sorted(found)
    given = np.array([cosines[pair].item() for pair in found])
    np.testing.assert_allclose(pairs["similarity"], given, rtol=1e-4)
    changed = path.stat().st_mtime_ns
    assert find_neighbours(whitened.store, Silent(), nearest=3).stat().st_mtime_ns == changed  # found once
    assert pl.read_parquet(find_neighbours(whitened.store, Silent(), nearest=1)).height < pairs.height


def test_a_documents_own_text_finds_it_first(store: Store) -> None:
    rows = store.rows().collect()
    texts = [t for p in store.all_parts() for t in store.texts(p)]
    for i in (0, 77, DOCUMENTS - 1):
        hit, *others = curate.query(store, [texts[i]], 4)[0]
        assert (hit.rank, hit.shard, hit.row, hit.text) == (1, rows["shard"][i], rows["row"][i], texts[i])
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert [h.rank for h in others] == [2, 3, 4]
        assert [h.score for h in others] == sorted((h.score for h in others), reverse=True)
        assert hit.columns == {"source": rows["source"][i]}


def test_texts_of_a_topic_find_documents_of_it(store: Store) -> None:
    found = curate.query(
        store, ["the court shall hold that a party may not waive notice", "add three and four to get seven"], 5
    )
    assert sum(h.columns["source"] == "law" for h in found[0]) >= 4
    assert sum(h.columns["source"] == "sums" for h in found[1]) >= 4


def test_of_a_prompt_with_its_completion_the_completion_alone_counts(store: Store) -> None:
    def asking(prompt: str) -> Document:
        return Document(doc_id="q", shard="q", row=0, content_hash="", prompt=prompt, completion=" double the sum")

    whole = curate.query(store, ["the court shall double the sum"], 3)[0]
    part = curate.query(store, [asking("the court shall")], 3)[0]
    assert [h.score for h in whole] != [h.score for h in part]
    assert {h.columns["source"] for h in part} == {"sums"}


def test_a_query_that_says_nothing_is_named(store: Store) -> None:
    with pytest.raises(CurateError, match=r"Query 2 \(''\) has no token that carries loss"):
        curate.query(store, ["add three", ""])
    assert curate.query(store, []) == []


def test_a_searcher_loads_the_proxy_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Searcher.open(store)
    searcher.query(["add three"], 1)
    monkeypatch.setattr("curate.stores.query.load_proxy", lambda *_: pytest.fail("loaded again"))
    assert len(searcher.query(["the ship rode"], 2)[0]) == 2


def test_an_index_is_told_of_only_once_it_is_there(apart: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whitened = Whitened(apart)
    make_approximate(whitened, "BFlat")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curate.stores.making._calibrated", killed)
    with pytest.raises(KeyboardInterrupt):
        make_approximate(whitened, "HNSW8", width=24)
    assert open_approximate(whitened) is None
    assert isinstance(choose_search(whitened), Exact)


def test_a_factory_that_needs_more_documents_says_so(apart: Store) -> None:
    with pytest.raises(SettingsError, match="FAISS cannot train the index on 113 documents") as error:
        make_approximate(Whitened(apart), "IVF512,Flat", width=24)
    assert "fewer lists" in error.value.hint
