import random

import pytest

from curate.errors import CurateError
from curate.schema import Document
from curate.training.tokenizer import encode_packed, train_tokenizer, training_text
from tests.training.conftest import sentence

TEXTS = [sentence(i) for i in range(50)]


def document(**content: object) -> Document:
    return Document(doc_id="1", shard="s", row=3, content_hash="0", **content)  # type: ignore[arg-type]


def test_the_order_of_texts_does_not_matter():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    one, other = (train_tokenizer(t, vocab_size=320, context=64) for t in (TEXTS, shuffled))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_a_vocabulary_holds_no_more_than_asked_for():
    assert len(train_tokenizer(TEXTS, vocab_size=300, context=64)) == 300
    assert 260 < len(train_tokenizer(TEXTS, vocab_size=8192, context=64)) < 1000


@pytest.mark.parametrize("word", ["x", "7", "_=", "é", "\u4e2d", " "])
def test_an_endless_word_is_learned_from_its_beginning(word: str):
    endless, cut = ([*TEXTS, f"a word {word * n}\n and more"] for n in (400_000, 1000 // len(word)))
    one, other = (train_tokenizer(t, vocab_size=400, context=64) for t in (endless, cut))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_windows_are_the_documents_in_order_with_an_end_after_each():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, context=64)
    stream = [i for t in TEXTS for i in [*tokenizer(t, add_special_tokens=False)["input_ids"], 0]]
    windows = encode_packed(TEXTS, tokenizer, 7)
    assert [i for w in windows for i in w] == stream[: len(stream) // 7 * 7]
    assert {len(w) for w in windows} == {7}
    assert encode_packed(["a"], tokenizer, 64) == []


def test_a_tokenizer_without_an_end_token_is_refused():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, context=64)
    tokenizer.eos_token = None
    with pytest.raises(CurateError, match="neither an eos nor a sep"):
        encode_packed(TEXTS, tokenizer, 8)


def test_each_form_of_a_row_has_its_training_text():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, context=64)
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    chat = "<|im_start|>user\nhi\nthere<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    assert training_text(document(text="plain"), tokenizer) == "plain"
    assert training_text(document(prompt="2+2=", completion="4"), tokenizer) == "2+2=4"
    assert training_text(document(messages=turns), tokenizer) == chat
    tokenizer.chat_template = None
    assert training_text(document(messages=turns), tokenizer) == "hi\nthere\nyes"


def test_half_a_surrogate_pair_does_not_stop_the_training():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, context=64)
    assert tokenizer(training_text(document(text="a\ud800b"), tokenizer))["input_ids"]


def test_a_template_that_refuses_a_row_names_shard_and_row():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, context=64)
    tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(CurateError, match=r"s row 3: .*no system turn"):
        training_text(document(messages=[{"role": "system", "content": "x"}]), tokenizer)
