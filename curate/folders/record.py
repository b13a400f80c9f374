"""The record of a run or a store: settings, fingerprints and details, as JSON of reproducible bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from curate.errors import CurateError
from curate.secrets import addresses_without_secrets

FORMAT = 1
LABELS = "labels"
"""What `token_scores` in details says of lists per token: each is the score of predicting that token."""
_ABSENT = object()
_T = TypeVar("_T")

if TYPE_CHECKING:
    from curate.fidelity import Check


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Hashes of the contents that a run depends on; '' where it depends on none of the kind."""

    pool: str = ""
    target: str = ""  # of the rows that scoring used
    heldout: str = ""  # of those kept aside
    model: str = ""
    against: str = ""
    fit: str = ""  # of the background that fits taken from another run were made on
    shortlist: str = ""
    only: str = ""  # of the run whose documents are scored
    checkpoints: str = ""  # states of the proxy's training, for methods that need them

    def same_model(self, fingerprints: Mapping[str, str]) -> bool:
        """Say whether the model, and the states of its training, are these."""
        return (self.model, self.checkpoints) == (fingerprints["model"], fingerprints.get("checkpoints", ""))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Parameters whose gradients are taken, of all, and those of matrices that are left out, by name."""

    tracked: int
    total: int
    uncovered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The result of checking the compute type against a reference."""

    dtype: str
    reference: str
    least: float  # correlation under which the ranking is not to be trusted
    failed: str | None = None  # why there is no figure
    documents: int = 0
    lost: int = 0  # documents with finite scores by the reference alone
    spearman: Mapping[str, float | None] = field(default_factory=dict)  # by score column


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Rows of the target that scoring never saw: their numbers by file."""

    share: float
    seed: int
    rows: Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """Which documents a run was begun for, where not for all."""

    documents: int  # chosen; of a sample about as many rows
    of: int  # documents that the choice stands for or was made from: the pool's; of a sample its rows, about
    share: float | None = None  # a sample's: every row's chance
    seed: int = 0  # of the sample
    top: float | None = None  # a share or a number of the best; None: all documents of another run
    columns: tuple[str, ...] = ()  # scores of another run, of each of which the best were chosen


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How a rescoring changed a run's order of the shortlist; `stayed` counts documents of its top tenth."""

    spearman: float | None
    documents: int
    top_tenth: int
    stayed: int


@dataclass(frozen=True, kw_only=True)
class Details:
    """Details of a run or a store beside settings and fingerprints; the last five are a store's.

    Details of a user's own method are in the record's JSON alone.
    """

    columns: tuple[str, ...] = ()  # of scores
    target_rows: tuple[str, ...] | None = None  # content hashes of the rows that scoring used
    coverage: Coverage | None = None
    arithmetic: Arithmetic | None = None
    holdout: Holdout | None = None
    token_scores: str | None = None  # of what the lists per token are, LABELS; None in earlier versions' runs
    frequency_loss: float | None = None  # of the pool's text, by token frequencies alone; nats per token
    narrowed: Narrowed | None = None
    taken_from: str | None = None  # names the run whose scores of the same documents are taken; "" where none's are
    moved: Mapping[str, Moved] = field(default_factory=dict)  # by the path of the run that was rescored
    pool: tuple[str, ...] = ()  # addresses, which may become more
    pool_fingerprint: str = ""
    background: str = ""  # fingerprint of the sample that the second moment is fitted on
    context: int = 0
    blocks: tuple[Mapping[str, Any], ...] = ()  # layers of a sketch

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Details":
        """Return the details of a record's JSON."""
        kinds = {"coverage": Coverage, "arithmetic": Arithmetic, "holdout": Holdout, "narrowed": Narrowed}
        typed: dict[str, Any] = {k: _typed(kind, content[k]) if content.get(k) else None for k, kind in kinds.items()}
        typed["moved"] = {path: _typed(Moved, moved) for path, moved in content.get("moved", {}).items()}
        return _typed(cls, {**content, **typed})


@dataclass(frozen=True)
class RunRecord:
    """The record of a run or a store. Equal records have equal bytes."""

    json: Mapping[str, Any]

    @classmethod
    def make(
        cls, settings: Mapping[str, Any], fingerprints: Mapping[str, str], details: Mapping[str, Any]
    ) -> "RunRecord":
        """Return the record as it will be read back; addresses lose their secrets."""
        sections = {"settings": settings, "fingerprints": fingerprints, "details": details}
        content = json.loads(canonical({"format": FORMAT} | {k: dict(v) for k, v in sections.items()}))
        return cls(addresses_without_secrets(content))

    @classmethod
    def read(cls, text: bytes, *, where: str, kind: str) -> "RunRecord":
        """Parse a record. Raises CurateError naming `where` it lies when it is none of this version's."""
        try:
            record = json.loads(text)
        except ValueError as error:
            raise CurateError(f"{where}: cannot be read as JSON ({error}).") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            seen = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise CurateError(
                f"{where}: the format is {seen!r}; expected {FORMAT}.",
                hint=f"Read it with the version that wrote it, or make the {kind} again in another folder.",
            )
        missing = [key for key in ("settings", "fingerprints", "details") if key not in record]
        if missing:
            raise CurateError(f"{where}: lacks {', '.join(missing)}; it is not a {kind}'s record.")
        return cls(record)

    @property
    def text(self) -> str:
        return canonical(self.json)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings, resolved; settings classes are built from them."""
        return self.json["settings"]

    @cached_property
    def fingerprints(self) -> Fingerprints:
        return _typed(Fingerprints, self.json["fingerprints"])

    @cached_property
    def details(self) -> Details:
        return Details.of(self.json["details"])

    @property
    def method(self) -> str | None:
        return self.settings.get("method")

    @property
    def method_settings(self) -> Mapping[str, Any]:
        return self.settings.get("method_settings") or {}

    @property
    def model(self) -> str | None:
        return self.settings.get("model")

    @property
    def by_turns(self) -> bool:
        """Whether the run was scored for groups that choose in turn."""
        return self.settings.get("aggregate") == "round-robin"

    @property
    def target(self) -> tuple[str, ...]:
        """Its addresses."""
        return _texts(self.settings.get("target"))

    @property
    def pool(self) -> tuple[str, ...]:
        """Its addresses."""
        return _texts(self.settings.get("pool"))

    @property
    def fields(self) -> Mapping[str, Any]:
        """Which of the pool's columns are read as what."""
        return self.settings.get("fields") or {}

    @property
    def store(self) -> str | None:
        """Folder of the store that was scored from."""
        return self.settings.get("store")

    @property
    def only(self) -> str | None:
        """Folder of the run whose documents were scored."""
        return self.settings.get("only")

    @property
    def is_store(self) -> bool:
        """Whether it is a store's."""
        return "storage" in self.settings

    @property
    def is_rescoring(self) -> bool:
        """Whether its documents are the shortlist of other runs."""
        return "parent_run" in self.settings

    @property
    def is_prediction(self) -> bool:
        """Whether its scores were learned from those of another run, the teacher."""
        return "teacher" in self.settings

    @property
    def scores_positions(self) -> bool:
        """Whether its lists per token say what entered at each position, as those of earlier versions do."""
        return bool(self.settings.get("per_token")) and not self.is_rescoring and self.details.token_scores != LABELS

    @property
    def of_method(self) -> Mapping[str, Any]:
        """The details that the run's method recorded under its name."""
        return self.json["details"].get(self.method or "") or {}

    @property
    def smoothness(self) -> tuple[float, ...]:
        """How smooth each training run was that a method differentiated through; 1 is smooth."""
        recorded = (d for d in self.json["details"].values() if isinstance(d, Mapping) and "smoothness" in d)
        return tuple(next(recorded, {"smoothness": ()})["smoothness"])

    @property
    def check(self) -> "Check | None":
        """How the scores stood up to retrainings without some documents; None where that was not tried."""
        from curate.fidelity import Check  # imported here: describing the settings of a command needs no arrays

        recorded = (d["check"] for d in self.json["details"].values() if isinstance(d, Mapping) and "check" in d)
        return next(map(Check.of, recorded), None)

    def with_details(self, details: Mapping[str, Any]) -> "RunRecord":
        """Return the record with more details, or others of these names."""
        return RunRecord(json.loads(canonical({**self.json, "details": {**self.json["details"], **details}})))


def _typed(kind: type[_T], content: Mapping[str, Any]) -> _T:
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in names})


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def canonical(value: Mapping[str, Any]) -> str:
    """Return the canonical JSON text of a value: sorted keys, two spaces, paths as strings, a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def as_json(value: Any) -> Any:
    """Return a value as it comes back from run.json: tuples as lists, paths as strings."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


# Settings that decide no score, but for rounding: a run goes on with other values of them.
INDECISIVE = frozenset({"batch_tokens", "check"})


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a run's results beyond rounding."""
    return {name: value for name, value in settings.items() if name not in INDECISIVE}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, had: str = "the run has", asked: str = "you asked for"
) -> list[str]:
    """Return a line for each leaf that differs: `dim: the run has 16, you asked for 32`.

    A setting that an older record lacks, and that is empty now, is no difference; nor are secrets in addresses.
    """
    before, after = leaves(old), leaves(addresses_without_secrets(as_json(new)))
    lines = []
    for key in sorted({*before, *after}):
        old_value, new_value = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if old_value != new_value and not (old_value is _ABSENT and not new_value):
            lines.append(f"{key}: {had} {_show(old_value)}, {asked} {_show(new_value)}")
    return lines


_FOLLOWS = {"method_settings": {"method"}, "method_settings.seed": {"seed"}, "background": {"method"}}
"""Settings that follow from others, where those were not given."""
_ROWS = {"target", "fields", "target_fields", "group_by", "holdout", "seed"}
_CONTENTS = {
    "pool": {"pool"},
    "target": _ROWS,
    "heldout": _ROWS,
    "against": {"against", "fields", "target_fields"},
    "fit": {"fit_from"},
    "only": {"only"},
    "model": {"model", "revision"},
    "checkpoints": {"model", "revision"},
}
"""The settings that decide what a fingerprint is of."""


def without_consequences(settings: Sequence[str], fingerprints: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those lines of `differences`, of settings and of fingerprints, that follow from no other setting's."""
    names = {line.partition(":")[0]: line for line in settings}
    wholes = {name.partition(".")[0] for name in names}

    def follows(name: str) -> bool:
        return bool((_FOLLOWS.get(name, set()) | _FOLLOWS.get(name.partition(".")[0], set())) & wholes)

    causes = [line for name, line in names.items() if not follows(name)]
    return causes, [line for line in fingerprints if not _CONTENTS.get(line.partition(":")[0], set()) & wholes]


def leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names: `method_settings.dim`."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= leaves(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
