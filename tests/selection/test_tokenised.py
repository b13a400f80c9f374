from dataclasses import dataclass

import numpy as np
import pytest

from curate.schema import Document
from curate.selection.labels import NO_LOSS
from curate.selection.tokenised import (
    TokenCount,
    TokenView,
    ended,
    masked,
    packed,
    tables,
    with_loss,
)


@dataclass
class Characters:
    """Every character of a text is a token."""

    ids: np.ndarray
    scored: np.ndarray
    refused: str = ""


def encoded(text: str, prompt: int = 1) -> Characters:
    places = np.arange(len(text))
    return Characters(np.array([ord(c) for c in text], np.int32), places >= prompt)


def view(**how) -> TokenView:
    def encode(documents):
        return [encoded(d.text) if d.text != "?" else Characters(*[np.zeros(0, bool)] * 2, "no") for d in documents]

    return TokenView(tokenizer="characters", fingerprint="", encode=encode, vocabulary=128, end=0, **how)


def document(text: str) -> Document:
    return Document(doc_id=text, shard="s", row=0, content_hash="", text=text)


def row(*labels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(np.array(labels, np.int32)), np.array(labels, np.int32)


def test_documents_without_loss_or_tokens_are_left_out_and_counted():
    count = TokenCount()
    rows = list(masked([document(t) for t in ("ab", "?", "c", "de")], view(), count))
    assert [labels.tolist() for _, labels in rows] == [[NO_LOSS, ord("b")], [NO_LOSS, ord("e")]]
    assert (count.documents, count.refused, count.without_loss, count.reason) == (2, 1, 1, "no")
    assert len(count.sentences) == 2


def test_an_end_mark_is_added_once_and_carries_loss_as_the_last_token_does():
    count = TokenCount()
    rows = list(ended([row(-5, 3), row(-5, 9), (np.array([5, 4]), np.array([5, NO_LOSS]))], 9, count))
    assert [r.tolist() for r, _ in rows] == [[5, 3, 9], [5, 9], [5, 4, 9]]
    assert [labels.tolist()[-1] for _, labels in rows] == [9, 9, NO_LOSS]
    assert count.end_marks == 2


@pytest.mark.parametrize("length", [2, 3, 7, 100])
def test_packing_loses_nothing_and_keeps_the_order(length):
    rng = np.random.default_rng(length)
    rows = [row(*rng.integers(1, 99, n)) for n in rng.integers(1, 12, 30)]
    result = list(packed(rows, length))
    for part in (0, 1):
        assert np.concatenate([r[part] for r in result]).tolist() == np.concatenate([r[part] for r in rows]).tolist()
    assert {len(ids) for ids, _ in result[:-1]} <= {length}
    assert len(result[-1][0]) <= length


def test_rows_without_loss_are_left_out_and_counted():
    count = TokenCount()
    masked = (np.array([1, 2, 3], np.int32), np.full(3, NO_LOSS, np.int32))
    assert len(list(with_loss([row(7, 8), masked], count))) == 1
    assert (count.rows, count.tokens, count.loss_tokens, count.dropped_tokens, count.longest) == (1, 2, 2, 3, 2)


def test_a_table_has_a_list_per_row():
    (table,) = tables([row(1, 2, 3), row(4)])
    assert table["input_ids"].to_pylist() == [[1, 2, 3], [4]]
    assert table["attention_mask"].to_pylist() == [[1, 1, 1], [1]]
    assert table["labels"].to_pylist() == [[1, 2, 3], [4]]
