import dataclasses
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from curate.errors import CurateError, SettingsError
from curate.gradients.directions import DirectionEngine
from curate.methods import magic
from curate.progress import Silent
from curate.proxies.proxy import Proxy
from curate.proxies.room import Room
from curate.settings import build
from curate.training import smoothness
from curate.training.adjoint import score_unseen
from curate.training.adjoint import snapshot as read_snapshot
from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training
from curate.training.walk import walk
from tests.methods.preparing import make_inputs, prepare, scores
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy

RECIPE = Recipe(steps=6, batch_size=3, precision="float64", learning_rate=1e-3, epsilon=1e-6)
POOL = random_documents([12, 3, 9, 2], seed=1)
TARGET = random_documents([8, 11, 5], seed=2)
BACKGROUND = random_documents([7, 9, 12, 5, 10, 6, 8, 11], seed=3)


def whole_adjoint(proxy: Proxy, folder: Path, step: int, hidden: set[str]) -> torch.Tensor:
    """The adjoint by forward differentiation, over all trained parameters that are not hidden, summed over parts."""
    place = batching().tokens
    model = LanguageModel(deepcopy(proxy.model), RECIPE)
    replay = Replay(Training(model, Corpus(BACKGROUND, place, room=Room(64)), RECIPE), folder / "replay")
    walk(replay, {"all": Corpus(TARGET, place, room=Room(64))}, Silent(), snapshots=[step], until=step)
    kept = read_snapshot(replay, "all", step)
    directions = {n: torch.zeros_like(u) if n in hidden else u for n, u in kept.directions.items()}
    pool = Corpus(POOL, place, room=Room(64))
    return pool.gather(score_unseen(model, dataclasses.replace(kept, directions=directions), pool))


# Weights transposed, biases everywhere; fused experts beside.
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["GPT2Config", "GptOssConfig"])
def test_scores_are_the_mean_of_the_adjoints_over_all_linear_layers(architecture: str, tmp_path: Path) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    names = {n for n, _ in proxy.model.named_parameters()}
    others = ("ln_", "wte", "wpe", "lm_head", "norm", "embed", "sinks")
    hidden = {n for n in names if any(other in n for other in others)}
    assert hidden < names
    steps = {share: whole_adjoint(proxy, tmp_path / str(share), step, hidden) for share, step in ((0.2, 1), (0.5, 3))}
    for shares in ((0.5,), (0.5, 0.2)):
        inputs = make_inputs(proxy, tmp_path / f"run{len(shares)}", TARGET, BACKGROUND)
        found = scores("magic", inputs, POOL, recipe=RECIPE, snapshots=shares, passes="each", curvature_share=1)
        expected = torch.stack([steps[share] for share in shares]).mean(0)
        torch.testing.assert_close(found.scores[:, 0], expected, rtol=1e-8, atol=1e-14)
    assert not torch.allclose(steps[0.5], whole_adjoint(proxy, tmp_path / "whole", 3, set()), rtol=1e-2, atol=0)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_with_all_parameters_only_norms_are_missing_from_the_whole_adjoint(tied: bool, tmp_path: Path) -> None:
    proxy = tiny_proxy(tiny_model("LlamaConfig", tie_word_embeddings=tied))
    expected = whole_adjoint(proxy, tmp_path, 3, {n for n, _ in proxy.model.named_parameters() if "norm" in n})
    told, recorded, inputs = Told(), {}, make_inputs(proxy, tmp_path / "run", TARGET, BACKGROUND)
    inputs = dataclasses.replace(inputs, reporter=told, record=recorded.update)
    found = scores(
        "magic", inputs, POOL, recipe=RECIPE, snapshots=(0.5,), all_parameters=True, check=0, curvature_share=1
    )
    torch.testing.assert_close(found.scores[:, 0], expected, rtol=1e-8, atol=1e-14)
    assert any("by linear layers, input embedding and head" in n for n in told.notes)
    norms = sum(p.numel() for n, p in proxy.model.named_parameters() if "norm" in n)
    assert recorded["magic"]["trained_parameters"] - recorded["magic"]["tracked_parameters"] == norms


def test_snapshots_that_do_not_fit_together_score_one_after_the_other_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, inputs = Told(), make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    documents = [*POOL, *BACKGROUND]
    options: Any = {"recipe": RECIPE, "check": 0, "passes": "each"}
    together = scores("magic", inputs, documents, **options)
    monkeypatch.setattr("curate.methods.shared.background_runs.available_bytes", lambda _: 1000)
    scorer: Any = prepare("magic", dataclasses.replace(inputs, reporter=told), **options)
    assert any("one snapshot after the other" in n for n in told.notes)
    apart = scorer(documents, inputs.batching)
    assert apart.scores.equal(together.scores)
    assert apart.norms.equal(together.norms)
    assert apart.losses.equal(together.losses)


def test_adapters_and_all_parameters_exclude_each_other(tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    with pytest.raises(SettingsError, match="only adapters are trained"):
        prepare("magic", inputs, recipe=dataclasses.replace(RECIPE, lora_rank=2), all_parameters=True)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 3])
def test_a_document_of_the_background_is_scored_by_runs_that_did_not_train_on_it(runs: int, tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    scorer: Any = prepare("magic", inputs, recipe=RECIPE, runs=runs)
    hashes = [h for h, _ in scorer.apart]
    assert len(hashes) == runs
    assert sum(map(len, hashes)) == len(BACKGROUND)
    found = scorer([*BACKGROUND, *POOL], inputs.batching)
    usual = scorer.usual([*BACKGROUND, *POOL], inputs.batching)
    for i, document in enumerate(BACKGROUND):
        (own,) = [n for n, h in enumerate(hashes) if document.content_hash in h]
        others = scorer.apart[own][1]
        assert len(others.engines) == runs - 1
        expected = others([document], inputs.batching)
        torch.testing.assert_close(found.scores[i : i + 1], expected.scores, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(found.scores[i], usual.scores[i], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.scores[len(BACKGROUND) :], usual.scores[len(BACKGROUND) :])


def test_one_pass_for_all_snapshots_is_the_mean_of_their_directions_at_the_earliest(tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    options: Any = {"recipe": RECIPE, "check": 0, "snapshots": (0.5, 0.2)}
    each: Any = prepare("magic", inputs, passes="each", **options)
    (early, late), documents = each.usual.engines, [*POOL, *BACKGROUND]
    moved = DirectionEngine(early.proxy, {n: layer.matrices for n, layer in late._layers.items()})
    expected = dataclasses.replace(each.usual, engines=[early, moved])(documents, inputs.batching).scores
    once: Any = prepare("magic", inputs, **options)
    assert (len(once.usual.engines), once.apart) == (1, [])  # a single run scores its own documents, too
    torch.testing.assert_close(once(documents, inputs.batching).scores, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
def test_several_runs_are_averaged(tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    scorer: Any = prepare("magic", inputs, recipe=RECIPE, runs=2)
    (_, by_second), (_, by_first) = scorer.apart
    mean = (by_first(POOL, inputs.batching).scores + by_second(POOL, inputs.batching).scores) / 2
    torch.testing.assert_close(scorer(POOL, inputs.batching).scores, mean)


def test_copies_of_a_background_document_fall_into_one_run(tmp_path: Path) -> None:
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, [*BACKGROUND, *BACKGROUND])
    scorer: Any = prepare("magic", inputs, recipe=RECIPE, runs=2)
    (one, _), (other, _) = scorer.apart
    assert not one & other
    assert len(one | other) == len(BACKGROUND)


def test_adapters_are_what_counts_where_they_are_trained(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, lora_rank=2, learning_rate=1e-2)
    found: Any = prepare("magic", make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND), recipe=recipe)
    tracked = found.usual.engines[0].proxy.tracked
    assert tracked
    assert all(".lora_" in name for name in tracked)
    chosen = tiny_proxy(None, None, "*.mlp.*")
    with pytest.raises(SettingsError, match="only adapters are trained"):
        prepare("magic", make_inputs(chosen, tmp_path / "chosen", TARGET, BACKGROUND), recipe=recipe)


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_what_was_measured_is_said_and_recorded_and_the_folder_of_the_training_is_gone(tmp_path: Path) -> None:
    told, recorded = Told(), {}
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    prepare("magic", dataclasses.replace(inputs, reporter=told, record=recorded.update), recipe=RECIPE)
    assert recorded["magic"]["snapshots"] == [1, 3]
    assert recorded["magic"]["documents"] == [8]
    assert all(0.5 < a <= 1 for a in recorded["magic"]["smoothness"])
    assert 0 < recorded["magic"]["tracked_parameters"] < recorded["magic"]["trained_parameters"]
    assert any("by linear layers alone" in n for n in told.notes)
    checked = recorded["magic"]["check"]
    assert (np.shape(checked["predicted"]), checked["left_out"], checked["documents"]) == ((3, 1), 1, 8)
    assert any(f"changed {checked['slope']:.2f} times as much as the scores predict" in n for n in told.notes)
    assert any("6 steps on 8 documents" in n and " on disk until it is done" in n for n in told.notes)
    assert not (tmp_path / "training").exists()
    again, inputs = Told(), dataclasses.replace(inputs, background=lambda: pytest.fail("read the background again"))
    prepare("magic", dataclasses.replace(inputs, reporter=again), recipe=RECIPE)
    assert not any("steps on" in n for n in again.notes)


def test_without_a_check_nothing_of_it_is_done_said_or_kept(tmp_path: Path) -> None:
    told, recorded = Told(), {}
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    prepare("magic", dataclasses.replace(inputs, reporter=told, record=recorded.update), recipe=RECIPE, check=0)
    assert "check" not in recorded["magic"]
    assert not any("retraining" in n for n in told.notes)
    assert not any(n.startswith("check") for p in tmp_path.rglob("*.safetensors") for n in load_file(p))


@pytest.mark.slow
def test_of_several_learning_rates_none_is_taken_that_is_far_too_high(tmp_path: Path) -> None:
    told, recorded = Told(), {}
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    told_inputs = dataclasses.replace(inputs, reporter=told, record=recorded.update)
    rates = (1, 300, 1e30)
    tuned = scores("magic", told_inputs, POOL, recipe=RECIPE, rates=rates)
    (kept_run,) = (tmp_path / "target").glob("magic-*.safetensors")
    trained = {bytes(row.tolist()).hex() for row in load_file(kept_run)["hashes"]}
    assert len(trained) == len(BACKGROUND) * 3 // 4  # a quarter tells the rates apart
    tried, taken = recorded["magic"]["rates"], recorded["magic"]["learning_rate"]
    assert [t["learning_rate"] for t in tried] == [RECIPE.learning_rate * rate for rate in rates]
    assert taken == RECIPE.learning_rate
    assert tried[2]["held_out_loss"] is None
    (lines,) = [n for n in told.notes if n.startswith("3 learning rates were tried:")]
    assert lines.count("chosen") == lines.count("diverged") == 1
    alone = dataclasses.replace(RECIPE, learning_rate=taken)
    left = [d for d in BACKGROUND if d.content_hash in trained]
    plain = scores("magic", make_inputs(tiny_proxy(), tmp_path / "plain", TARGET, left), POOL, recipe=alone)
    torch.testing.assert_close(tuned.scores, plain.scores, rtol=0, atol=0)
    kept = sorted(p.name for p in (tmp_path / "target").iterdir())
    assert [name.split("-")[0] for name in kept] == ["magic", "rates"]  # of the rate taken alone
    again = dataclasses.replace(inputs, background=lambda: pytest.fail("read the background again"))
    torch.testing.assert_close(scores("magic", again, POOL, recipe=RECIPE, rates=rates).scores, tuned.scores)


def test_rates_need_a_check_and_auto_stands_for_three(tmp_path: Path) -> None:
    assert magic.Settings(rates="auto").rates == (1 / 3, 1, 3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="check is 0"):
        magic.Settings(rates=(1, 2), check=0)
    with pytest.raises(CurateError, match="diverged with every learning rate"):
        prepare("magic", make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND), recipe=RECIPE, rates=(1e30,))


@pytest.mark.slow
def test_a_rough_run_is_refused_unless_it_is_accepted(tmp_path: Path) -> None:
    rough = dataclasses.replace(RECIPE, learning_rate=1.0, steps=24, warmup=0, schedule="constant", epsilon=1e-17)
    inputs = make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND)
    with pytest.raises(CurateError, match="The training run is rough") as error:
        prepare("magic", inputs, recipe=rough, runs=2)
    assert "--accept-rough" in str(error.value)
    assert "learning_rate" in str(error.value)
    assert (
        prepare("magic", inputs, recipe=rough, runs=2, accept_rough=True)(POOL, inputs.batching).scores.isfinite().all()
    )


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_killed_training_goes_on_to_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr("curate.training.gradient_log.MOST_BYTES", 0)
        monkeypatch.setattr("curate.training.passing.MOST_BYTES", 0)
    whole = scores(
        "magic", make_inputs(tiny_proxy(), tmp_path / "whole", TARGET, BACKGROUND), POOL, recipe=RECIPE, check=0
    )
    inputs = make_inputs(tiny_proxy(), tmp_path / "cut", TARGET, BACKGROUND)
    with monkeypatch.context() as killer:
        killer.setattr(smoothness.Training, "run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("magic", inputs, recipe=RECIPE, check=0)
    computed, gradient = [], Training.gradient
    monkeypatch.setattr(Training, "gradient", lambda self, state: computed.append(1) or gradient(self, state))
    assert scores("magic", inputs, POOL, recipe=RECIPE, check=0).scores.equal(whole.scores)
    # Two short replays of two steps, and what the way back needs of gradients that were in the killed process's memory,
    # one of them for a state between checkpoints that was there, too.
    assert len(computed) == 4 + (6 if in_memory else 0)


def test_the_recipe_comes_from_a_file_and_from_single_settings_that_win(tmp_path: Path) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text("learning_rate: 1e-3\nsteps: 12\nlora-rank: 4\n")
    given = {"recipe": str(path), "steps": "20", "runs": "2", "accept-rough": "true", "normalize": "length"}
    found = build(magic.Settings, given, owner="Method 'magic'")
    assert found.recipe == Recipe(learning_rate=1e-3, steps=20, lora_rank=4)
    assert (found.runs, found.accept_rough, found.normalize) == (2, True, "length")
    assert build(magic.Settings, {}, owner="").recipe.steps == magic.STEPS
    assert build(magic.Settings, {"snapshots": "0.25,0.5"}, owner="").snapshots == (0.25, 0.5)
    assert build(magic.Settings, {"snapshots": 0.5}, owner="").snapshots == (0.5,)
    assert build(magic.Settings, {"epochs": 2}, owner="").recipe.steps is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"runs": 0}, "runs is 0"),
        ({"runs": "two"}, "runs is 'two'; expected a whole number"),
        ({"snapshots": 1.0}, "snapshots is 1.0; expected at least 0 and less than 1"),
        ({"snapshots": "0.5,late"}, "snapshots is 'late'; expected a number"),
        ({"snapshots": []}, "snapshots is empty"),
        ({"checkpoints": "some"}, "checkpoints is 'some'"),
        ({"recipe": "nowhere.yaml"}, "nowhere.yaml cannot be read"),
    ],
)
def test_wrong_settings_say_what_is_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(magic.Settings, given, owner="Method 'magic'")


def test_a_background_too_small_to_deal_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CurateError, match=r"1 usable background document\(s\) for 2 training runs"):
        prepare("magic", make_inputs(tiny_proxy(), tmp_path, TARGET, BACKGROUND[:1]), recipe=RECIPE, runs=2)
