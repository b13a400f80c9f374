import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.pipeline import verify
from curate.progress import Silent
from curate.proof import comparison, fitting, verdict
from curate.proof.settings import VerifySettings
from curate.proof.verdict import Verification
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.selection.select import select
from curate.training.recipe import Recipe
from tests.scoring import lines, make_project, sentence

RECIPE = Recipe(batch_size=4, learning_rate=3e-3)


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def stage(self, name: str, **options: Any) -> Any:
        self.stages.append(name)
        return super().stage(name, **options)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Let a verdict take few steps: what is tested here is not how sure it is, and thirty take their time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (comparison, verdict):
            patch.setattr(module, "LEAST_STEPS", 4)
        yield


def make_heldout(path: Path, topic: str = "sums") -> Path:
    rng = random.Random(7)
    path.write_bytes(lines([{"text": sentence(topic, 40, rng)} for _ in range(10)]))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verifying")
    make_project(folder, 40)
    make_heldout(folder / "heldout.jsonl")
    make_heldout(folder / "sea.jsonl", "sea")
    for method in ("dot", "bm25"):
        asked = ScoreSettings(
            target=(str(folder / "val.jsonl"),),
            pool=(str(folder / "pool"),),
            model=str(folder / "proxy"),
            method=method,
            method_settings={"normalize": "length"} if method == "dot" else {},
            group_by="task",
            device="cpu",
        )
        curate.score(asked, folder / "runs" / method, reporter=Heard())
    select(Run.open(folder / "runs" / "dot"), top="20%", out=folder / "selected")
    return folder


def settings(place: Path, **changes: Any) -> VerifySettings:
    given: dict[str, Any] = {
        "selection": str(place / "selected"),
        "target": (str(place / "heldout.jsonl"),),
        "recipe": RECIPE,
        "seeds": 2,
        "other_documents": 16,
        "points": 2,
        "all_times": 2.0,
    }
    return VerifySettings(**(given | changes))


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def found(place: Path, heard: Heard) -> Verification:
    return curate.verify(settings(place, sweep=(0.05, 0.4), seeds=3), place / "out", reporter=heard)


@pytest.mark.slow
def test_a_selection_of_the_targets_topic_beats_random(found: Verification) -> None:
    assert found.verdict.beats_random is True
    assert found.sentence.startswith("The selection beats random")
    rows = {r["arm"]: r for r in found.rows()}
    assert list(rows) == ["selection", "random", "bm25", "embedding", "top 5%", "top 40%", "all"]
    assert rows["selection"]["target"] < rows["random"]["target"] < found.untrained["target"]
    assert rows["selection"]["other"] > rows["random"]["other"]  # and has learned less of everything else


@pytest.mark.slow
def test_every_arm_but_all_trains_on_equal_tokens_in_equal_steps(place: Path, found: Verification) -> None:
    manifest = json.loads((place / "selected" / "manifest.json").read_text())
    budget = manifest["after"]["tokens"]
    assert found.tokens == budget
    for outcome in found.outcomes:
        for curve in outcome.curves:
            assert outcome.times * budget <= curve.tokens[-1] <= outcome.times * budget + 80
    assert found.outcomes[-1].times == 2.0


@pytest.mark.slow
def test_nothing_that_losses_are_reported_on_is_trained_on(place: Path, found: Verification) -> None:
    left = {o.name: o.counts["held_out"] for o in found.outcomes}
    assert sum(left.values()) > 0  # of the pool's sample, which no arm trains on
    assert left["all"] > 0
    assert found.others == 16


@pytest.mark.slow
def test_runs_beside_the_selections_are_used_and_others_are_scored(
    place: Path, found: Verification, heard: Heard
) -> None:
    assert any(n.startswith("bm25: scored in ") for n in heard.notes)
    assert Run.open(place / "out" / "baselines" / "embedding").is_finished
    assert not (place / "out" / "baselines" / "bm25").exists()
    assert not (place / "out" / "spools").exists()


@pytest.mark.slow
def test_the_same_command_trains_nothing_and_says_the_same(
    place: Path, found: Verification, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, picture = ((place / "out" / n).read_bytes() for n in ("verify.json", "curves.png"))
    monkeypatch.setattr(fitting, "Training", None)
    again = curate.verify(settings(place, sweep=(0.05, 0.4), seeds=3), place / "out", reporter=Heard())
    assert again.record() == found.record()
    assert (place / "out" / "verify.json").read_bytes() == record
    assert (place / "out" / "curves.png").read_bytes() == picture


@pytest.mark.slow
def test_two_workers_keep_the_bytes_of_one_process(place: Path, found: Verification, tmp_path: Path) -> None:
    curate.verify(settings(place, sweep=(0.05, 0.4), seeds=3), tmp_path / "two", workers=2, reporter=Heard())
    arms = [{p.name: p.read_bytes() for p in out.glob("arms/*.json")} for out in (place / "out", tmp_path / "two")]
    assert arms[0] == arms[1]
    assert not (tmp_path / "two" / "spools").exists()


def test_another_target_and_other_text_can_be_reported_on(place: Path, tmp_path: Path) -> None:
    asked = settings(
        place, target=(str(place / "sea.jsonl"),), other=(str(place / "heldout.jsonl"),), baselines=(), all_times=0
    )
    found = curate.verify(asked, tmp_path / "out", reporter=Heard())
    assert [o.name for o in found.outcomes] == ["selection", "random"]
    assert found.verdict.beats_random is False
    assert "does NOT beat random" in found.sentence
    rows = {r["arm"]: r for r in found.rows()}
    assert rows["selection"]["other"] < rows["random"]["other"]
    assert not (tmp_path / "out" / "baselines").exists()


def test_rows_that_took_part_in_scoring_are_refused_before_a_model_loads(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = (place / "val.jsonl").read_text().splitlines()[2:4]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text((place / "heldout.jsonl").read_text() + "\n".join(seen) + "\n")
    monkeypatch.setattr(verify, "load", None)
    with pytest.raises(CurateError, match=r"2 of 12 rows took part in scoring; the first is row 10 of mixed\.jsonl"):
        curate.verify(settings(place, target=(str(mixed),)), tmp_path / "out", reporter=Heard())
    asked = settings(place, target=(str(mixed),), allow_seen_target=True)
    with pytest.raises(TypeError):  # allowed, and on to the model
        curate.verify(asked, tmp_path / "out", reporter=Heard())


def relabelled(place: Path, folder: Path, **details: Any) -> Path:
    """A copy of the selection whose manifest records other details of its run."""
    import shutil

    shutil.copytree(place / "selected", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["run"]["details"] |= details
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_rows_that_a_run_kept_aside_are_no_seen_ones(place: Path, tmp_path: Path) -> None:
    row = tmp_path / "row.jsonl"
    row.write_text((place / "val.jsonl").read_text().splitlines()[3] + "\n")
    from curate.proof.verify import Verifying

    with pytest.raises(CurateError, match="took part in scoring"):
        Verifying.open(settings(place, target=(str(row),)), tmp_path / "out")
    aside = {"holdout": {"share": 0.1, "seed": 0, "rows": {"val.jsonl": [3]}}, "target_rows": None}
    chosen = relabelled(place, tmp_path / "aside", **aside)
    assert (
        len(Verifying.open(settings(place, selection=str(chosen), target=(str(row),)), tmp_path / "out").held_out) == 1
    )
    hashed = relabelled(place, tmp_path / "hashed", target_rows=["0" * 32])
    assert Verifying.open(settings(place, selection=str(hashed), target=(str(row),)), tmp_path / "out").held_out


def test_without_a_target_the_rows_that_the_run_kept_aside_are_taken(place: Path, tmp_path: Path) -> None:
    from curate.proof.verify import Verifying

    with pytest.raises(SettingsError, match="kept no rows of its own aside"):
        Verifying.open(settings(place, target=()), tmp_path / "out")
    kept = place / "runs" / "dot" / "target" / "heldout.jsonl"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes((place / "heldout.jsonl").read_bytes())
    try:
        assert len(Verifying.open(settings(place, target=()), tmp_path / "out").held_out) == 10
        rows = [json.loads(r) | {"task": "ab"[i % 5 == 0]} for i, r in enumerate(kept.read_text().splitlines())]
        kept.write_bytes(lines(rows))
        by_group = [("top", {"share": 0.2, "score": "score_b"})]
        select(Run.open(place / "runs" / "dot"), filters=by_group, out=tmp_path / "b")
        asked = settings(place, selection=str(tmp_path / "b"), target=())
        assert len(Verifying.open(asked, tmp_path / "out").held_out) == 2
        seen = tmp_path / "seen.jsonl"
        seen.write_text((place / "val.jsonl").read_text().splitlines()[2] + "\n")
        with pytest.raises(CurateError, match=r"Leave --target out, for the rows that .* kept aside"):
            Verifying.open(settings(place, selection=str(tmp_path / "b"), target=(str(seen),)), tmp_path / "out")
    finally:
        kept.unlink()


def test_what_is_no_selection_or_no_verification_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(CurateError, match=r"holds no selection: there is no manifest\.json\."):
        curate.verify(settings(place, selection=str(place / "pool")), tmp_path / "out")
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(SettingsError, match="is no verification"):
        curate.verify(settings(place), tmp_path)
    with pytest.raises(CurateError, match="not the pool"):
        curate.verify(settings(place, pool=(str(place / "val.jsonl"),)), tmp_path / "out", reporter=Heard())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": Recipe(steps=3)}, "The recipe gives steps or epochs"),
        ({"sweep": (0.0,)}, "sweep is 0"),
        ({"baselines": ("bm52",)}, "Did you mean 'bm25'"),
        ({"baselines": ("random",)}, "'random', which is an arm already"),
        ({"seeds": 0}, "seeds is 0"),
        ({"all_times": -1.0}, "all_times is -1"),
    ],
)
def test_wrong_settings_say_what_is_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, **changes)


def test_a_selection_by_a_groups_column_is_compared_by_that_column(place: Path, tmp_path: Path) -> None:
    select(Run.open(place / "runs" / "dot"), filters=[("top", {"share": 0.2, "score": "score_a"})], out=tmp_path / "a")
    asked = settings(place, selection=str(tmp_path / "a"), seeds=1, baselines=("bm25",), all_times=0, tokens=300)
    found = curate.verify(asked, tmp_path / "out", reporter=Heard())
    chosen = json.loads((tmp_path / "out" / "choices" / "bm25" / "manifest.json").read_text())
    assert chosen["filters"][-1]["values"]["score"] == "score_a"
    assert found.tokens == 300
    assert found.rows()[0]["epochs"] < 0.5


@pytest.mark.slow
def test_verifications_of_one_run_share_what_does_not_depend_on_the_selection(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    fit = fitting.fit

    def counting(*args: Any, **options: Any) -> Any:
        trained.append(1)
        return fit(*args, **options)

    monkeypatch.setattr(fitting, "fit", counting)
    results = []
    for name, filters in (("one", []), ("two", [("sample", {"share": 0.8, "seed": 1})])):
        select(Run.open(place / "runs" / "dot"), filters=filters, budget=4000, out=tmp_path / name)
        asked = settings(
            place,
            selection=str(tmp_path / name),
            seeds=1,
            baselines=("bm25",),
            all_times=1.0,
            banks=str(tmp_path / "banks"),
        )
        results.append(curate.verify(asked, tmp_path / f"{name}-out", reporter=Heard()))
    assert len(trained) == 5  # four arms, and the second selection's own
    first, second = ({o.name: o.curves for o in r.outcomes} for r in results)
    assert first["selection"] != second["selection"]
    assert {n: c for n, c in first.items() if n != "selection"} == {n: c for n, c in second.items() if n != "selection"}
    assert results[0].tokens == results[1].tokens == 4000


def test_a_small_selection_is_passed_over_until_a_verdict_is_possible() -> None:
    assert comparison.enough_tokens(1_000, step_tokens=100) == 1_000
    assert comparison.enough_tokens(200, step_tokens=100) == 400  # four steps
    assert comparison.enough_tokens(50, step_tokens=100) == 200  # four passes, which remain too few steps


def command(place: Path, out: Path, workers: int = 1) -> list[str]:
    asked = ["verify", str(place / "selected"), "--target", str(place / "heldout.jsonl"), "--out", str(out)]
    small = ["--set", "batch_size=2", "--set", "learning_rate=3e-3", "--other-documents", "16", "--points", "2"]
    banks = ["--banks", f"{out}-banks"]
    return [sys.executable, "-m", "curate", *asked, *small, "--all-times", "2", "--workers", f"{workers}", *banks]


@pytest.mark.slow
def test_a_killed_verification_goes_on_and_ends_with_the_same_bytes(place: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(place, one), check=True, capture_output=True)

    def arms(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.glob("arms/*.json")}

    for wanted, workers in ((1, 2), (4, 1), (9, 2)):
        process = subprocess.Popen(
            command(place, two, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(arms(two)) < wanted:
            time.sleep(0.002)
        time.sleep(0.05)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert wanted <= len(arms(two)) < 16
    subprocess.run(command(place, two), check=True, capture_output=True)
    assert arms(two) == arms(one)
    for name in ("verify.json", "curves.png"):
        made = (two / name).read_bytes()
        assert made == (one / name).read_bytes().replace(str(one).encode(), str(two).encode())


def test_a_plan_counts_the_trainings_measures_a_step_and_writes_nothing(place: Path, tmp_path: Path) -> None:
    asked = settings(place, sweep=(0.05, 0.4), tokens=800, baselines=("EK-FAC", "bm25"))
    before = sorted(place.rglob("*"))
    plan = curate.plan_verify(asked, tmp_path / "out", reporter=Heard())
    assert (plan.arms, plan.seeds, plan.trainings) == (7, 2, 14)
    assert plan.to_score == ("ekfac",)  # BM25 has a run beside the selection's
    assert plan.all_steps == pytest.approx(2 * plan.steps, abs=1)
    steps = plan.seeds * (6 * plan.steps + plan.all_steps)
    assert plan.seconds == pytest.approx(steps * plan.step_seconds + (14 * 2 + 1) * plan.loss_seconds)
    assert plan.memory_bytes > 1 << 26
    assert "14 trainings (7 arms, 2 seeds)" in plan.sentence
    assert "ekfac must score the pool" in plan.sentence
    assert sorted(place.rglob("*")) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_plan_of_a_verification_that_was_begun_leaves_out_what_is_kept(
    place: Path, found: Verification, tmp_path: Path
) -> None:
    out = shutil.copytree(place / "out", tmp_path / "out")
    next((out / "arms").glob("random-1-*.json")).unlink()
    asked = settings(place, sweep=(0.05, 0.4), seeds=3)
    plan = curate.plan_verify(asked, out, reporter=Heard())
    assert (plan.trainings, plan.there) == (21, 20)
    assert plan.seconds == pytest.approx(plan.steps * plan.step_seconds + (2 + 1) * plan.loss_seconds)
    assert "21 trainings (7 arms, 3 seeds; 20 are there already)" in plan.sentence
    other = curate.plan_verify(settings(place, sweep=(0.05, 0.4), points=3), out, reporter=Heard())
    assert (other.trainings, other.there) == (14, 0)
