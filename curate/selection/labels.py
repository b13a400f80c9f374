"""Spans of a text as tokens that carry loss, by any tokenizer that tells where its tokens stand.

A token carries loss where it overlaps a span; the first one of a text never does, as nothing predicts it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.errors import CurateError

NO_LOSS = -100


def labelled(
    text: str, spans: Sequence[Sequence[int]], tokenizer: Any, *, special: bool = True
) -> tuple[list[int], list[int]]:
    """Return a text's `input_ids` and `labels`, -100 where a token carries no loss.

    `spans`: `[start, end)` in characters, sorted, none overlapping another. `tokenizer`: a fast one of transformers.
    `special`: whether it adds special tokens of its own; a conversation's text has those of its template already.
    """
    if not tokenizer.is_fast:
        raise CurateError(
            f"{tokenizer.name_or_path} tells no places of its tokens in the text, which spans need.",
            hint="Use a model with a fast tokenizer (tokenizer.json).",
        )
    encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    ids = encoding["input_ids"]
    return ids, labels_of(ids, overlapping(stretches_of(encoding["offset_mapping"]), spans))


def labels_of(ids: Sequence[int], carry_loss: np.ndarray) -> list[int]:
    """Return the ids of tokens that carry loss, and -100 for the others and for the first."""
    labels = np.where(carry_loss, np.asarray(ids, np.int64), NO_LOSS)
    labels[:1] = NO_LOSS
    return labels.tolist()


def stretches_of(offsets: Any) -> np.ndarray:
    """Return the characters `[start, end)` that each token stands for, `[tokens, 2]`, from a tokenizer's offsets.

    White space that offsets leave out belongs to the token behind it. Tokens that share a character overlap; one that
    the tokenizer added stands for none.
    """
    stretches = np.asarray(offsets, np.int64).reshape(-1, 2).copy()
    stretches[:, 0] = np.minimum(stretches[:, 0], reached(stretches[:, 1]))
    return stretches


def reached(ends: np.ndarray) -> np.ndarray:
    """Return for each token the furthest end of those before it."""
    return np.maximum.accumulate(np.concatenate([[0], ends]))[: len(ends)]


def overlapping(stretches: np.ndarray, spans: Sequence[Sequence[int]]) -> np.ndarray:
    """Return which stretches share a character with a span, bool `[tokens]`."""
    starts, ends = np.asarray(spans, np.int64).reshape(-1, 2).T
    if not len(starts):
        return np.zeros(len(stretches), bool)
    next_span = np.searchsorted(ends, stretches[:, 0], side="right")
    begins = np.append(starts, np.iinfo(np.int64).max)[next_span]
    return (stretches[:, 0] < stretches[:, 1]) & (begins < stretches[:, 1])


def spans_of(stretches: np.ndarray, chosen: np.ndarray) -> list[list[int]]:
    """Return the spans of chosen tokens: sorted, those that touch joined."""
    places = stretches[chosen]
    places = places[np.argsort(places[:, 0], kind="stable")]
    begins = places[:, 0] > reached(places[:, 1])
    begins[:1] = True
    numbers = np.flatnonzero(begins)
    if not len(numbers):
        return []
    ends = np.maximum.reduceat(places[:, 1], numbers)
    return np.column_stack([places[numbers, 0], ends]).tolist()
