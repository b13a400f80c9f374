"""axolotl's `input_output`: a text in segments; those that carry loss must follow those that do not."""

from collections.abc import Mapping
from typing import Any

from curate.documents.shapes.contract import EMPTY, Columns, Refused, Shape, present
from curate.fields import Fields


def _is_segment(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("label"), bool) and isinstance(value.get("text"), str)


def _fits(row: Columns, _fields: Fields) -> bool:
    segments = row["segments"]
    return isinstance(segments, list) and bool(segments) and all(map(_is_segment, segments))


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    segments = [(segment["label"], segment["text"]) for segment in row["segments"]]
    labels = [label for label, _ in segments]
    if labels != sorted(labels):
        detail = "column 'segments': one without loss follows one with it; write a row for each stretch with loss"
        return Refused("invalid segments", detail)
    prompt, completion = ("".join(text for label, text in segments if label is wanted) for wanted in (False, True))
    if not completion.strip():
        return Refused(EMPTY, "column 'segments': no text carries loss")
    return {"prompt": prompt, "completion": completion}


SHAPE = Shape(
    title="segments with and without loss",
    order=95,
    columns=lambda columns, _: present(columns, ["segments"]),
    fits=_fits,
    read=_read,
)
