"""Train a tokenizer on a sample, and write any document the way this tokenizer's model will read it."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from curate.errors import CurateError
from curate.progress import Reporter
from curate.schema import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
_LONGEST_WORD = 1000
_LONG_WORD = re.compile(
    "|".join(rf"(?<!{kind})(?:{kind}){{{_LONGEST_WORD + 1},}}" for kind in (r"[^\W\d_]", r"\d", r"[^\w\s]|_", r"\s"))
)
"""What byte-level BPE takes as one word, of letters, digits, signs or spaces."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, context: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer; any text in any script encodes without an unknown token.

    The same texts in any order give the same tokenizer. It may hold fewer than `vocab_size` tokens where the
    sample is small. Carries bos, eos (one token, as in GPT-2) and pad, and a ChatML template, so that chat
    rows work too. Puts bos in front of a text: that is how a document begins in packed windows, and its first
    word is scored, too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from curate.proxies.templates import shipped_template

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_without_long_words, texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        extra_special_tokens=[TURN_START, TURN_END],
        chat_template=shipped_template(),
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _without_long_words(text: str) -> str:
    """Cut words to 1 000 characters: learning merges takes time in the square of a word's length."""
    return _LONG_WORD.sub(lambda word: word[0][:_LONGEST_WORD], text)


def training_text(document: Document, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a document's text for next-token training.

    Chat rows go through the tokenizer's chat template where it has one, prompt and completion are joined;
    packed windows train on every token, prompts too, since they teach the model the pool and not to answer.
    """
    if document.messages is None or not tokenizer.chat_template:
        # JSON can smuggle in half a surrogate pair, which no tokenizer takes.
        return document.plain_text.encode("utf-8", "replace").decode()
    from curate.proxies.chat import Chat

    try:
        return Chat(tokenizer).text(document.messages, document.tools)
    except Exception as error:  # a template may raise anything, jinja's own errors included
        raise CurateError(
            f"{document.shard} row {document.row}: the chat template refuses these messages: {error}.",
            hint="Use a model whose template takes such conversations, or leave this shard out.",
        ) from error


def training_texts(
    documents: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", reporter: Reporter
) -> list[str]:
    """Return training texts; a conversation that the chat template refuses gives an empty one."""
    texts: list[str] = []
    refusals: list[CurateError] = []
    for document in documents:
        try:
            texts.append(training_text(document, tokenizer))
        except CurateError as error:
            refusals.append(error)
            texts.append("")
    if refusals:
        reporter.warn(f"{len(refusals)} of {len(documents)} documents left out: {refusals[0].message}")
    return texts


def encode_packed(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", context: int) -> "list[list[int]]":
    """Join the texts' tokens, each followed by eos, and cut the stream into windows of `context` tokens.

    A remainder shorter than a window is left out: texts that together are shorter give no window.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if not isinstance(end, int):
        raise CurateError(
            "The model's tokenizer has neither an eos nor a sep token to separate documents with.",
            hint="Set eos_token in its tokenizer_config.json.",
        )
    windows: list[list[int]] = []
    stream: list[int] = []
    for start in range(0, len(texts), 256):
        batch = list(texts[start : start + 256])
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            stream.extend(ids)
            stream.append(end)
        whole = len(stream) // context * context
        windows.extend(stream[i : i + context] for i in range(0, whole, context))
        del stream[:whole]
    return windows
