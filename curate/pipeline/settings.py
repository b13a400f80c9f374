"""Settings of a cascade, and of a measurement of this machine's speed. Free of torch."""

from typing import Annotated, Any, Literal

from curate import students
from curate.amounts import portion_text
from curate.errors import SettingsError
from curate.gradients.shapes import DIM
from curate.proxies.settings import DEVICES, Device
from curate.score_settings import NARROWING, ScoreSettings
from curate.settings import Count, Flag, Portion, Share, Words, changed, least, option, part_of, settings

KEEP = 0.2
"""Share of the pool that a cascade scores exactly where nothing else is said."""


@settings
class BenchSettings:
    """What to measure."""

    model: str = option(default="smollm2-135m", help="Folder, hub id, or shape with random weights (see below).")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = option(
        default="float32", help="Type of the arithmetic."
    )
    device: Device = option(default="auto", help=f"Where it runs: {DEVICES}")
    sequences: Annotated[Count, least(1)] = option(
        default=8, help="Sequences of a pass; batches of 1, 2, 4 … of them are tried."
    )
    length: Annotated[Count, least(2)] = option(default=512, help="Tokens of a sequence.")
    dim: Annotated[Count, least(1)] = option(default=DIM, help="Projection dimensions per side and layer.")
    rounds: Annotated[Count, least(1)] = option(default=3, help="Rounds; the fastest counts.")


@settings
class CascadeSettings(ScoreSettings):
    """A cascade: how its method scores, and which documents come to that."""

    sample: Portion = option(
        default=20_000,
        help="Documents that are scored first, to learn from: a share, or about that number.",
        metavar="N|SHARE",
    )
    top: Portion = option(
        default=0.05,
        help="The best that are wanted in the end: a share of the pool, or a number.",
        metavar="SHARE|N",
        shown="5%",
    )
    keep: Portion | None = option(
        default=None,
        help="The predicted best that are scored exactly: a share of the pool, or a number (of each group).",
        metavar="SHARE|N",
        shown="20%",
    )
    recall: Share | None = option(
        default=None,
        help="Instead of --keep: as many as hold this share of the true best --top, as cross-validation expects.",
        metavar="SHARE",
    )
    group: Words = option(
        default=(), help="Group (or column) whose best are wanted; repeatable.", metavar="NAME", shown="all"
    )
    student: str = option(
        default=students.DEFAULT, help=f"What learns: {', '.join(students.names())}, or {students.AUTO}, the best."
    )
    by_source: Flag = option(default=False, help="Have the student learn a constant for every source, too.")
    only: str | None = None
    store: str | None = None
    fit_from: str | None = None

    def __post_init__(self) -> None:
        if other := next((n for n in ("only", "store", "fit_from") if getattr(self, n)), None):
            raise SettingsError(f"A cascade takes no {other}.", hint="`curate score` does.")
        ScoreSettings.__post_init__(self)
        if self.keep is not None and self.recall is not None:
            raise SettingsError("keep and recall both say how many are scored exactly.", hint="Give one of them.")
        if self.recall == 0:
            raise SettingsError("recall is 0; expected a share above 0.", hint="Give --recall 95%, say.")
        students.chosen(self.student)
        if type(self.keep or KEEP) is type(self.top) and (self.keep or KEEP) < self.top:
            raise SettingsError(
                f"keep is {portion_text(self.keep or KEEP)}, and top {portion_text(self.top)}; expected at least top.",
                hint="Score more exactly than are wanted: several times as many.",
            )

    def scoring(self, **narrowing: Any) -> ScoreSettings:
        """Return how the cascade's method scores, of a pool narrowed so."""
        return changed(part_of(ScoreSettings, self), **(NARROWING | narrowing))
