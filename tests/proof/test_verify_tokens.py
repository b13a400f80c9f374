"""A selection of tokens is trained on as it lies, beside random tokens of its documents and whole documents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import curate
from curate.cli import main
from curate.documents import Fields
from curate.errors import CurateError
from curate.proof import comparison, verdict
from curate.proof.masking import Masked, chosen_tokens
from curate.proof.selection import Selected
from curate.proof.verdict import Verification
from curate.proxies.proxy import load_proxys_tokenizer
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoder, TokenSettings
from curate.training.recipe import Recipe
from tests.pipeline.test_select import CHATS, Warnings, dump
from tests.proof.test_verify import make_heldout
from tests.scoring import lines, make_project


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (comparison, verdict):
            patch.setattr(module, "LEAST_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("verifying"), 20)
    (folder / "pool" / "e.jsonl").write_bytes(lines(CHATS))
    make_heldout(folder / "heldout.jsonl")
    run = curate.score(
        target=str(folder / "val.jsonl"),
        pool=str(folder / "pool"),
        model=str(folder / "proxy"),
        method="dot",
        device="cpu",
        per_token=True,
        out=folder / "runs" / "dot",
        reporter=Warnings(),
    )
    curate.select(run, unit="token", documents="60%", top="40%", out=folder / "selected")
    curate.select(run, unit="token", top="90%", out=folder / "wide")
    return folder


def settings(place: Path) -> dict[str, Any]:
    return {
        "selection": str(place / "selected"),
        "target": (str(place / "heldout.jsonl"),),
        "recipe": Recipe(batch_size=4, learning_rate=3e-3),
        "seeds": 2,
        "other_documents": 8,
        "points": 1,
        "baselines": (),
        "all_times": 0,
    }


@pytest.fixture(scope="module")
def verification(place: Path) -> Verification:
    return curate.verify(**settings(place), out=place / "out", reporter=Warnings())


def encoder(place: Path, context: int = 64) -> Encoder:
    tokenizer = load_proxys_tokenizer(ProxySettings(model=str(place / "proxy")))
    return Encoder(tokenizer, TokenSettings(context=context))


def test_trainings_learn_the_labels_of_the_dump(place: Path) -> None:
    read = encoder(place)
    documents = list(chosen_tokens(Selected.read(place / "wide"), Fields()))
    assert any(d.document.messages for d in documents)
    for masked, row in zip(documents, dump(place / "wide"), strict=True):
        encoded = masked.encoded(read)
        ids, labels = np.asarray(row["input_ids"][:64]), np.asarray(row["labels"][:64])
        assert encoded.ids.tolist() == ids.tolist()
        assert encoded.scored.tolist() == (labels >= 0).tolist()


def test_random_tokens_are_as_many_of_each_document_and_others_by_seed(place: Path) -> None:
    read, selected = encoder(place), Selected.read(place / "selected")
    chosen = [d.encoded(read) for d in chosen_tokens(selected, Fields())]
    whole = [read([d.document])[0] for d in chosen_tokens(selected, Fields())]
    draws = [[d.encoded(read) for d in chosen_tokens(selected, Fields(), seed)] for seed in (1, 2)]
    for draw in draws:
        assert [e.num_scored for e in draw] == [e.num_scored for e in chosen]
        assert all((e.scored <= w.scored).all() for e, w in zip(draw, whole, strict=True))
    assert any((a.scored != b.scored).any() for a, b in zip(*draws, strict=True))


def test_arms_train_on_equal_tokens_that_carry_loss_and_read_others(place: Path, verification: Verification) -> None:
    rows = {r["arm"]: r for r in verification.rows()}
    assert list(rows) == ["selection", "random", "random tokens", "best documents"]
    budget = json.loads((place / "selected" / "manifest.json").read_text())["after"]["tokens"]
    for row in rows.values():
        assert budget <= row["tokens"] <= budget + 80
    counts = {o.name: o.counts for o in verification.outcomes}
    assert counts["selection"] == counts["random tokens"]
    assert rows["selection"]["read_tokens"] > 2 * rows["best documents"]["read_tokens"]
    assert rows["best documents"]["read_tokens"] >= rows["best documents"]["tokens"]
    assert rows["selection"]["target"] != rows["random tokens"]["target"]
    assert verification.is_of_tokens


@pytest.mark.slow
def test_the_command_shows_the_tokens_that_are_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--target", str(place / "heldout.jsonl"), "--set", "batch_size=4", "--set", "learning_rate=3e-3"]
    small = ["--baseline", "bm25", "--seeds", "1", "--other-documents", "8", "--points", "1", "--all-times", "0"]
    main(["verify", str(place / "selected"), *given, *small, "--out", str(place / "by-command")])
    out = capsys.readouterr().out
    assert "of all read" in out
    assert "random tokens" in out


def test_a_plan_counts_the_arms_of_tokens(place: Path, tmp_path: Path) -> None:
    plan = curate.plan_verify(**settings(place), out=tmp_path / "out", reporter=Warnings())
    assert (plan.arms, plan.trainings) == (4, 8)


def test_a_conversation_that_is_written_otherwise_is_refused(place: Path) -> None:
    selected = Selected.read(place / "wide")
    chat = next(d for d in chosen_tokens(selected, Fields()) if d.document.messages)
    with pytest.raises(CurateError, match="written otherwise by this model's chat template"):
        Masked(document=chat.document, spans=chat.spans, text="other").encoded(encoder(place))
