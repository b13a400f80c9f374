"""From documents to masked token batches of bounded size."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from curate.errors import CurateError, SettingsError
from curate.proxies.chat import Chat
from curate.proxies.devices import sent
from curate.schema import Document

IGNORED = -100
# Batches' lengths are rounded up, by 2 % in the mean: oneDNN keeps half a megabyte for every shape that it has seen.
ROUND, ROUND_SHARE = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A document as token ids; `scored[t]` says whether predicting token t counts as loss (never for t = 0)."""

    ids: np.ndarray
    """int32 `[tokens]`, no longer than the context except with windows."""
    scored: np.ndarray
    """bool `[tokens]`."""
    truncated: bool
    refused: str = ""
    """Why the chat template refuses this document, which then has no tokens."""
    beyond: str = ""
    """Which token of this document the model has no embedding for; it then has no tokens, either."""
    text: str = ""
    """The whole text, truncated tokens included, for methods that read words."""
    content_hash: str = ""
    """The same for every copy of a document."""

    @property
    def num_scored(self) -> int:
        return int(self.scored.sum())


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Right-padded sequences. No attention mask: in a causal model nothing real ever sees the padding on its right."""

    ids: Int[Tensor, "sequences tokens"]
    labels: Int[Tensor, "sequences tokens"]
    """The token that each position predicts; IGNORED where it carries no loss. Shifted, so that logits never are."""
    documents: tuple[int, ...]
    """Each sequence's document, by index among the batched documents."""
    starts: tuple[int, ...] = ()
    """The token of its document at which each sequence begins; empty: the first."""

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens, padding included."""
        return self.ids.numel()

    def halves(self) -> tuple["TokenBatch", "TokenBatch"]:
        """Return the first half of the sequences and the second."""
        middle = len(self) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def _part(self, sequences: slice) -> "TokenBatch":
        return TokenBatch(
            ids=self.ids[sequences],
            labels=self.labels[sequences],
            documents=self.documents[sequences],
            starts=self.starts[sequences],
        )

    @cached_property
    def scored(self) -> Int[Tensor, "scored"]:
        """Flat positions that carry loss."""
        return (self.labels.flatten() != IGNORED).nonzero().squeeze(-1)

    def to(self, device: torch.device) -> "TokenBatch":
        moved = TokenBatch(
            ids=sent(self.ids, device),
            labels=sent(self.labels, device),
            documents=self.documents,
            starts=self.starts,
        )
        moved.__dict__["scored"] = sent(self.scored, device)  # a GPU that looked for them would have to be waited for
        return moved


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How documents become tokens."""

    context: int
    """Tokens of one sequence at most."""
    long: str = "truncate"
    """Longer documents: 'truncate' (and mark them), or 'windows' (whole, in windows that add up)."""
    vocabulary: int | None = None
    """Tokens that the model has embeddings for; None: all that the tokenizer knows."""

    def __post_init__(self) -> None:
        if self.context < 2:
            raise SettingsError(f"context is {self.context}; expected at least 2.")
        if self.long not in ("truncate", "windows"):
            raise SettingsError(f"long is {self.long!r}; expected 'truncate' or 'windows'.")


class Encoder:
    """Turn documents into tokens with a proxy's own tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.chat = Chat(tokenizer)

    def __call__(self, documents: Sequence[Document]) -> list[Encoded]:
        """Encode documents in order, plain texts all at once, which is faster."""
        plain = [i for i, d in enumerate(documents) if d.text is not None]
        result: list[Encoded | None] = [None] * len(documents)
        if plain:
            texts = [documents[i].text or "" for i in plain]
            ids = self.tokenizer(texts, verbose=False)["input_ids"]
            for i, sequence in zip(plain, ids, strict=True):
                result[i] = self._finish(sequence, np.ones(len(sequence), bool))
        for i, document in enumerate(documents):
            if document.messages is not None:
                result[i] = self._chat(document)
            elif document.completion is not None:
                result[i] = self._completion(document.prompt or "", document.completion)
        return [
            replace(e, text=d.plain_text, content_hash=d.content_hash)
            for e, d in zip(result, documents, strict=True)
            if e is not None
        ]

    def _finish(self, ids: Sequence[int], scored: np.ndarray) -> Encoded:
        context = self.settings.context
        truncated = len(ids) > context and self.settings.long == "truncate"
        array = np.asarray(ids, np.int32)
        if truncated:
            array, scored = array[:context], scored[:context]
        if (limit := self.settings.vocabulary) is not None and (array >= limit).any():
            return self._beyond(int(array[array >= limit][0]), limit)
        if len(scored):
            scored[0] = False  # nothing predicts the first token
        return Encoded(ids=array, scored=scored, truncated=truncated)

    def _beyond(self, token: int, limit: int) -> Encoded:
        word = self.tokenizer.convert_ids_to_tokens(token)
        why = f"token {token} ({word!r}): the model has embeddings for {limit:,} tokens"
        no_ids = np.zeros(0, np.int32)
        return Encoded(ids=no_ids, scored=no_ids.astype(bool), truncated=False, beyond=why)

    def _completion(self, prompt: str, completion: str) -> Encoded:
        ranges = [(len(prompt), len(prompt) + len(completion))]
        ids, scored, _ = self.masked(prompt + completion, ranges, special=True)
        return self._finish(ids, scored)

    def masked(
        self, text: str, ranges: Iterable[tuple[int, int]], *, special: bool, straddling: bool = False
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Return a text's ids, which of them are scored, and their offsets in characters, int64 `[tokens, 2]`.

        Scored are the tokens that end inside one of the character ranges, or that straddle its end. Raises CurateError
        for a tokenizer that gives no offsets.
        """
        if not self.tokenizer.is_fast:
            raise CurateError(
                "This model's tokenizer gives no character offsets, which masks of prompts and turns need.",
                hint="Use a model with a fast tokenizer, or a pool and target of plain text.",
            )
        encoding = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        offsets = np.asarray(encoding["offset_mapping"], np.int64).reshape(-1, 2)
        scored = np.zeros(len(offsets), bool)
        for start, stop in ranges:
            inside = offsets[:, 0] < stop if straddling else offsets[:, 1] <= stop
            scored |= (offsets[:, 1] > start) & inside & (offsets[:, 1] > offsets[:, 0])
        return encoding["input_ids"], scored, offsets

    def _chat(self, document: Document) -> Encoded:
        try:
            if not self.chat.template:
                raise TemplateError(self.chat.lacking)
            text, ranges = self.chat.learnt(document.messages or (), document.tools)
        # A template is a program: what it refuses (`raise_exception`) or fails at concerns this row alone.
        except Exception as error:
            no_ids = np.zeros(0, np.int32)
            refused = f"{type(error).__name__}: {error}" if not isinstance(error, TemplateError) else str(error)
            return Encoded(ids=no_ids, scored=no_ids.astype(bool), truncated=False, refused=refused)
        ids, scored, _ = self.masked(text, ranges, special=False, straddling=self.chat.traits.marks)
        return self._finish(ids, scored)


def batches(
    encoded: Mapping[int, Encoded] | Sequence[Encoded], settings: TokenSettings, *, budget: Callable[[], int]
) -> Iterator[TokenBatch]:
    """Yield batches of at most `budget()` tokens, padding included, shortest sequences first.

    Sorting keeps the padding small; the order is a function of the lengths and positions alone. A sequence longer than
    the budget is a batch of its own.
    """
    items = encoded.items() if isinstance(encoded, Mapping) else enumerate(encoded)
    sequences = [_Sequence(key, *piece) for key, e in items for piece in _placed(e, settings)]
    sequences.sort(key=lambda s: (len(s.ids), s.document))
    batch: list[_Sequence] = []
    for sequence in sequences:
        if batch and _rounded(len(sequence.ids), settings.context) * (len(batch) + 1) > budget():
            yield _collate(batch, settings.context)
            batch = []
        batch.append(sequence)
    if batch:
        yield _collate(batch, settings.context)


def _rounded(length: int, context: int) -> int:
    """Round a length up to one of sixteen per octave, never beyond the context, where a model may have no positions."""
    step = max(ROUND, (1 << max(0, length.bit_length() - 1)) // ROUND_SHARE)
    return max(length, min(-(-length // step) * step, context))


class _Sequence(NamedTuple):
    document: int
    start: int
    ids: np.ndarray
    scored: np.ndarray


def windows(encoded: Encoded, settings: TokenSettings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, scored) pieces no longer than the context, one token shared so that each token is scored once.

    There is always a first piece, even of a document without tokens, so that every document has a result.
    """
    for _, ids, scored in _placed(encoded, settings):
        yield ids, scored


def _placed(encoded: Encoded, settings: TokenSettings) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    ids, scored, context = encoded.ids, encoded.scored, settings.context
    for start in range(0, max(1, len(ids) - 1), context - 1):
        piece = scored[start : start + context].copy()
        piece[:1] = False
        if start == 0 or piece.any():
            yield start, ids[start : start + context], piece


def _collate(sequences: Sequence[_Sequence], context: int) -> TokenBatch:
    longest = max(1, *(_rounded(len(s.ids), context) for s in sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    labels = np.full((len(sequences), longest), IGNORED, np.int64)
    for i, (_, _, tokens, scored) in enumerate(sequences):
        ids[i, : len(tokens)] = tokens
        labels[i, : max(0, len(tokens) - 1)] = np.where(scored[1:], tokens[1:], IGNORED)
    return TokenBatch(
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        documents=tuple(s.document for s in sequences),
        starts=tuple(s.start for s in sequences),
    )
