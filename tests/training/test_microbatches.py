import numpy as np
import pytest
import torch

from curate.errors import CurateError
from curate.proxies.room import Room
from curate.proxies.tokens import IGNORED, TokenSettings
from curate.training.microbatches import Corpus, order
from curate.training.recipe import Recipe
from tests.small_models import encoded
from tests.training.small_training import corpus


def test_every_scored_token_is_predicted_once_at_its_place() -> None:
    documents = corpus()
    row = torch.from_numpy(np.concatenate([d.ids for d in documents.documents])).long()
    scored = torch.from_numpy(np.concatenate([d.scored for d in documents.documents]))
    seen = torch.zeros(documents.num_tokens, dtype=torch.int64)
    for batch in documents.microbatches(range(len(documents))):
        assert torch.equal(batch.batch.labels[batch.scored], row[batch.places[batch.scored]])
        assert (batch.batch.labels[~batch.scored] == IGNORED).all()
        seen.index_add_(0, batch.places[batch.scored], torch.ones_like(batch.places[batch.scored]))
    assert torch.equal(seen, scored.long())


def test_micro_batches_stay_within_their_budget() -> None:
    documents = corpus(budget=40)
    sizes = [b.batch.ids.numel() for b in documents.microbatches(range(len(documents)))]
    assert len(sizes) > 1
    assert max(sizes) <= 40


def test_a_document_that_comes_twice_in_a_batch_counts_twice() -> None:
    documents = corpus()
    once = sum(int(b.scored.sum()) for b in documents.microbatches([2]))
    assert sum(int(b.scored.sum()) for b in documents.microbatches([2, 2])) == 2 * once


def test_spread_and_gather_go_between_documents_and_tokens() -> None:
    documents = corpus((3, 5))
    values = torch.tensor([2.0, 7.0])
    assert documents.spread(values).tolist() == [2.0] * 3 + [7.0] * 5
    assert documents.gather(documents.spread(values)).tolist() == [6.0, 35.0]
    assert [len(t) for t in documents.split(documents.spread(values))] == [3, 5]


def test_documents_without_loss_are_refused_when_there_are_no_others() -> None:
    with pytest.raises(CurateError, match="None of 1 documents"):
        Corpus([encoded([5], prompt=1)], TokenSettings(context=8), room=Room(10))


def test_the_order_sees_every_document_once_per_epoch_in_batches_of_one_size() -> None:
    recipe = Recipe(batch_size=4, epochs=2, seed=3)
    found = order(recipe, 10)
    assert [len(b) for b in found] == [4] * 5
    stream = [i for batch in found for i in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert order(recipe, 10) == found
    assert order(Recipe(batch_size=4, epochs=2, seed=4), 10) != found


def test_a_batch_may_be_larger_than_the_corpus() -> None:
    assert [len(b) for b in order(Recipe(batch_size=8, steps=2), 3)] == [8, 8]


def test_the_fingerprint_follows_tokens_masks_and_order() -> None:
    settings = TokenSettings(context=8)

    def fingerprint(*documents: tuple[list[int], int]) -> str:
        return Corpus([encoded(ids, prompt=p) for ids, p in documents], settings, room=Room(10)).fingerprint()

    base = fingerprint(([1, 2, 3], 1), ([4, 5], 1))
    assert fingerprint(([1, 2, 3], 1), ([4, 5], 1)) == base
    others = [
        fingerprint(([1, 2, 4], 1), ([4, 5], 1)),
        fingerprint(([1, 2, 3], 2), ([4, 5], 1)),
        fingerprint(([4, 5], 1), ([1, 2, 3], 1)),
        fingerprint(([1, 2], 1), ([3, 4, 5], 1)),
    ]
    assert len({base, *others}) == 5
