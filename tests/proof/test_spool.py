from pathlib import Path

import numpy as np
import pytest

from curate.documents import Overlap, hash_content
from curate.errors import CurateError
from curate.progress import Silent
from curate.proof.spool import Excluded, SpooledCorpus, spooled, token_batches
from curate.proxies.room import Room
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import Document
from curate.training.microbatches import Corpus
from tests.small_models import tiny_tokenizer

NOTHING = Excluded(hashes=frozenset(), overlap=Overlap([]))
LONG = "the quick brown fox jumps over the lazy dog and then it runs back home over green hills"


def document(text: str, row: int = 0) -> Document:
    return Document(doc_id="d", shard="s", row=row, content_hash=hash_content({"text": text}), text=text)


def encoder() -> Encoder:
    return Encoder(tiny_tokenizer(), TokenSettings(context=16, long="windows"))


def spool(folder: Path, texts: list[str], excluded: Excluded = NOTHING) -> dict[str, int]:
    made = [document(t, i) for i, t in enumerate(texts)]
    return spooled(folder, lambda: made, encoder(), excluded, what="x", reporter=Silent())


def test_a_spooled_corpus_gives_the_batches_of_one_in_memory(tmp_path: Path) -> None:
    texts = ["the quick fox", LONG, "def f(x): return x", "lazy dog over the fox"]
    counts = spool(tmp_path / "x", texts)
    encode = encoder()
    memory = Corpus(encode([document(t) for t in texts]), encode.settings, room=Room(40))
    disk = SpooledCorpus(tmp_path / "x", encode.settings, room=Room(40))
    assert disk.fingerprint() == memory.fingerprint()
    assert (len(disk), disk.num_tokens) == (4, memory.num_tokens)
    np.testing.assert_array_equal(disk.scored, memory.scored)
    assert counts == {"documents": 4, "tokens": int(memory.scored.sum()), "held_out": 0, "nothing_scored": 0}
    for ours, theirs in zip(disk.microbatches([3, 1]), memory.microbatches([3, 1]), strict=True):
        np.testing.assert_array_equal(ours.batch.ids, theirs.batch.ids)
        np.testing.assert_array_equal(ours.places, theirs.places)


def test_held_out_rows_and_documents_that_hold_one_are_left_out(tmp_path: Path) -> None:
    excluded = Excluded(hashes=frozenset({document("lazy dog").content_hash}), overlap=Overlap([LONG]))
    counts = spool(tmp_path / "x", ["lazy dog", f"before {LONG} after", "a quick fox", "x"], excluded)
    assert counts["held_out"] == 2
    assert counts["documents"] + counts["nothing_scored"] == 2


def test_what_is_there_is_taken_and_half_a_spool_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "ids.bin").write_bytes(b"torn")
    first = spool(tmp_path / "x", ["the quick fox"])
    assert spool(tmp_path / "x", ["another text altogether"]) == first
    assert not (tmp_path / ".x.partial").exists()


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="no document is left"):
        spool(tmp_path / "x", [])


def test_steps_have_equal_tokens_and_every_document_comes_once_per_epoch() -> None:
    scored = np.random.default_rng(0).integers(1, 40, 100)
    total = int(scored.sum())
    batches = token_batches(scored, tokens=2 * total, steps=20, seed=3)
    sums = [int(scored[list(b)].sum()) for b in batches]
    assert len(batches) == 20
    assert max(abs(s - total / 10) for s in sums) <= 40
    assert 2 * total <= sum(sums) < 2 * total + 40
    stream = [i for b in batches for i in b]
    assert sorted(stream[:100]) == sorted(stream[100:200]) == list(range(100))
    assert stream[:100] != stream[100:200]
    assert batches != token_batches(scored, tokens=2 * total, steps=20, seed=4)


def test_a_document_larger_than_a_step_is_a_step() -> None:
    assert [len(b) for b in token_batches(np.array([100]), tokens=30, steps=3, seed=0)] == [1, 1, 1]
