from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curate import executors
from curate.errors import CurateError
from curate.executors.contract import Executor
from curate.folders.local import open_folder
from curate.progress import Silent
from curate.proof.bank import Bank, Job, Laboratory
from curate.proxies.proxy import load_proxy
from curate.proxies.room import Room
from curate.proxies.settings import ProxySettings
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import Document
from curate.training.adjoint import target_loss
from tests.proof.laboratories import RECIPE, laboratory, subsets
from tests.scoring import make_proxy_folder, make_rows


def test_a_retrainings_losses_are_those_of_training_without_the_documents(tmp_path: Path) -> None:
    made = laboratory()
    left = subsets()[0]
    found = Bank(made, tmp_path).fetch([Job(0, left)], Silent())[0]
    end = made.training(Job(0, left)).run().parameters
    from curate.training.microbatches import Corpus

    slow = [target_loss(made.model, end, Corpus([q], made.tokens, room=Room(64)))[0] for q in made.queries]
    np.testing.assert_allclose(found, slow, rtol=1e-10)


def test_what_is_there_is_not_made_again_and_more_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(0, left) for left in subsets(4)]
    first = Bank(laboratory(), tmp_path).fetch(jobs[:2], Silent())
    made: list[Job] = []
    real = Laboratory.losses
    monkeypatch.setattr(Laboratory, "losses", lambda self, job: (made.append(job), real(self, job))[1])
    whole = Bank(laboratory(), tmp_path).fetch([*jobs, jobs[0]], Silent())
    assert made == jobs[2:]
    np.testing.assert_array_equal(whole[:2], first)
    np.testing.assert_array_equal(whole[4], first[0])


def test_another_recipe_document_or_query_is_another_bank(tmp_path: Path) -> None:
    made = laboratory()
    others = [
        laboratory(recipe=replace(RECIPE, learning_rate=0.02)),
        laboratory(documents=made.documents[:-1]),
        laboratory(queries=made.queries[:-1]),
    ]
    prints = {one.fingerprint() for one in (made, laboratory(), *others)}
    assert len(prints) == 4
    assert Bank(made, tmp_path).folder == open_folder(tmp_path / made.fingerprint())


def test_repeats_differ_in_the_order_alone() -> None:
    made = laboratory()
    first, second = made.training(Job(0)), made.training(Job(1))
    assert first.batches != second.batches
    assert first.corpus is second.corpus


def on_disk(folder: Path) -> Laboratory:
    make_proxy_folder(folder)
    proxy = load_proxy(ProxySettings(model=str(folder), device="cpu"))
    encode = Encoder(proxy.tokenizer, TokenSettings(context=32))
    texts = [r["text"] for r in make_rows(12, 3)]
    documents = [Document(doc_id=str(i), shard="", row=i, content_hash=str(i), text=t) for i, t in enumerate(texts)]
    encoded = encode(documents)
    return Laboratory(
        proxy=proxy,
        recipe=replace(RECIPE, batch_size=4, steps=2),
        documents=encoded[:9],
        queries=encoded[9:],
        tokens=encode.settings,
        room=Room(256),
    )


def two_processes() -> Executor:
    return executors.choose("processes", workers=2, device="cpu").make()


@pytest.mark.slow
def test_processes_make_the_same_losses_as_one(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "proxy")
    jobs = [Job(0), *(Job(0, (i,)) for i in range(4))]
    alone = Bank(made, tmp_path / "one").fetch(jobs, Silent())
    together = Bank(made, tmp_path / "two").fetch(jobs, Silent(), two_processes())
    np.testing.assert_array_equal(together, alone)


@pytest.mark.slow
def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "proxy")
    bank = Bank(made, tmp_path / "banks")
    (tmp_path / "proxy" / "model.safetensors").unlink()
    with pytest.raises(CurateError, match="does not load as a causal language model") as caught:
        bank.fetch([Job(0), Job(0, (1,))], Silent(), two_processes())
    assert any("Traceback" in note and "load_proxy" in note for note in caught.value.__notes__)


def test_a_document_whose_tokens_carry_no_loss_is_left_out() -> None:
    made = laboratory()
    labels = [range(made.corpus.starts[i] + 1, made.corpus.starts[i + 1]) for i in range(len(made.documents))]
    assert made.labels.tolist() == [place for places in labels for place in places]
    masked, without = Job(0, tuple(labels[3]), by_token=True), Job(0, (3,))
    np.testing.assert_array_equal(made.losses(masked), made.losses(without))
    assert len({masked.name, without.name, Job(0, masked.left).name}) == 3
