from pathlib import Path

import pytest

import curate
from curate.errors import SettingsError
from curate.pipeline.bench import DIRECTION, FROZEN, SKETCH, TRAIN, TUNED, seconds_for
from tests.scoring import make_proxy_folder


@pytest.mark.slow  # five processes load torch
def test_what_scoring_costs_is_told_against_a_training_step(tmp_path: Path) -> None:
    model = str(make_proxy_folder(tmp_path / "proxy"))
    bench = curate.bench(model=model, device="cpu", sequences="2", length=16, dim=4, rounds=1)
    rows = {row.what: row for row in bench.rows}
    assert rows.keys() == {TRAIN, TUNED, FROZEN, SKETCH, DIRECTION}
    assert rows[TRAIN].ratio == 1
    assert all(row.tokens_per_second > 0 for row in bench.rows)
    assert all(row.ratio == row.tokens_per_second / rows[TRAIN].tokens_per_second for row in bench.rows)
    assert all(row.peak_gb > 0.05 for row in bench.rows)  # each is a process with torch in it
    assert bench.seconds.keys() == {"head", "decoder", "sketches"}
    assert bench.parameters > 10_000
    pass_seconds = seconds_for(1e6, bench.rows, SKETCH)
    assert pass_seconds == pytest.approx(1e6 / rows[SKETCH].tokens_per_second)


def test_a_shape_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="pythia-14m"):
        curate.bench(model="pythia-15m", device="cpu")


def test_sequences_longer_than_the_models_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"length is 65; .* has 64 positions"):
        curate.bench(model=str(make_proxy_folder(tmp_path / "proxy")), device="cpu", length=65)
