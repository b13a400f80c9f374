"""One judgement of a report."""

from dataclasses import dataclass

FINE, NOTE, WARNING, ALARM = "fine", "note", "warning", "alarm"
LEVELS = (ALARM, WARNING, NOTE, FINE)
"""The worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One figure, what it means, and what to do."""

    about: str
    level: str
    figure: str
    says: str
    do: str | None
    threshold: str
