"""Preference pairs: the chosen answer carries the loss, the rejected one is not read.

Turns that begin both answers alike are their prompt.
"""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes._turns import content_of, listed_turns
from curate.documents.shapes.contract import SYSTEM, Columns, Refused, Shape, answered, first_of, present, string
from curate.documents.shapes.trl import without_loss
from curate.fields import Fields

_QUESTIONS = ("question", "instruction")
_ANSWER = "\n\nAssistant:"
"""Begins an answer in transcripts as those of hh-rlhf."""


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    if isinstance(row["chosen"], list | dict):
        return _turns(row, fields)
    if row.get(fields.prompt) is None:
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
        return answered(row, [*first_of(filled, SYSTEM), *question], "chosen")
    chosen = string(row, "chosen")
    if isinstance(chosen, Refused):
        return chosen
    before, mark, answer = chosen.rpartition(_ANSWER)
    if mark and answer.strip():
        return {"prompt": before + mark, "completion": answer}
    return Refused("no prompt", "'chosen' and 'rejected' are texts; expected a column 'prompt' or 'question', too")


def _columns(columns: Collection[str], fields: Fields) -> list[str]:
    prompt = [fields.prompt] if fields.prompt in columns else first_of(columns, _QUESTIONS)
    system = first_of(columns, SYSTEM) if prompt != [fields.prompt] else []
    return present(columns, ["chosen", "rejected"], [*prompt, *system, "tools"])


def _turns(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    chosen, rejected = listed_turns(row["chosen"], "chosen"), listed_turns(row["rejected"], "rejected")
    if isinstance(chosen, Refused):
        return chosen
    others = [] if isinstance(rejected, Refused) else rejected
    shared = next((i for i, (a, b) in enumerate(zip(chosen, others, strict=False)) if a != b), 0)
    prompt = row.get(fields.prompt)
    before: list[dict[str, Any]] | Refused = []
    if prompt is not None and chosen[0]["role"] == "assistant":
        before = listed_turns([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, "prompt")
    if isinstance(before, Refused):
        return before
    return content_of([*map(without_loss, [*before, *chosen[:shared]]), *chosen[shared:]], row.get("tools"))


SHAPE = Shape(
    title="preference pairs, the chosen answer of each",
    order=70,
    columns=_columns,
    read=_read,
)
