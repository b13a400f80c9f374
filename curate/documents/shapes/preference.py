"""Preference pairs: the chosen answer carries the loss, the rejected one is not read.

Turns that begin both answers alike are their prompt, and so is a conversation beside them that waits for an answer.
"""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes._turns import (
    CONVERSATIONS,
    answered_after,
    content_of,
    listed_turns,
    system_of,
    turns_in,
    waiting,
    with_system,
)
from curate.documents.shapes.contract import BETWEEN, SYSTEM, Columns, Refused, Shape, first_of, present, string
from curate.documents.shapes.trl import without_loss
from curate.fields import Fields

_QUESTIONS = ("question", "instruction", "input")
_ANSWER = "\n\nAssistant:"
"""Begins an answer in transcripts as those of hh-rlhf."""


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    chosen, rejected = turns_in(row["chosen"]), turns_in(row["rejected"])
    prompt = turns_in(row.get(fields.prompt))
    if prompt is None:
        prompt = next((turns for c in _conversations(fields) if (turns := waiting(row.get(c)))), None)
    if prompt is None and isinstance(chosen, list | dict):
        prompt = _question(row)
    if isinstance(chosen, list | dict) or isinstance(prompt, list | dict):
        return _turns(row, prompt, chosen, rejected)
    if prompt is None:
        return _without_prompt(row)
    prompt = string(row, fields.prompt, empty=True)
    if isinstance(prompt, Refused):
        return prompt
    chosen = string(row, "chosen")
    return chosen if isinstance(chosen, Refused) else {"prompt": prompt, "completion": chosen}


def _without_prompt(row: Columns) -> dict[str, Any] | Refused:
    """Read texts whose prompt has another name, or stands before the last answer of a transcript."""
    filled = [name for name, value in row.items() if value is not None]
    if question := first_of(filled, _QUESTIONS):
        before, after = _beside(filled, question)
        return answered_after(row, [*first_of(filled, SYSTEM), *before, *question, *after], "chosen")
    chosen = string(row, "chosen")
    if isinstance(chosen, Refused):
        return chosen
    before, mark, answer = chosen.rpartition(_ANSWER)
    if mark and answer.strip():
        return {"prompt": before + mark, "completion": answer}
    return Refused("no prompt", "'chosen' and 'rejected' are texts; expected a column 'prompt' or 'question', too")


def _question(row: Columns) -> str | None:
    filled = [name for name, value in row.items() if value is not None]
    question = first_of(filled, _QUESTIONS)
    texts = (row[c] for c in (*question, *_beside(filled, question)[1]))
    return BETWEEN.join(text for text in texts if isinstance(text, str) and text.strip()) or None


def _conversations(fields: Fields) -> tuple[str, ...]:
    return (fields.messages, *CONVERSATIONS)


def _beside(columns: Collection[str], question: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before an instruction and after it, as in Alpaca's rows; none beside other questions."""
    is_alpaca = question == ["instruction"]
    return first_of(columns, ["history"] * is_alpaca), first_of(columns, ["input"] * is_alpaca)


def _columns(columns: Collection[str], fields: Fields) -> list[str]:
    if fields.prompt in columns:
        return present(columns, ["chosen", "rejected"], [fields.prompt, "tools"])
    conversation, question = first_of(columns, _conversations(fields)), first_of(columns, _QUESTIONS)
    before, after = _beside(columns, question)
    prompt = [*conversation, *question, *first_of(columns, SYSTEM), *before, *after]
    return present(columns, ["chosen", "rejected"], [*prompt, "tools"])


def _turns(row: Columns, prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any] | Refused:
    answers = [[{"role": "assistant", "content": a}] if isinstance(a, str) else a for a in (chosen, rejected)]
    chosen, rejected = listed_turns(answers[0], "chosen"), listed_turns(answers[1], "rejected")
    if isinstance(chosen, Refused):
        return chosen
    others = [] if isinstance(rejected, Refused) else rejected
    shared = next((i for i, (a, b) in enumerate(zip(chosen, others, strict=False)) if a != b), 0)
    before: list[dict[str, Any]] | Refused = []
    if prompt is not None and chosen[0]["role"] == "assistant":
        before = listed_turns([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, "prompt")
    if isinstance(before, Refused):
        return before
    turns = [*map(without_loss, [*before, *chosen[:shared]]), *chosen[shared:]]
    return content_of(with_system(turns, system_of(row)), row.get("tools"))


SHAPE = Shape(
    title="preference pairs, the chosen answer of each",
    order=70,
    columns=_columns,
    read=_read,
)
