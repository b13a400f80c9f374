"""Making stores: parts, growth, refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.gradients.roots import ThinRoot
from curate.pipeline.index import Indexing
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.stores.store import Store
from curate.stores.whitening import fingerprint
from tests.scoring import lines, make_rows
from tests.stores.conftest import DOCUMENTS, asked


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ("log.jsonl", ".lock"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_every_document_has_a_row_a_text_and_a_sketch_in_the_same_order(store: Store) -> None:
    assert len(store) == DOCUMENTS == store.totals["documents"]
    for part in store.all_parts():
        codes, texts = store.codes(part), store.texts(part)
        assert len(codes) == len(texts)
        assert codes.codes.shape[1] == store.storage.width
    rows = store.rows().collect()
    assert rows["grad_norm"].is_finite().all()
    norms = np.concatenate([np.linalg.norm(store.codes(p).codes, axis=1) for p in store.all_parts()])
    np.testing.assert_allclose(norms, rows["grad_norm"], rtol=1e-5)
    previews = [t[:20] for p in store.all_parts() for t in store.texts(p)]
    assert all(row.startswith(" ".join(text.split())[:15]) for row, text in zip(rows["preview"], previews, strict=True))


def test_the_same_settings_give_the_same_bytes_and_a_lost_part_is_made_again(
    place: Path, tmp_path: Path, store: Store
) -> None:
    again = curate.index(asked(place), tmp_path / "again")
    assert contents(again.path) == contents(store.path)
    lost = again.all_parts()[2:5]
    for part in lost:
        part.path.unlink()
    (again.path / "finished.json").unlink()
    assert contents(curate.index(asked(place), again.path).path) == contents(store.path)


def test_other_settings_are_refused_by_name(place: Path, store: Store) -> None:
    with pytest.raises(SettingsError, match="dim: the store has 4, you asked for 8"):
        curate.index(asked(place, dim=8), store.path)
    with pytest.raises(SettingsError, match="rank: the store has 0, you asked for 1"):
        curate.index(asked(place, rank=1), store.path)
    with pytest.raises(SettingsError, match='storage: the store has "float32", you asked for "int8"'):
        curate.index(asked(place, storage="int8"), store.path)


def test_a_store_keeps_the_roots_that_sketches_of_low_rank_are_whitened_by(tmp_path: Path, low_rank: Store) -> None:
    whitening = low_rank.whitening()
    assert all(isinstance(root, ThinRoot) for root in whitening.values())
    shutil.copytree(low_rank.path, tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    copy.keep_whitening(whitening)
    assert fingerprint(copy.whitening()) == fingerprint(whitening)
    small, whole = ((s.path / "curvature" / "whitening.safetensors").stat().st_size for s in (low_rank, copy))
    assert small == whole  # eigenvectors lie in the store once, beside what other dampings are made of
    shutil.copytree(low_rank.path / "curvature", tmp_path / "copy" / "curvature", dirs_exist_ok=True)
    for path in (tmp_path / "copy" / "curvature").glob("eigen-*"):
        path.unlink()
    copy.keep_whitening(whitening)
    assert fingerprint(copy.whitening()) == fingerprint(whitening)
    assert (copy.path / "curvature" / "whitening.safetensors").stat().st_size > 4 * small
    assert (low_rank.path / "norms" / fingerprint(whitening)).exists()


@pytest.fixture
def growing(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "pool", tmp_path / "pool")
    return tmp_path / "pool"


def score(place: Path, store: Store, out: Path):
    return curate.score(ScoreSettings(target=(str(place / "val.jsonl"),), store=str(store.path)), out)


def test_a_store_grows_by_new_shards_and_old_scores_stay(place: Path, tmp_path: Path, growing: Path) -> None:
    settings = asked(place, pool=(str(growing),))
    store = curate.index(settings, tmp_path / "store")
    before = score(place, store, tmp_path / "runs" / "before").scores().collect()
    old = contents(store.path)
    (growing / "Aa.jsonl").write_bytes(lines(make_rows(25, 5)))  # sorts before the others
    grown = curate.index(settings, tmp_path / "store")
    assert len(grown) == DOCUMENTS + 25
    assert grown.shards["Aa.jsonl"]["number"] == 4
    now = contents(grown.path)
    assert {k for k in old if now[k] != old[k]} == {"store.json", "shards.json", "finished.json"}
    after = score(place, grown, tmp_path / "runs" / "after").scores().collect()
    assert after[: len(before)].equals(before)
    with pytest.raises(SettingsError, match="pool: the run has"):
        score(place, grown, tmp_path / "runs" / "before")


def test_new_shards_may_come_from_another_folder(place: Path, tmp_path: Path, growing: Path) -> None:
    curate.index(asked(place, pool=(str(growing),)), tmp_path / "store")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.jsonl").write_bytes(lines(make_rows(25, 5)))
    grown = curate.index(asked(place, pool=(str(tmp_path / "more"),)), tmp_path / "store")
    assert len(grown) == DOCUMENTS + 25
    assert grown.record.json["details"]["pool"] == [str(growing), str(tmp_path / "more")]


def test_a_shard_that_has_changed_is_refused(place: Path, tmp_path: Path, growing: Path) -> None:
    settings = asked(place, pool=(str(growing),))
    curate.index(settings, tmp_path / "store")
    (growing / "a.jsonl").write_bytes(lines(make_rows(12, 8)))
    with pytest.raises(CurateError, match=r"a\.jsonl has changed since it was indexed"):
        curate.index(settings, tmp_path / "store")


def test_an_unfinished_store_says_how_to_go_on(place: Path, tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.path, tmp_path / "half")
    (tmp_path / "half" / "finished.json").unlink()
    with pytest.raises(CurateError, match="is not finished") as error:
        score(place, Store.open(tmp_path / "half"), tmp_path / "x")
    assert "curate index --pool" in error.value.hint
    with pytest.raises(CurateError, match="is not finished"):
        curate.query(tmp_path / "half", ["add three"])


def test_a_torn_file_is_named_with_what_to_do(tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.path, tmp_path / "torn")
    torn = Store.open(tmp_path / "torn")
    first = torn.all_parts()[0]
    path = tmp_path / "torn" / "sketches" / f"{first.path.stem}.codes.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CurateError, match=r"00000-00000\.codes\.npy: cannot be read") as error:
        torn.codes(first)
    assert "rows/" in error.value.hint


@pytest.mark.slow
def test_a_coarser_type_is_checked_against_float32_and_runs_carry_the_figure(place: Path, tmp_path: Path) -> None:
    store = curate.index(asked(place, dtype="bfloat16"), tmp_path / "store")
    found = store.record.json["details"]["arithmetic"]
    assert (found["dtype"], found["reference"]) == ("bfloat16", "float32")
    assert found["spearman"]["score"] > 0.9
    settings = ScoreSettings(target=(str(place / "val.jsonl"),), store=str(store.path))
    assert curate.score(settings, tmp_path / "x").record.json["details"]["arithmetic"] == found


def test_a_folder_that_is_no_store_says_so(tmp_path: Path, store: Store) -> None:
    with pytest.raises(CurateError, match=r"not a store \(it holds no store.json\)") as error:
        Store.open(tmp_path)
    assert "curate index" in error.value.hint
    with pytest.raises(CurateError, match="It holds stores"):
        Store.open(store.path.parent)


def test_the_plan_tells_the_size_that_the_store_has(place: Path, tmp_path: Path, store: Store, low_rank: Store) -> None:
    plan = Indexing.open(asked(place), tmp_path / "new", Silent()).plan()
    assert plan.numbers_per_document == store.storage.width
    assert abs(plan.disk_bytes - store.sketch_bytes) < 0.1 * store.sketch_bytes
    assert not (tmp_path / "new").exists()
    plan = Indexing.open(asked(place, dim=12, rank=2), tmp_path / "new", Silent()).plan()
    assert abs(plan.disk_bytes - low_rank.sketch_bytes) < 0.1 * low_rank.sketch_bytes
    rest = Indexing.open(asked(place), store.path, Silent()).plan()
    assert (rest.documents, rest.disk_bytes) == (0, 0)


def test_equal_names_from_another_folder_index_nothing_twice(place: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_bytes(lines(make_rows(20, seed)))
    curate.index(asked(place, pool=(str(tmp_path / "one"),)), tmp_path / "store")
    with pytest.raises(CurateError, match=r"one/train\.jsonl is in .*store already, as train\.jsonl") as error:
        curate.index(asked(place, pool=(str(tmp_path / "two"),)), tmp_path / "store")
    assert "names of their own" in error.value.hint
    assert len(Store.open(tmp_path / "store")) == 20


def test_a_store_of_the_usual_name_grows_only_when_told_to(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_bytes(lines(make_rows(20, len(name))))
    assert curate.index(asked(place, pool=("one/*.jsonl",))).path == Path("stores/one")
    assert curate.index(asked(place, pool=("one/train.jsonl",))).path == Path("stores/train")
    with pytest.raises(SettingsError, match=r"stores/train holds other documents \(one/train\.jsonl\)"):
        curate.index(asked(place, pool=("two/train.jsonl",)))


def test_a_start_without_parts_leaves_nothing_to_another_pool(
    place: Path, tmp_path: Path, growing: Path, store: Store
) -> None:
    first = Indexing.open(asked(place, pool=(str(growing),), background=8), tmp_path / "store", Silent())
    Store.start(tmp_path / "store", settings=first.record, fingerprints={}, details={"pool": [str(growing)]}).close()
    (tmp_path / "store" / "background.json").write_text('{"gone.jsonl": [1, 2]}')
    (tmp_path / "store" / "shards.json").write_text('{"gone.jsonl": {"number": 0, "fingerprint": "x"}}')
    made = curate.index(asked(place), tmp_path / "store")
    assert contents(made.path) == contents(store.path)


def test_a_store_with_a_hole_is_not_finished(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = curate.index(asked(place), tmp_path / "store")
    store.all_parts()[1].path.unlink()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curate.executors.local.Local.run", killed)
    with pytest.raises(KeyboardInterrupt):
        curate.index(asked(place), tmp_path / "store")
    assert not Store.open(tmp_path / "store").is_finished


def test_shards_without_a_document_and_tiny_stores_are_searched(place: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_bytes(lines(make_rows(3, 1)))
    (tmp_path / "pool" / "b.jsonl").write_bytes(b'{"text": ""}\n')
    (tmp_path / "pool" / "c.jsonl").write_bytes(lines(make_rows(2, 2)))
    store = curate.index(asked(place, pool=(str(tmp_path / "pool"),)), tmp_path / "store")
    assert len(store) == 5
    assert len(curate.query(store, ["add three and four"], 9)[0]) == 5
    assert curate.neighbours(store).exists()
    assert curate.make_search(store, "BFlat") is None  # five documents are looked at
    assert score(place, store, tmp_path / "x").totals["documents"] == 5
