"""A method of several checkpoints: one file, and the pipeline hands it the states of the proxy's training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import curate
from curate import methods
from curate.documents import open_pool, read_target, sample_rows
from curate.errors import CurateError
from curate.gradients.aggregation import MEANS
from curate.gradients.documents import document_sketches
from curate.gradients.scoring import SketchScorer, SketchTerm
from curate.gradients.sketches import SketchEngine
from curate.methods.contract import Inputs, Scorer, checked
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoder, TokenSettings
from curate.score_settings import ScoreSettings
from curate.training.settings import Shape, WarmupSettings
from curate.training.states import checkpoints_of
from curate.training.warmup import warmup
from tests.methods.preparing import loss_after_a_step
from tests.scoring import lines, make_proxy_folder, make_rows, make_target

RATE = 1e-3
SHAPE = Shape(vocab_size=300, layers=1, width=16, heads=2)


@dataclass(frozen=True, kw_only=True)
class Settings:
    dim: int = 64
    """Wider than any layer: gradients are whole."""


class TracIn:
    """Gradient dot products at every checkpoint, by its share of the learning rate (Pruthi et al. 2020)."""

    Settings = Settings
    NEEDS = frozenset({"model", "checkpoints"})

    @staticmethod
    def prepare(inputs: Inputs, settings: Any) -> Scorer:
        rates = [c.mean_learning_rate or 0.0 for c in inputs.checkpoints]
        terms = []
        for checkpoint, rate in zip(inputs.checkpoints, rates, strict=True):
            engine = SketchEngine(checkpoint.proxy(), dim=settings.dim, seed=0)
            target = inputs.target
            sketches = torch.zeros(len(target.encoded), engine.width, dtype=engine.dtype)
            for batch in document_sketches(engine, target.encoded, inputs.batching):
                for i, row in zip(batch.documents, batch.values, strict=True):
                    sketches[i] = row / target.encoded[i].num_scored
            of_target = MEANS.queries(sketches, target.groups, target.names)
            terms.append(SketchTerm(engine=engine, queries=of_target, weight=rate / sum(rates)))
        return SketchScorer(terms=terms, unit=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "pool.jsonl").write_bytes(lines(make_rows(40, 1)))
    make_target(folder / "val.jsonl")
    asked = WarmupSettings(shape=SHAPE, context=16, batch_tokens=256, steps=8, checkpoints=2)
    warmup(open_pool(folder / "pool.jsonl"), folder / "proxy", settings=asked)
    return folder


@pytest.fixture
def settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreSettings:
    monkeypatch.setattr(methods, "get", lambda name: checked(name, TracIn))
    where = {"target": (str(place / "val.jsonl"),), "pool": (str(place / "pool.jsonl"),), "model": str(place / "proxy")}
    return ScoreSettings(**where, method="tracin", dtype="float64", device="cpu", context=16)


def test_a_step_on_a_document_at_the_checkpoints_moves_the_targets_loss_as_its_score_says(
    settings: ScoreSettings, tmp_path: Path
) -> None:
    run = curate.score(settings, tmp_path / "run")
    scores = run.scores().collect().sort("score")
    states = checkpoints_of(ProxySettings(model=settings.model, dtype="float64", device="cpu"))
    assert len(states) == 2
    rates = [s.moments(s.proxy().model).mean_learning_rate for s in states]
    proxies = [s.proxy() for s in states]
    encode = Encoder(proxies[0].tokenizer, TokenSettings(context=16))
    documents = {d.row: d for d in sample_rows(open_pool(settings.pool[0]), 40, 0, settings.fields)}
    target = encode(read_target(settings.target, settings.fields).documents)
    changes = []
    for row in (scores["row"][0], scores["row"][-1]):
        (document,) = encode([documents[row]])
        moves = [
            loss_after_a_step(p, [document], target, RATE) - loss_after_a_step(p, [document], target, 0.0)
            for p in proxies
        ]
        changes.append(sum(r * m for r, m in zip(rates, moves, strict=True)) / sum(rates))
    assert changes[1] < changes[0]
    assert changes[1] < 0 < scores["score"][-1]
    for change, score in zip(changes, (scores["score"][0], scores["score"][-1]), strict=True):
        assert change == pytest.approx(-RATE * score, rel=0.05)


def test_states_are_part_of_what_a_run_is_of(settings: ScoreSettings, place: Path, tmp_path: Path) -> None:
    """More checkpoints of the same training leave the same model, and other scores."""
    run = curate.score(settings, tmp_path / "run")
    asked = WarmupSettings(shape=SHAPE, context=16, batch_tokens=256, steps=8, checkpoints=4)
    warmup(open_pool(place / "pool.jsonl"), tmp_path / "proxy", settings=asked)
    other = curate.score(replace(settings, model=str(tmp_path / "proxy")), tmp_path / "other")
    assert run.record.fingerprints.model == other.record.fingerprints.model
    assert run.record.fingerprints.checkpoints != other.record.fingerprints.checkpoints


def test_a_proxy_without_states_is_refused_before_anything_is_written(settings: ScoreSettings, tmp_path: Path) -> None:
    make_proxy_folder(tmp_path / "bare")
    with pytest.raises(CurateError, match="holds no checkpoints of its training"):
        curate.score(replace(settings, model=str(tmp_path / "bare")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
