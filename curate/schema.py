"""The records that travel between rooms, their Arrow schemas, and the sign convention.

**Sign.** Everywhere in this project score > 0 means: giving the document more weight in training lowers the
target's loss. With φ the target's loss and ℓ_z the document's, a first-order method's score is +⟨∇φ, P∇ℓ_z⟩ for a
positive semi-definite P. No other file defines a sign; every method is tested against this one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

PREVIEW_CHARS = 160
_PREVIEWED = 200  # characters that hold the preview of nearly every text


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row of one shard, ready to be tokenised. Exactly one of `text`, `messages`, `completion` is set."""

    doc_id: str
    """The pool's own id as a string; without one, the content hash."""
    shard: str
    """The shard's name, unique and stable within its pool (path relative to the pool's root)."""
    row: int
    """Row number in the shard, from 0, counting every row (undecodable ones too; blank lines of jsonl are not rows)."""
    content_hash: str
    """128-bit hash of the content alone (not of id or metadata), 32 hex digits."""
    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    """What the assistant of `messages` may call, for the chat template."""
    prompt: str | None = None
    """Given with `completion`; carries no loss."""
    completion: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The row's scalar columns (str, int, float, bool, None, date/time) other than its content and id."""

    @property
    def plain_text(self) -> str:
        """Every word of the document in reading order, whatever its form: for previews, n-grams and BM25."""
        if self.text is not None:
            return self.text
        if self.messages is not None:
            return "\n".join(map(_said, self.messages))
        return f"{self.prompt or ''}{self.completion or ''}"

    @property
    def preview(self) -> str:
        """The first characters on one line."""
        text = self.plain_text
        words = " ".join(text[:_PREVIEWED].split())
        if len(words) < PREVIEW_CHARS and len(text) > _PREVIEWED:
            words = " ".join(text[: 4 * PREVIEW_CHARS].split())
        return words[:PREVIEW_CHARS]


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one chat message, whose content is a string or a list of typed parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "\n".join(p["text"] for p in content if isinstance(p, Mapping) and isinstance(p.get("text"), str))
    return ""


_FEWEST_KEYS = 2  # role and content: nearly all turns have no others
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys by which a turn of a model that reasons holds what it thought before its answer."""


def _said(message: Mapping[str, Any]) -> str:
    text = message_text(message)
    thoughts = thoughts_of(message) if len(message) > _FEWEST_KEYS else None
    return f"{thoughts}\n{text}" if thoughts else text


def thoughts_of(message: Mapping[str, Any]) -> str | None:
    """The thoughts of one chat message, which stand before its content; None where it has none."""
    return next((thoughts for key in THOUGHTS if (thoughts := message.get(key)) and isinstance(thoughts, str)), None)


LOSS_MARKS = ("weight", "train", "training", "train_on_turn", "trainable", "loss", "loss_mask")
"""Keys by which a turn is marked to carry no loss: 0 or false."""
MASKED = "masked"
"""The key by which torchtune marks one: 1 or true."""


def carries_loss(message: Mapping[str, Any]) -> bool:
    """Whether a turn is learnt: the assistant's, unless it is marked otherwise (`weight: 0`, `train: false` …)."""
    is_marked = message.get(MASKED, False) != 0 or any(message.get(mark, True) == 0 for mark in LOSS_MARKS)
    return message.get("role") == "assistant" and not is_marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A row that was set aside: it takes no part in anything, and its reason is kept."""

    shard: str
    row: int
    reason: str
    """A short stable word group to group by: 'empty text', 'undecodable line', 'non-finite gradient' …"""
    detail: str = ""
    """For people: the line number, what was found, what was expected."""
    doc_id: str | None = None


SKIPPED_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)

# Columns of every scores table, in this order; then `score_<group>` per group when there are several; then, when scores
# per token were asked for, a list per score column and TOKEN_TEXTS, aligned; then the pool's scalar metadata columns. A
# metadata column whose name is taken here, or differs by case alone from one before it, is renamed to `pool_<name>`.
SCORE_FIELDS = [
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("n_tokens", pa.int32(), nullable=False),  # scored tokens after truncation, over all windows
    pa.field("truncated", pa.bool_(), nullable=False),
    pa.field("loss", pa.float32()),  # mean nats per scored token; null where the method computes none
    pa.field("grad_norm", pa.float32()),  # of the loss summed over scored tokens; null without gradients
    pa.field("score", pa.float32(), nullable=False),
    pa.field("target_exact", pa.bool_(), nullable=False),  # holds a whole target row, whitespace and case aside
    pa.field("target_overlap", pa.float32(), nullable=False),  # largest share of one target row's 13-grams in it
    pa.field("preview", pa.string(), nullable=False),
]
SCORE_COLUMNS = tuple(f.name for f in SCORE_FIELDS)

# What a row says of its document without any target: the columns of a gradient store's tables, then the pool's own.
OF_A_TARGET = ("score", "target_exact", "target_overlap")
ROW_FIELDS = [f for f in SCORE_FIELDS if f.name not in OF_A_TARGET]


def group_column(group: str) -> str:
    """Name the score column of a target's group."""
    return f"score_{slug(group)}"


def slug(group: str) -> str:
    """Return a group's name as columns have it; C, C++ and C# stay apart."""
    return re.sub(r"\W+", "_", group.replace("+", "plus").replace("#", "sharp"))


TOKEN_TEXTS = "token_texts"
"""list<string>: the text of every input token of the document, special tokens written out."""
TOKEN_SCORES = "token_scores"
"""list<float32>: every token's own score, as a label, which sum to `score`; `token_scores_<group>` for the groups."""


def token_column(score_column: str) -> str:
    """Name the list column that holds the parts of a score column: `score_law` is the sum of `token_scores_law`."""
    return TOKEN_SCORES + score_column.removeprefix("score")


def is_token_column(column: str) -> bool:
    """Whether a column of this name is one of the lists per token."""
    return column in (TOKEN_TEXTS, TOKEN_SCORES) or column.startswith(f"{TOKEN_SCORES}_")


MANY_COLUMNS = 256
"""Of more columns of the pool, scores have those that a tenth of a part's rows, or of the parts, have: keys of objects
may be ids or dates."""


def rare_columns(counts: Mapping[str, int], documents: int) -> list[str]:
    """Return the columns that scores leave out, of a pool's columns with the number of documents that have each."""
    few = documents / 10 if len(counts) > MANY_COLUMNS else 0
    return sorted(name for name, number in counts.items() if number < few)


UNNAMED = "unnamed"
"""What a pool's column is called whose name is the empty string; SQL has no such name."""


def column_name(name: str) -> str:
    """Return what SQL calls a pool's column; a null character, which ends names there, is shown as its picture."""
    return name.replace("\0", "\u2400") or UNNAMED


AT_STEP = "at_step_"
"""Begins the names of a score's parts at single checkpoints, `at_step_50`, and of a group's, `at_step_50_law`."""


def is_score(column: str) -> bool:
    """Whether a column of this name is a score, or a part of one."""
    return column == "score" or column.startswith(("score_", AT_STEP))


def is_reserved(column: str) -> bool:
    """Whether a pool's column of this name would collide with a scores column; SQL does not tell case apart.

    `run` is the column that tells several runs apart in one session, `_pos` the place of filters' candidates."""
    name = column.casefold()
    return name in SCORE_COLUMNS or name in ("run", "_pos") or is_score(name) or is_token_column(name)
