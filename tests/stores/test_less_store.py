"""Stores of LESS features: scores from them are those of the pool itself, and so are cosines of nearest documents."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import curate
from curate.cli import group
from curate.errors import CurateError, SettingsError
from curate.gradients.features import FeatureEngine
from curate.pipeline.index import Indexing
from curate.progress import Silent
from curate.scores.run import Run
from curate.stores.store import Store
from tests.scoring import lines, make_project, make_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft's, on loading
    pytest.mark.filterwarnings("ignore:.* set aside"),
]
DIM = 64


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a proxy of two checkpoints, whose learning rates differ."""
    folder = make_project(tmp_path_factory.mktemp("less-stores"), 12, target_rows=7)
    curate.warmup(
        out=folder / "less", pool=folder / "pool", model=str(folder / "proxy"), lora=4, steps=8, checkpoints=2,
        context=32, batch_tokens=128, learning_rate=1e-2, device="cpu",
    )  # fmt: skip
    return folder


def index(place: Path, out: Path, **changes: Any) -> Store:
    given: dict[str, Any] = {
        "method": "less", "pool": place / "pool", "model": place / "less", "dim": DIM, "storage": "float32",
        "device": "cpu", "part_documents": 8,
    }  # fmt: skip
    return curate.index(out=out, **given | changes)


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    return index(place, place / "stores" / "less")


def from_store(place: Path, store: Store, out: Path, **settings: Any) -> Run:
    return curate.score(store=store.path, target=place / "val.jsonl", group_by="task", out=out, **settings)


def from_pool(place: Path, out: Path, **settings: Any) -> Run:
    return curate.score(
        method="less", pool=place / "pool", model=place / "less", target=place / "val.jsonl", group_by="task",
        device="cpu", out=out, **{"dim": DIM} | settings,
    )  # fmt: skip


def scores_of(table: pl.DataFrame) -> list[str]:
    return [c for c in table.columns if c.startswith(("score", "at_step"))]


def check_same(expected: Run, found: Run, *, rtol: float) -> None:
    """Compare scores with the largest of their column, and all else to the last bit."""
    one, other = expected.scores().collect(), found.scores().collect()
    assert other.columns == one.columns
    for column in scores_of(one):
        np.testing.assert_allclose(other[column], one[column], rtol=rtol, atol=rtol * float(one[column].abs().max()))
    others = [c for c in one.columns if c not in scores_of(one)]
    assert other[others].equals(one[others])
    assert found.totals == expected.totals
    assert found.record.details.columns == expected.record.details.columns


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"aggregate": "mean"}, marks=pytest.mark.slow),
        pytest.param({"aggregate_rows": "max"}, marks=pytest.mark.slow),
        pytest.param({"weights": "equal"}, marks=pytest.mark.slow),
        pytest.param({"against": "val.jsonl", "aggregate": "round-robin"}, marks=pytest.mark.slow),
    ],
    ids=["plain", "mean", "best rows", "equal weights", "against"],
)
def test_scores_are_those_computed_from_the_pool(
    place: Path, tmp_path: Path, store: Store, settings: dict[str, str]
) -> None:
    if "against" in settings:
        (tmp_path / "web.jsonl").write_bytes(lines(make_rows(5, 31)))
        settings = settings | {"against": str(tmp_path / "web.jsonl")}
    expected = from_pool(place, tmp_path / "pool" / "x", **settings)
    found = from_store(place, store, tmp_path / "store" / "x", **settings)
    check_same(expected, found, rtol=1e-6)
    steps = {f"at_step_{s}{g}" for s in (4, 8) for g in ("", "_a", "_b")}
    assert steps < set(scores_of(found.scores().collect()))
    assert found.record.method == "less"


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "rtol"), [("float16", 2e-3), ("int8", 3e-2)])
def test_fewer_bytes_cost_no_more_than_their_rounding(place: Path, tmp_path: Path, kept: str, rtol: float) -> None:
    small = index(place, tmp_path / "store", storage=kept)
    check_same(from_pool(place, tmp_path / "1" / "x"), from_store(place, small, tmp_path / "2" / "x"), rtol=rtol)
    assert small.storage.bytes_per_document < 2 * DIM * 4


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"projection": "signs"}, {"correction": "none"}, {"seed": 3}])
def test_what_features_are_made_of_is_the_stores(place: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    other = index(place, tmp_path / "store", **settings)
    check_same(
        from_pool(place, tmp_path / "1" / "x", **settings), from_store(place, other, tmp_path / "2" / "x"), rtol=1e-6
    )


def test_a_new_target_reads_no_pool_and_runs_its_own_rows_alone(
    place: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    of_documents = FeatureEngine.__call__

    def remember(self: FeatureEngine, encoded: Sequence[Any], *others: Any) -> Any:
        seen.extend(e.content_hash for e in encoded)
        return of_documents(self, encoded, *others)

    monkeypatch.setattr(FeatureEngine, "__call__", remember)
    (tmp_path / "new.jsonl").write_bytes(lines(make_rows(3, 77)))
    hidden = place / "pool"
    hidden.rename(place / "gone")
    try:
        run = curate.score(store=store.path, target=tmp_path / "new.jsonl", out=tmp_path / "run")
    finally:
        (place / "gone").rename(hidden)
    assert run.scores().collect()["score"].is_finite().all()
    assert len(seen) == 2 * 3  # its rows at both checkpoints
    assert not set(seen) & set(run.scores().collect()["content_hash"])


@pytest.mark.slow
def test_a_store_goes_on_and_grows(place: Path, tmp_path: Path, store: Store) -> None:
    again = index(place, tmp_path / "again")
    before = {p.name: p.read_bytes() for p in sorted((again.path / "sketches").iterdir())}
    for part in again.all_parts()[2:]:
        part.path.unlink()
    (again.path / "finished.json").unlink()
    again = curate.index(curate.recorded(again.path), again.path)
    assert {p.name: p.read_bytes() for p in sorted((again.path / "sketches").iterdir())} == before
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.jsonl").write_bytes(lines(make_rows(5, 5)))
    grown = index(place, again.path, pool=tmp_path / "more")
    assert len(grown) == len(store) + 5
    old = from_store(place, store, tmp_path / "1").scores().collect()
    assert from_store(place, grown, tmp_path / "2").scores().collect()[: len(old)].equals(old)


@pytest.mark.slow
def test_processes_write_the_same_store(place: Path, tmp_path: Path, store: Store) -> None:
    shared = index(place, tmp_path / "shared", workers=2)
    for folder in ("sketches", "rows", "curvature", "norms"):
        files = [p.relative_to(store.path) for p in (store.path / folder).rglob("*") if p.is_file()]
        assert files
        assert all((shared.path / f).read_bytes() == (store.path / f).read_bytes() for f in files)


def test_only_what_less_needs_is_kept(store: Store) -> None:
    assert [b.name for b in store.storage.blocks] == ["step-4", "step-8"]
    norms = np.concatenate([np.linalg.norm(store.codes(p).codes, axis=1) for p in store.all_parts()])
    np.testing.assert_allclose(norms, 2**0.5, rtol=1e-6)  # each block has norm 1
    assert not store.has_background
    assert [p.name for p in (store.path / "curvature").iterdir()] == ["whitening.safetensors"]
    assert (store.path / "curvature" / "whitening.safetensors").stat().st_size < 2000
    assert "rank" not in store.record.settings
    assert store.record.settings["method_settings"] == {"projection": "hadamard", "correction": "adam"}


def test_cosines_of_nearest_documents_are_the_scores_of_the_text(place: Path, tmp_path: Path, store: Store) -> None:
    text = "add three and four to get seven"
    (tmp_path / "query.jsonl").write_bytes(lines([{"text": text}]))
    scored = curate.score(store=store.path, target=tmp_path / "query.jsonl", out=tmp_path / "run").scores().collect()
    best = scored.sort("score", descending=True).head(5)
    hits = curate.query(store, [text], k=5)[0]
    assert [h.doc_id for h in hits] == best["doc_id"].to_list()
    np.testing.assert_allclose([h.score for h in hits], best["score"], rtol=1e-5)


def test_a_plan_counts_the_features_of_every_checkpoint(place: Path, tmp_path: Path) -> None:
    settings = curate.IndexSettings(
        method="less", pool=(str(place / "pool"),), model=str(place / "less"), dim=DIM, device="cpu"
    )
    plan = Indexing.open(settings, tmp_path / "store", Silent()).plan()
    assert (plan.numbers_per_document, plan.bytes_per_document) == (2 * DIM, 2 * 2 * DIM + 4)
    assert plan.method is not None
    assert str(plan.method.rows()["checkpoints and moments in memory"]).endswith("kB")
    assert not (tmp_path / "store").exists()


def test_other_methods_and_settings_are_refused_with_what_fits(place: Path, tmp_path: Path, store: Store) -> None:
    with pytest.raises(SettingsError, match="'trackstar' does not score by the sketches that a store holds for 'less'"):
        from_store(place, store, tmp_path / "run", method="trackstar")
    with pytest.raises(SettingsError, match="dim: the store has 64, you asked for 128"):
        from_store(place, store, tmp_path / "run", dim=128)
    with pytest.raises(SettingsError, match='correction: the store has "adam", you asked for "none"'):
        from_store(place, store, tmp_path / "run", correction="none")
    with pytest.raises(SettingsError, match="was indexed for 'less'; you asked for 'trackstar'"):
        index(place, store.path, method="trackstar")
    with pytest.raises(SettingsError, match='projection: the store has "hadamard", you asked for "signs"'):
        index(place, store.path, projection="signs")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dot", "Choose one of less, trackstar."),
        ("cosine", "It scores from stores of 'trackstar': --method trackstar."),
    ],
)
def test_a_method_without_stores_of_its_own_is_refused_with_those_that_have(
    place: Path, tmp_path: Path, method: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=f"No store is indexed for method '{method}'") as error:
        index(place, tmp_path / "store", method=method)
    assert error.value.hint == said


def test_a_setting_that_the_method_lacks_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="A store of 'less' has no setting 'rank'"):
        index(place, tmp_path / "store", rank=2)
    with pytest.raises(SettingsError, match="A store of 'less' has no setting 'weights'"):
        index(place, tmp_path / "store", weights="equal")


def test_a_proxy_whose_training_has_changed_is_refused(place: Path, tmp_path: Path, store: Store) -> None:
    record = next((place / "less" / "checkpoints" / "step-4").glob("*.json"))
    before = record.read_bytes()
    record.write_bytes(before + b"\n")
    try:
        with pytest.raises(CurateError, match=r"is not the model that .* was indexed with"):
            from_store(place, store, tmp_path / "run")
    finally:
        record.write_bytes(before)


def invoke(*args: str) -> Any:
    return CliRunner().invoke(group, args, catch_exceptions=False)


def test_three_commands_index_score_and_go_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--pool", str(place / "pool"), "--method", "less", "--model", str(place / "less"), "--device", "cpu"]
    made = json.loads(invoke("index", *asked, "--dim", "64", "--projection", "signs", "--out", "s", "--json").stdout)
    again = json.loads(invoke("index", "--continue", "s", "--json").stdout)
    assert again == made
    target = ["--target", str(place / "val.jsonl"), "--store", "s"]
    found = json.loads(invoke("score", *target, "--weights", "equal", "--json").stdout)
    assert found["run"] == str(Path("runs") / "val-less")
    assert Run.open(found["run"]).record.method_settings["projection"] == "signs"
    assert "--correction" in invoke("index", "--method", "less", "--help").stdout
    assert "--correction" not in invoke("index", "--help").stdout
