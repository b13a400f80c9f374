"""Preference pairs: the chosen answer carries the loss, the rejected one is not read.

Turns that begin both answers alike are their prompt.
"""

from typing import Any

from curate.documents.shapes._turns import content_of, listed_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, present, string
from curate.documents.shapes.trl import without_loss
from curate.fields import Fields


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    if isinstance(row["chosen"], list | dict):
        return _turns(row, fields)
    if row.get(fields.prompt) is None:
        return Refused("no prompt", f"'chosen' and 'rejected' are texts; expected a column {fields.prompt!r}, too")
    prompt = string(row, fields.prompt, empty=True)
    if isinstance(prompt, Refused):
        return prompt
    chosen = string(row, "chosen")
    return chosen if isinstance(chosen, Refused) else {"prompt": prompt, "completion": chosen}


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
    columns=lambda columns, fields: present(columns, ["chosen", "rejected"], [fields.prompt, "tools"]),
    read=_read,
)
