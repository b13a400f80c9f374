"""Scores from a store are those of the pool itself."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.proxies.settings import PassSettings
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.stores.store import Store
from tests.stores.conftest import DOCUMENTS, asked


def from_pool(place: Path, out: Path, method: str, *, dim: int = 4, rank: int = 0, **settings) -> pl.DataFrame:
    index = asked(place, dim=dim, rank=rank)
    run = curate.score(
        ScoreSettings(
            **{f.name: getattr(index, f.name) for f in fields(PassSettings)},
            target=(str(place / "val.jsonl"),),
            method=method,
            group_by="task",
            method_settings={**index.projection, **settings},
        ),
        out,
    )
    return run.scores().collect()


def from_store(place: Path, store: Store, out: Path, method: str, **changes) -> Run:
    settings = ScoreSettings(
        target=(str(place / "val.jsonl"),), store=str(store.path), method=method, group_by="task", **changes
    )
    return curate.score(settings, out)


def apart(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """The largest difference of any score over the largest score."""
    columns = [c for c in one.columns if c.startswith("score")]
    return float(np.abs(one[columns].to_numpy() - other[columns].to_numpy()).max() / np.abs(one["score"]).max())


def ranks(scores: pl.DataFrame, other: pl.DataFrame) -> float:
    return float(
        pl.DataFrame({"a": scores["score"].rank(), "b": other["score"].rank()}).select(pl.corr("a", "b")).item()
    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("trackstar", {}),
        ("cosine", {}),
        pytest.param("trackstar", {"damping": 1.0}, marks=pytest.mark.slow),
        pytest.param("trackstar", {"target_share": "paper"}, marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_computed_from_the_pool(
    place: Path, tmp_path: Path, store: Store, method: str, settings: dict
) -> None:
    expected = from_pool(place, tmp_path / "pool" / "x", method, **settings)
    check_same(expected, from_store(place, store, tmp_path / "store" / "x", method, method_settings=settings))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("trackstar", {}),
        pytest.param("cosine", {}, marks=pytest.mark.slow),
        pytest.param("trackstar", {"damping": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_scores_of_factors_are_those_computed_from_the_pool(
    place: Path, tmp_path: Path, low_rank: Store, method: str, settings: dict
) -> None:
    expected = from_pool(place, tmp_path / "pool" / "x", method, dim=12, rank=2, **settings)
    check_same(expected, from_store(place, low_rank, tmp_path / "store" / "x", method, method_settings=settings))
    whole = from_pool(place, tmp_path / "whole" / "x", method, dim=12, **settings)
    assert apart(whole, expected) > 1e-3  # a rank that does nothing would pass all else


@pytest.mark.parametrize(
    "dim",
    [pytest.param(4, id="more documents than entries"), pytest.param(12, id="fewer")],
)
@pytest.mark.slow
def test_a_rank_at_which_no_layer_gains_changes_no_score(place: Path, tmp_path: Path, dim: int) -> None:
    whole = from_pool(place, tmp_path / "whole" / "x", "trackstar", dim=dim)
    same = from_pool(place, tmp_path / "same" / "x", "trackstar", dim=dim, rank=100)
    assert apart(whole, same) < 1e-5


def check_same(expected: pl.DataFrame, run: Run) -> None:
    found = run.scores().collect()
    assert found.columns == expected.columns
    assert apart(expected, found) < 1e-5
    others = [c for c in found.columns if not c.startswith("score")]
    assert found[others].equals(expected[others])  # losses and norms to the last bit
    assert run.totals["documents"] == DOCUMENTS
    assert run.totals["skipped"] == {"empty text": 1, "not a string": 1, "undecodable line": 1}
    assert run.record.json["details"]["columns"] == ["score", "score_a", "score_b"]


def test_fewer_bytes_keep_the_ranking(place: Path, tmp_path: Path, store: Store, compressed: Store) -> None:
    whole = from_store(place, store, tmp_path / "1" / "x", "trackstar").scores().collect()
    small = from_store(place, compressed, tmp_path / "2" / "x", "trackstar").scores().collect()
    assert ranks(whole, small) > (0.9999 if compressed.storage.dtype == "float16" else 0.99)
    assert compressed.sketch_bytes < 0.6 * store.sketch_bytes


def test_fewer_bytes_of_factors_keep_the_ranking(
    place: Path, tmp_path: Path, low_rank: Store, low_rank_compressed: Store
) -> None:
    for method in ("trackstar", "cosine"):
        whole = from_store(place, low_rank, tmp_path / "1" / method, method).scores().collect()
        small = from_store(place, low_rank_compressed, tmp_path / "2" / method, method).scores().collect()
        assert ranks(whole, small) > (0.999 if low_rank_compressed.storage.dtype == "float16" else 0.99)


def test_a_control_set_is_subtracted(place: Path, tmp_path: Path, store: Store) -> None:
    plain = from_store(place, store, tmp_path / "1" / "x", "cosine").scores().collect()
    same = from_store(place, store, tmp_path / "2" / "x", "cosine", against=(str(place / "val.jsonl"),))
    assert np.abs(same.scores().collect()["score"].to_numpy()).max() < 1e-5 * np.abs(plain["score"].to_numpy()).max()


def test_a_run_goes_on_at_its_first_missing_part_and_ends_with_the_same_bytes(
    place: Path, tmp_path: Path, store: Store
) -> None:
    run = from_store(place, store, tmp_path / "x", "trackstar")
    files = sorted((run.path / "scores").glob("*.parquet"))
    before = [f.read_bytes() for f in files]
    for lost in files[3:]:
        lost.unlink()
    (run.path / "finished.json").unlink()
    again = from_store(place, store, tmp_path / "x", "trackstar")
    assert [f.read_bytes() for f in files] == before
    assert again.is_finished


def test_nothing_of_the_pool_is_read(place: Path, tmp_path: Path, store: Store) -> None:
    hidden = place / "pool"
    hidden.rename(place / "gone")
    try:
        run = from_store(place, store, tmp_path / "x", "trackstar")
    finally:
        (place / "gone").rename(hidden)
    assert run.totals["documents"] == DOCUMENTS
    assert run.scores().collect()["score"].is_finite().all()


def test_target_rows_in_the_pool_are_found_in_the_stores_texts(place: Path, tmp_path: Path, store: Store) -> None:
    text = store.texts(store.all_parts()[0], [2])[0]
    (tmp_path / "seen.jsonl").write_text(f'{{"text": "{text}"}}\n')
    settings = ScoreSettings(target=(str(tmp_path / "seen.jsonl"),), store=str(store.path))
    found = curate.score(settings, tmp_path / "x").scores().filter(pl.col("target_exact")).collect()
    assert len(found) >= 1


def test_what_the_store_decided_is_refused_by_name(place: Path, store: Store) -> None:
    target = (str(place / "val.jsonl"),)
    with pytest.raises(SettingsError, match="dim: the store has 4, you asked for 8") as error:
        curate.score(ScoreSettings(target=target, store=str(store.path), method_settings={"dim": 8}))
    assert "another store" in error.value.hint
    with pytest.raises(SettingsError, match="rank: the store has 0, you asked for 2"):
        curate.score(ScoreSettings(target=target, store=str(store.path), method_settings={"rank": 2}))
    with pytest.raises(SettingsError, match="context: the store has null, you asked for 32"):
        curate.score(ScoreSettings(target=target, store=str(store.path), context=32))
    with pytest.raises(SettingsError, match="'ekfac' does not score by the sketches that a store holds") as error:
        curate.score(ScoreSettings(target=target, store=str(store.path), method="ekfac"))
    assert "choose one of cosine, trackstar" in error.value.hint


def test_the_targets_moment_is_not_mixed_with_that_of_factors(place: Path, tmp_path: Path, low_rank: Store) -> None:
    with pytest.raises(SettingsError, match=r"target_share is 0\.5 with rank 2") as error:
        from_store(place, low_rank, tmp_path / "x", "trackstar", method_settings={"target_share": 0.5})
    assert "rank 0" in error.value.hint


def test_another_model_in_the_same_place_is_refused(place: Path, tmp_path: Path, store: Store) -> None:
    from tests.scoring import make_proxy_folder

    (place / "proxy").rename(place / "kept")
    try:
        make_proxy_folder(place / "proxy", seed=7)
        with pytest.raises(CurateError, match=r"is not the model that .* was indexed with"):
            from_store(place, store, tmp_path / "x", "trackstar")
    finally:
        import shutil

        shutil.rmtree(place / "proxy")
        (place / "kept").rename(place / "proxy")
