"""Spans and tokens: what is chosen comes back, whatever the tokenizer does to characters and white space."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from curate.errors import CurateError
from curate.selection.labels import NO_LOSS, labelled, overlapping, spans_of, stretches_of
from curate.selection.token_units import SMOOTHINGS, units_of
from tests.small_models import tiny_tokenizer

SAMPLE = ["the cat sat. the cat ran!\n\nnaïve cafés 🙂🙂 и ещё строка\n", "def f(x):\n    return  x + 1\n"] * 20


def trimming() -> PreTrainedTokenizerBase:
    """Byte-level, as RoBERTa's: offsets leave white space out; a special token on either side."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(SAMPLE, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def falling_back() -> PreTrainedTokenizerBase:
    """As Llama's: words begin with ▁, one is put in front, and characters it lacks are bytes."""
    letters = {c: i for i, c in enumerate("▁abcdefghijklmnopqrstuvwxyz.!():+1\n", 256)}
    vocabulary = {f"<0x{i:02X}>": i for i in range(256)} | letters | {"th": 400, "the": 401, "▁the": 402, "<unk>": 403}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def by_word() -> PreTrainedTokenizerBase:
    """Whole words and signs, lower-cased; white space is no token."""
    made = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "sat": 2, ".": 3, "[UNK]": 4}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made)


TOKENIZERS = {"tiny": tiny_tokenizer, "trimming": trimming, "falling_back": falling_back, "by_word": by_word}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: make() for name, make in TOKENIZERS.items()}


def placed(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], np.ndarray]:
    encoding = tokenizer(text, return_offsets_mapping=True)
    return encoding["input_ids"], stretches_of(encoding["offset_mapping"])


TEXTS = st.lists(
    st.sampled_from([*"abthe .!\n", "the", "  ", "é", "🙂", "ж", "e\u0301", "👩\u200d🔬", "\r\n"]), max_size=40
).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS, seed=st.integers(0, 99), smooth=st.sampled_from(SMOOTHINGS))
@settings(max_examples=60, deadline=None)
def test_chosen_tokens_come_back_from_their_spans(
    tokenizers: dict[str, PreTrainedTokenizerBase], name: str, text: str, seed: int, smooth: str
) -> None:
    ids, stretches = placed(tokenizers[name], text)
    rng = np.random.default_rng(seed)
    scored = rng.random(len(ids)) < 0.8
    scored[:1] = False
    units = units_of(text, stretches, scored, smooth)
    assert not (units >= 0)[~scored].any()
    chosen = np.append(rng.random(units.max(initial=-1) + 1) < 0.5, False)[units]
    spans = spans_of(stretches, chosen)
    assert all(0 <= a < b <= len(text) for a, b in spans)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(spans))
    assert labelled(text, spans, tokenizers[name])[0] == ids
    labels = np.asarray(labelled(text, spans, tokenizers[name])[1])
    assert np.array_equal(labels != NO_LOSS, chosen)
    assert np.array_equal(labels[chosen], np.asarray(ids)[chosen])


@pytest.mark.parametrize("name", ["tiny", "trimming", "falling_back"])
def test_every_token_with_a_character_can_be_chosen(tokenizers: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    text = "the  cat 🙂 sat.\n\n  the end "
    ids, stretches = placed(tokenizers[name], text)
    scored = np.arange(len(ids)) > 0
    units = units_of(text, stretches, scored, "none")
    can_not = np.asarray(ids)[(units < 0) & scored]
    assert set(tokenizers[name].convert_ids_to_tokens(can_not)) <= {"</s>"}
    assert spans_of(stretches, units >= 0)[-1][1] >= len(text) - (name == "trimming")


def test_bytes_of_one_character_are_chosen_together(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for name in ("tiny", "falling_back"):
        ids, stretches = placed(tokenizers[name], "a 🙂ж")
        units = units_of("a 🙂ж", stretches, np.arange(len(ids)) > 0, "none")
        assert len(ids) > len(set(units.tolist()))
        covers = [i for i, (a, b) in enumerate(stretches) if a <= 2 < b]
        assert len(covers) > 1
        assert len({units[i] for i in covers}) == 1
        cut = np.arange(len(ids)) > 0
        cut[covers[-1] :] = False  # the document was cut off within the character
        assert units_of("a 🙂ж", stretches, cut, "none")[covers].tolist() == [-1] * len(covers)


def test_another_tokenizers_tokens_carry_loss_where_they_touch_a_span(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    text = "The cat sat."
    ids, labels = labelled(text, [[5, 6]], tokenizers["by_word"])  # the "a" of cat
    assert ids == [0, 1, 2, 3]
    assert labels == [NO_LOSS, 1, NO_LOSS, NO_LOSS]
    assert labelled(text, [[0, 12]], tokenizers["by_word"])[1] == [NO_LOSS, 1, 2, 3]  # nothing predicts the first
    assert labelled(text, [[7, 8]], tokenizers["by_word"])[1] == [NO_LOSS, NO_LOSS, 2, NO_LOSS]  # the space before sat


def test_spans_are_sorted_and_those_that_touch_are_one() -> None:
    stretches = np.array([[4, 6], [0, 2], [2, 4], [8, 9]])
    assert spans_of(stretches, np.ones(4, bool)) == [[0, 6], [8, 9]]
    assert spans_of(stretches, np.zeros(4, bool)) == []
    assert overlapping(stretches, []).tolist() == [False] * 4
    assert overlapping(np.array([[2, 3], [3, 3], [1, 2], [9, 12]]), [[2, 3], [11, 14]]).tolist() == [
        True, False, False, True
    ]  # fmt: skip


def test_a_tokenizer_without_places_is_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "mine"

    with pytest.raises(CurateError, match="mine tells no places"):
        labelled("a", [], Slow())
