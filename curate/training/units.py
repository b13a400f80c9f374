"""What a step of a warm-up takes: windows packed with text, or documents, padded and masked as `score` masks them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curate.amounts import counted
from curate.errors import CurateError
from curate.progress import Reporter
from curate.proxies.templates import shipped_template
from curate.proxies.tokens import IGNORED, Encoded, Encoder, TokenSettings
from curate.schema import Document
from curate.training.tokenizer import encode_packed, training_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of documents, as many go through the model together as have these tokens: a batch of 128 may be a quarter million.
AT_ONCE_TOKENS = 4096
# Lengths are rounded up, since oneDNN keeps half a megabyte for every shape that it has seen.
ROUND = 16


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of equal length, each its own labels (the model shifts them)."""

    def __init__(self, windows: Sequence[Sequence[int]] | Tensor) -> None:
        # 32 bits hold any vocabulary; the sample is kept in half the memory.
        self._ids = torch.as_tensor(windows, dtype=torch.int32)

    @property
    def context(self) -> int:
        return self._ids.shape[1]

    @property
    def tokens(self) -> int:
        return self._ids.numel()

    def __len__(self) -> int:
        return len(self._ids)

    def whole_batches(self, size: int) -> "Windows":
        """Leave out the last windows that would make a smaller batch, so that every step weighs the same."""
        return Windows(self._ids[: len(self._ids) // size * size])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self._ids[index].long()
        return {"input_ids": ids, "labels": ids}


class Documents(Dataset[dict[str, Tensor]]):
    """Documents of at most `context` tokens; labels are IGNORED where a token carries no loss."""

    def __init__(self, encoded: Sequence[Encoded], context: int) -> None:
        self._rows = [(e.ids, e.scored) for e in encoded]
        self._context = context

    @property
    def longest(self) -> int:
        return max(len(ids) for ids, _ in self._rows)

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids, _ in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids, scored = (torch.from_numpy(a) for a in self._rows[index])
        return {"input_ids": ids.long(), "labels": torch.where(scored, ids.long(), IGNORED)}

    def padded(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join documents into one batch, padded on the right."""
        longest = max(len(row["input_ids"]) for row in rows)
        longest = max(longest, min(-(-longest // ROUND) * ROUND, self._context))
        batch = {
            "input_ids": torch.zeros(len(rows), longest, dtype=torch.long),
            "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
            "labels": torch.full((len(rows), longest), IGNORED),
        }
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][i, :length] = row["input_ids"]
            batch["attention_mask"][i, :length] = 1
            batch["labels"][i, :length] = row["labels"]
        return batch


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The sample as a training takes it."""

    training: Windows | Documents
    held_out: Windows | Documents | None
    batch: int
    """Windows or documents of a step."""
    at_once: int
    """Those that go through the model together, to begin with; divides the batch."""
    documents: int
    held_out_documents: int

    @property
    def steps(self) -> int:
        """Steps of one pass."""
        return math.ceil(len(self.training) / self.batch)

    @property
    def step_tokens(self) -> float:
        """Tokens of a step, in the mean."""
        return self.training.tokens / self.steps


def windows_of(
    training: Sequence[Document],
    held_out: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int,
    batch_tokens: int,
    reporter: Reporter,
) -> TrainingSet:
    """Pack documents. Raises CurateError where they are together shorter than one window."""
    texts = training_texts([*held_out, *training], tokenizer, reporter)
    held_out_windows = encode_packed([t for t in texts[: len(held_out)] if t], tokenizer, context)
    windows = encode_packed([t for t in texts[len(held_out) :] if t], tokenizer, context)
    if not windows:
        raise CurateError(
            f"The sample's {len(training)} training documents are together shorter than one window of"
            f" {context} tokens.",
            hint="Lower --context, or give a larger pool.",
        )
    if not held_out_windows:
        reporter.warn(
            f"no held-out loss: {len(held_out)} held-out documents do not fill one window of {context} tokens."
        )
    batch = min(batch_tokens // context, len(windows))
    return TrainingSet(
        training=Windows(windows).whole_batches(batch),
        held_out=Windows(held_out_windows) if held_out_windows else None,
        batch=batch,
        at_once=batch,
        documents=sum(map(bool, texts[len(held_out) :])),
        held_out_documents=sum(map(bool, texts[: len(held_out)])),
    )


def documents_of(
    training: Sequence[Document],
    held_out: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    settings: TokenSettings,
    *,
    batch: int,
    reporter: Reporter,
) -> TrainingSet:
    """Encode documents as `score` does; leave out those without a token to learn. Raises CurateError for none."""
    encoded = Encoder(tokenizer, settings)([*held_out, *training])
    _report(encoded, reporter, has_shipped_template=tokenizer.chat_template == shipped_template())
    held_out_rows, rows = (
        [e for e in part if e.num_scored] for part in (encoded[: len(held_out)], encoded[len(held_out) :])
    )
    if not rows:
        raise CurateError(
            f"None of the sample's {len(training)} training documents can be learnt: {_why_not(encoded[-1])}.",
            hint="Give --chat-template shipped where the model has no template, or pack plain text: --unit windows.",
        )
    if not held_out_rows:
        reporter.warn(f"no held-out loss: none of {len(held_out)} held-out documents has a token that carries loss.")
    documents = Documents(rows, settings.context)
    most = max(1, AT_ONCE_TOKENS // documents.longest)
    return TrainingSet(
        training=documents,
        held_out=Documents(held_out_rows, settings.context) if held_out_rows else None,
        batch=batch,
        at_once=max(n for n in range(1, min(most, batch) + 1) if batch % n == 0),
        documents=len(rows),
        held_out_documents=len(held_out_rows),
    )


def _report(encoded: Sequence[Encoded], reporter: Reporter, *, has_shipped_template: bool) -> None:
    """Say how many documents have no token to learn, and how many are cut."""
    if left_out := [e for e in encoded if not e.num_scored]:
        refused = any(e.refused for e in left_out) and not has_shipped_template
        otherwise = "; --chat-template shipped (ChatML) writes most conversations" if refused else ""
        why = f"{_why_not(left_out[0])}{otherwise}."
        reporter.warn(f"{len(left_out)} of {counted(len(encoded), 'document')} left out: {why}")
    if cut := sum(e.truncated and e.num_scored > 0 for e in encoded):
        reporter.note(f"{cut} of {counted(len(encoded), 'document')} cut to --context.")


def _why_not(encoded: Encoded) -> str:
    return encoded.refused or encoded.beyond or "no token carries loss"
