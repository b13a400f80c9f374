"""OpenAssistant's trees of messages: of each the path along the replies that rank best is the conversation."""

from collections.abc import Mapping
from typing import Any

from curate.documents.shapes._turns import read_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, present
from curate.fields import Fields


def _fits(row: Columns, _fields: Fields) -> bool:
    return isinstance(row["prompt"], Mapping)


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    path, message = [], row["prompt"]
    while message is not None:
        path.append({"role": message.get("role"), "content": message.get("text")})
        message = _best(message.get("replies"))
    while len(path) > 1 and path[-1]["role"] == "prompter":  # not answered
        path.pop()
    return read_turns(path, "prompt")


def _best(replies: Any) -> Mapping[str, Any] | None:
    """Return the reply of the lowest rank; those without a rank come after others, in their order."""
    replies = replies if isinstance(replies, list) else []
    listed = [reply for reply in replies if isinstance(reply, Mapping) and not reply.get("deleted")]
    return min(listed, key=_rank, default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


SHAPE = Shape(
    title="OpenAssistant trees, the best path of each",
    order=35,
    columns=lambda columns, _: present(columns, ["message_tree_id", "prompt"]),
    fits=_fits,
    read=_read,
)
