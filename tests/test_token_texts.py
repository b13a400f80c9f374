"""What each token says, of tokenizers of every kind."""

import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from curate.proxies.token_texts import TokenTexts
from tests.small_models import tiny_tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "def f(x): return x + 1", "naïve café – 東京 🦊"] * 3
TEXTS = ["the fox", "two  spaces ", "naïve café – 東京 🦊👩‍👩‍👧 日本", "a \ufffd\ufffd b", "line\n\n\tnext", ""]


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: a space before the text, spaces as ▁, single bytes where nothing else fits."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        show_progress=False, vocab_size=400, special_tokens=["<unk>", *bytes_], limit_alphabet=40
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:1]  # bytes are plain entries of the vocabulary
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XLNet have it; what it does not know is one <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(show_progress=False, vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator([*CORPUS, "\n\t👩‍👧日本\ufffd abcdefghijklmnopqrstuvwxyz"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("make", [tiny_tokenizer, sentencepiece, unigram])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_put_together_are_the_document(make, text: str) -> None:
    tokenizer = make()
    ids = ids_of(tokenizer, text)
    texts = TokenTexts(tokenizer)(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    tokenizer = tiny_tokenizer()
    ids = ids_of(tokenizer, "é👧x")
    assert len(ids) > 3
    texts = TokenTexts(tokenizer)(ids)
    assert [t for t in texts if t] == ["é", "👧", "x"]
    assert texts[-1] == "x"


def test_a_document_that_was_cut_inside_a_character_says_so() -> None:
    tokenizer = tiny_tokenizer()
    ids = ids_of(tokenizer, "a👧")
    assert "".join(TokenTexts(tokenizer)(ids[:-1])) == "a\ufffd"


def test_spaces_show_and_special_tokens_are_written_out() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("the fox", verbose=False)["input_ids"]
    texts = TokenTexts(tokenizer)(ids)
    assert texts[0] == tokenizer.bos_token
    assert "".join(texts[1:]) == "the fox"
    other = sentencepiece()
    assert TokenTexts(other)(ids_of(other, "the the")) == ["the", " the"]


@pytest.mark.parametrize("make", [tiny_tokenizer, sentencepiece, unigram])
def test_any_ids_have_a_text_each(make) -> None:
    tokenizer = make()
    rng = random.Random(0)
    ids = [rng.randrange(len(tokenizer) + 20) for _ in range(500)]  # a model's vocabulary may be padded
    texts = TokenTexts(tokenizer)(ids)
    assert len(texts) == 500
    "".join(texts).encode()
