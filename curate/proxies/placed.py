"""Documents as tokens with their places in the text that the tokenizer reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from curate.errors import CurateError
from curate.proxies.tokens import Encoder
from curate.schema import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A document's tokens, none cut off."""

    text: str
    """What the tokenizer reads: the document's text, its prompt and completion, or the conversation as written out."""
    ids: np.ndarray
    """int32 `[tokens]`."""
    scored: np.ndarray
    """bool `[tokens]`: as in `Encoded`."""
    offsets: np.ndarray
    """int64 `[tokens, 2]`: the tokenizer's own, in characters of `text`."""
    special: bool
    """Whether the tokenizer added its special tokens; a chat template has written them."""


def placed(encoder: Encoder, documents: Sequence[Document]) -> Iterator[Placed]:
    """Yield each document's tokens as `encoder` masks them. Raises CurateError where that is not possible."""
    for document in documents:
        text, ranges, special = _written(encoder, document)
        straddling = document.messages is not None and encoder.chat.traits.marks
        ids, scored, offsets = encoder.masked(text, ranges, special=special, straddling=straddling)
        if document.text is not None:
            scored = np.ones(len(ids), bool)
        scored[:1] = False
        yield Placed(text=text, ids=np.asarray(ids, np.int32), scored=scored, offsets=offsets, special=special)


def _written(encoder: Encoder, document: Document) -> tuple[str, list[tuple[int, int]], bool]:
    """Return a document's text, its ranges that carry loss, and whether the tokenizer adds special tokens."""
    if document.text is not None:
        return document.text, [], True
    if document.messages is None:
        prompt, completion = document.prompt or "", document.completion or ""
        return prompt + completion, [(len(prompt), len(prompt) + len(completion))], True
    try:
        return *encoder.chat.learnt(document.messages, document.tools), False
    except Exception as error:  # a template is a program, which may raise anything
        raise CurateError(
            f"{document.shard}, row {document.row}: the chat template refuses it ({error}).",
            hint="It did not when the document was scored: put the model's template back as it was.",
        ) from error
