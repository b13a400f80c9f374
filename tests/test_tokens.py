import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from curate.errors import SettingsError
from curate.proxies.tokens import IGNORED, Encoded, Encoder, TokenBatch, TokenSettings, batches, windows
from tests.small_models import document, encoded, random_documents, tiny_tokenizer

MARKED = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
MARKED += "{% generation %}{{ m.content }}!{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
UNMARKED = "{% for m in messages %}<{{ m.role }}>{{ m.content }}!\n{% endfor %}"
UNMARKED += "{% if add_generation_prompt %}<assistant>{% endif %}"
# Forgets what the assistant thought in all turns but the last, as reasoning models' templates do.
REWRITES = "{% for m in messages %}<{{ m.role }}>{% if not loop.last %}{{ m.content[:2] }}{% else %}{{ m.content }}"
REWRITES += "{% endif %}\n{% endfor %}"

CHAT = [
    {"role": "user", "content": "the quick fox"},
    {"role": "assistant", "content": "the lazy dog"},
    {"role": "user", "content": "the lazy dog"},
    {"role": "assistant", "content": "def f(x)"},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


def encoder(tokenizer: PreTrainedTokenizerBase, context: int = 200, long: str = "truncate") -> Encoder:
    return Encoder(tokenizer, TokenSettings(context=context, long=long))


def with_template(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def scored_text(tokenizer: PreTrainedTokenizerBase, tokens: Encoded) -> str:
    return tokenizer.decode(tokens.ids[tokens.scored])


def test_plain_text_is_scored_from_its_second_token_on(tokenizer: PreTrainedTokenizerBase) -> None:
    (found,) = encoder(tokenizer)([document(text="the quick brown fox")])
    assert found.ids.tolist() == tokenizer("the quick brown fox")["input_ids"]
    assert found.ids[0] == tokenizer.bos_token_id
    assert found.scored.tolist() == [False] + [True] * (len(found.ids) - 1)
    assert found.num_scored == len(found.ids) - 1
    assert not found.truncated


def test_documents_of_all_kinds_come_back_in_their_order(tokenizer: PreTrainedTokenizerBase) -> None:
    documents = [
        document(messages=CHAT),
        document(text="dog"),
        document(prompt="the", completion=" fox"),
        document(text="a cat"),
    ]
    together = encoder(tokenizer)(documents)
    for one, tokens in zip(documents, together, strict=True):
        (alone,) = encoder(tokenizer)([one])
        assert alone.ids.tolist() == tokens.ids.tolist()
        assert alone.scored.tolist() == tokens.scored.tolist()
        assert (tokens.text, tokens.content_hash) == (one.plain_text, one.content_hash)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("the quick", " brown fox"),
        ("def f(", "x): return x"),
        ("naïve 東京 ", "café 🦊 東"),
        ("", "the dog"),
        ("the lazy dog\n", "\n🦊"),
    ],
)
def test_only_the_completion_is_scored(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> None:
    (found,) = encoder(tokenizer)([document(prompt=prompt, completion=completion)])
    assert tokenizer.decode(found.ids, skip_special_tokens=True) == prompt + completion
    text = scored_text(tokenizer, found)
    # A token that straddles the border is predicted from within the prompt, and holds the completion's beginning.
    assert text.endswith(completion)
    assert (prompt + completion).endswith(text)
    assert len(text) - len(completion) < 8


def test_a_prompt_alone_has_nothing_scored(tokenizer: PreTrainedTokenizerBase) -> None:
    (found,) = encoder(tokenizer)([document(prompt="the quick", completion="")])
    assert len(found.ids) > 1
    assert found.num_scored == 0


@pytest.mark.parametrize("template", [MARKED, MARKED.replace("{% gen", "{%- gen"), MARKED.replace("{% gen", "{%gen")])
def test_assistant_turns_are_scored_by_the_templates_own_marks(template: str) -> None:
    tokenizer = with_template(template)
    (found,) = encoder(tokenizer)([document(messages=CHAT)])
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.decode(found.ids) == whole
    # The same words in the user's turn are not scored.
    assert scored_text(tokenizer, found) == "the lazy dog!def f(x)!"


def test_assistant_turns_of_a_template_without_marks_are_the_differences_of_its_renderings() -> None:
    tokenizer = with_template(UNMARKED)
    (found,) = encoder(tokenizer)([document(messages=CHAT)])
    assert tokenizer.decode(found.ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert scored_text(tokenizer, found) == "the lazy dog!\ndef f(x)!\n"


@pytest.mark.parametrize("template", [MARKED, UNMARKED])
def test_masks_of_turns_hold_for_text_of_many_bytes_per_character(template: str) -> None:
    tokenizer = with_template(template)
    chat = [{"role": "user", "content": "東京 🦊?"}, {"role": "assistant", "content": "naïve 🦊東京"}]
    (found,) = encoder(tokenizer)([document(messages=chat)])
    assert scored_text(tokenizer, found).rstrip() == "naïve 🦊東京!"


def test_a_row_whose_earlier_turns_the_template_rewrites_is_set_aside_with_the_turn() -> None:
    (found,) = encoder(with_template(REWRITES))([document(messages=CHAT)])
    assert found.num_scored == 0
    assert found.refused.startswith("the template rewrites earlier turns (turn 2")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
    ],
)
@pytest.mark.parametrize("marks", ["", "{% generation %}x{% endgeneration %}"])
def test_what_a_template_refuses_concerns_its_row_alone(template: str, reason: str, marks: str) -> None:
    chat, plain = encoder(with_template(template + marks))([document(messages=CHAT), document(text="the dog")])
    assert chat.num_scored == 0
    assert reason in chat.refused
    assert plain.num_scored > 0
    assert not plain.refused


def test_chat_without_a_template_is_set_aside_with_its_reason_and_no_other_row() -> None:
    chat, plain = encoder(with_template(None))([document(messages=CHAT), document(text="the dog")])
    assert (chat.num_scored, chat.refused) == (0, "the model has no chat template")
    assert plain.num_scored > 0


def test_documents_longer_than_the_context_are_cut_and_say_so(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "the quick brown fox " * 10
    (whole,) = encoder(tokenizer, context=1000)([document(text=text)])
    (cut,) = encoder(tokenizer, context=7)([document(text=text)])
    assert (whole.truncated, cut.truncated) == (False, True)
    assert cut.ids.tolist() == whole.ids[:7].tolist()
    (kept,) = encoder(tokenizer, context=7, long="windows")([document(text=text)])
    assert kept.ids.tolist() == whole.ids.tolist()
    assert not kept.truncated
    (just,) = encoder(tokenizer, context=len(whole.ids))([document(text=text)])
    assert not just.truncated


def test_empty_and_one_token_documents_are_encoded_with_nothing_scored() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None  # as GPT-2's: nothing in front of a text
    empty, one = encoder(tokenizer)([document(text=""), document(text="d")])
    assert (len(empty.ids), empty.num_scored) == (0, 0)
    assert (len(one.ids), one.num_scored) == (1, 0)


def test_a_tokenizers_own_truncation_and_padding_are_not_applied(tokenizer: PreTrainedTokenizerBase) -> None:
    other = tiny_tokenizer()
    other.backend_tokenizer.enable_truncation(3)
    other.backend_tokenizer.enable_padding()
    documents = [document(text="the quick brown fox jumps"), document(text="dog")]
    for found, expected in zip(encoder(other)(documents), encoder(tokenizer)(documents), strict=True):
        assert found.ids.tolist() == expected.ids.tolist()


def test_encoding_is_a_function_of_the_document(tokenizer: PreTrainedTokenizerBase) -> None:
    documents = [document(text="the dog 🦊" * i) for i in range(1, 6)]
    one, other = encoder(tokenizer)(documents), encoder(tiny_tokenizer())(documents[::-1])[::-1]
    assert [e.ids.tolist() for e in one] == [e.ids.tolist() for e in other]


@pytest.mark.parametrize("changes", [{"context": 1}, {"context": 8, "long": "cut"}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"context is 1|long is 'cut'; expected 'truncate' or 'windows'"):
        TokenSettings(**changes)


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 10, 11, 12, 21, 40])
@pytest.mark.parametrize("context", [2, 6])
def test_windows_predict_every_scored_token_once_from_what_came_before(length: int, context: int) -> None:
    (tokens,) = random_documents([length], seed=length)
    tokens = Encoded(ids=np.arange(length, dtype=np.int32), scored=tokens.scored, truncated=False)
    seen: list[int] = []
    for ids, scored in windows(tokens, TokenSettings(context=context, long="windows")):
        assert len(ids) <= context
        assert not scored[0]
        assert (np.diff(ids) == 1).all()
        seen += ids[scored].tolist()
    assert seen == tokens.ids[tokens.scored].tolist()


def test_windows_that_score_nothing_are_left_out_but_for_the_first() -> None:
    tokens = encoded(range(30), prompt=25)
    found = list(windows(tokens, TokenSettings(context=6, long="windows")))
    assert [ids[0] for ids, _ in found] == [0, 20, 25]


def all_of(batch: Sequence[TokenBatch]) -> list[tuple[int, list[int], list[int]]]:
    return [(d, b.ids[i].tolist(), b.labels[i].tolist()) for b in batch for i, d in enumerate(b.documents)]


@pytest.mark.parametrize("budget", [1, 10, 64, 10_000])
def test_batches_hold_every_document_once_within_their_budget(budget: int) -> None:
    documents = random_documents([5, 17, 3, 1, 12, 12, 0, 8, 2, 30])
    found = list(batches(documents, TokenSettings(context=30), budget=lambda: budget))
    assert sorted(d for b in found for d in b.documents) == list(range(10))
    for batch in found:
        assert batch.ids.shape == batch.labels.shape
        assert len(batch) == 1 or batch.ids.numel() <= budget
        longest = max(1, *(len(documents[d].ids) for d in batch.documents))
        assert longest <= batch.ids.shape[1] <= min(longest + 7, 30)
    lengths = [len(documents[d].ids) for b in found for d in b.documents]
    assert lengths == sorted(lengths)


def test_labels_are_the_scored_tokens_one_position_earlier() -> None:
    documents = [encoded([4, 5, 6, 7, 8], prompt=3), encoded([9, 3])]
    (batch,) = batches(documents, TokenSettings(context=8), budget=lambda: 100)
    assert batch.documents == (1, 0)
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    assert batch.ids[1].tolist() == [4, 5, 6, 7, 8, 0, 0, 0]
    assert batch.labels.tolist() == [[3] + [IGNORED] * 7, [IGNORED, IGNORED, 7, 8] + [IGNORED] * 4]


@pytest.mark.parametrize("context", [30, 512, 1000, 2048])
def test_batches_come_in_few_lengths_with_little_padding(context: int) -> None:
    found = [
        b
        for n in range(1, context + 1)
        for b in batches([encoded([1] * n)], TokenSettings(context=context), budget=lambda: 1)
    ]
    lengths = [b.ids.shape[1] for b in found]
    assert all(n <= length <= min(context, max(n + 7, n * 17 / 16)) for n, length in enumerate(lengths, start=1))
    assert len(set(lengths)) <= 16 * math.log2(context)


def test_batches_are_the_same_every_time_and_may_name_documents_freely() -> None:
    documents = random_documents([5, 5, 5, 9, 2])
    settings = TokenSettings(context=30)
    assert all_of(list(batches(documents, settings, budget=lambda: 12))) == all_of(
        list(batches(documents, settings, budget=lambda: 12))
    )
    named = list(batches({100 + i: d for i, d in enumerate(documents)}, settings, budget=lambda: 12))
    assert [d for b in named for d in b.documents] == [104, 100, 101, 102, 103]


def test_no_documents_make_no_batch() -> None:
    assert list(batches([], TokenSettings(context=4), budget=lambda: 8)) == []


def test_a_document_with_a_token_beyond_the_embedding_has_no_tokens_and_says_which() -> None:
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra>"])
    encode = Encoder(tokenizer, TokenSettings(context=24, vocabulary=size))
    beyond, whole, cut = encode([document(text=t) for t in ("a fox <extra>", "a fox", "a fox " * 40 + "<extra>")])
    assert (len(beyond.ids), beyond.num_scored) == (0, 0)
    assert beyond.beyond == f"token {size} ('<extra>'): the model has embeddings for {size} tokens"
    assert whole.num_scored > 0
    assert not cut.beyond, "what truncation leaves out does not matter"


def test_a_batch_keeps_where_its_loss_is_when_it_moves_or_is_halved() -> None:
    labels = torch.tensor([[3, IGNORED, 5], [IGNORED, IGNORED, 7]])
    batch = TokenBatch(ids=torch.ones_like(labels), labels=labels, documents=(0, 1))
    assert batch.scored.tolist() == batch.to(torch.device("cpu")).scored.tolist() == [0, 2, 5]
    assert [half.scored.tolist() for half in batch.halves()] == [[0, 2], [2]]
