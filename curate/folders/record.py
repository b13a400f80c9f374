"""The record of a run or a store: what was asked for and what is known of it, as bytes that are always the same."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from curate.errors import CurateError

FORMAT = 1
_ABSENT = object()
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Hashes of the contents that a run depends on; '' where it depends on none of the kind."""

    pool: str = ""
    target: str = ""
    """Of the rows that scoring used."""
    heldout: str = ""
    """Of the rows kept aside."""
    model: str = ""
    against: str = ""
    """Of the control set."""
    fit: str = ""
    """Of the background that its fits were made on, where they come from another run."""
    shortlist: str = ""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Parameters whose gradients are taken."""

    tracked: int
    total: int
    uncovered: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Parameters of weight matrices that no tracked layer holds."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What a check of the compute type against a reference found."""

    dtype: str
    reference: str
    least: float
    """Correlation under which the ranking is not to be trusted."""
    failed: str | None = None
    """Why there is no figure."""
    documents: int = 0
    lost: int = 0
    """Documents with finite scores by the reference alone."""
    spearman: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    """Rank correlation by score column."""


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Rows of the target that scoring never saw."""

    share: float
    seed: int
    rows: Mapping[str, Sequence[int]]
    """Row numbers by file."""


@dataclass(frozen=True, kw_only=True)
class Magic:
    """What training runs that were differentiated through measured."""

    smoothness: Sequence[float] = ()
    """Of every run; 1 is smooth."""
    steps: int = 0
    documents: Any = 0
    """Trained on: a number, or one of every run."""
    target_loss: Sequence[Any] = ()


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How a rescoring changed a run's order of the shortlist."""

    spearman: float | None
    documents: int
    top_tenth: int
    stayed: int
    """Documents of that tenth which are in the rescored one, too."""


@dataclass(frozen=True)
class Details:
    """What a record tells beside settings and fingerprints; `json` also holds what a method of one's own put there."""

    json: Mapping[str, Any]

    @property
    def versions(self) -> Mapping[str, str]:
        return self.json.get("versions", {})

    @property
    def columns(self) -> tuple[str, ...]:
        """The score columns."""
        return tuple(self.json.get("columns", ()))

    @property
    def target_rows(self) -> tuple[str, ...] | None:
        """Content hashes of the target's rows that scoring used."""
        return None if (rows := self.json.get("target_rows")) is None else tuple(rows)

    @property
    def coverage(self) -> Coverage | None:
        return _read(Coverage, self.json.get("coverage"))

    @property
    def arithmetic(self) -> Arithmetic | None:
        return _read(Arithmetic, self.json.get("arithmetic"))

    @property
    def holdout(self) -> Holdout | None:
        return _read(Holdout, self.json.get("holdout"))

    @property
    def magic(self) -> Magic | None:
        return _read(Magic, self.json.get("magic"))

    @property
    def moved(self) -> dict[str, Moved]:
        """By the path of the run that was rescored."""
        return {path: Moved(**found) for path, found in self.json.get("moved", {}).items()}

    @property
    def pool(self) -> tuple[str, ...]:
        """Of a store: the addresses of its pool, which may grow."""
        return tuple(self.json["pool"])

    @property
    def pool_fingerprint(self) -> str:
        """Of a store: that of the pool as it is now."""
        return self.json["pool_fingerprint"]

    @property
    def background(self) -> str:
        """Of a store: the fingerprint of the sample that its second moment is fitted on."""
        return self.json["background"]

    @property
    def context(self) -> int:
        """Of a store: tokens per sequence."""
        return self.json["context"]

    @property
    def blocks(self) -> Sequence[Mapping[str, Any]]:
        """Of a store: the layers of a sketch."""
        return self.json["blocks"]


@dataclass(frozen=True)
class RunRecord:
    """The record of a run or a store. Equal records have equal bytes."""

    json: Mapping[str, Any]

    @classmethod
    def make(
        cls, settings: Mapping[str, Any], fingerprints: Mapping[str, str], details: Mapping[str, Any]
    ) -> "RunRecord":
        """Return the record as it will be read again."""
        given = {"settings": settings, "fingerprints": fingerprints, "details": details}
        return cls(json.loads(canonical({"format": FORMAT} | {k: dict(v) for k, v in given.items()})))

    @classmethod
    def read(cls, text: bytes, *, where: str, kind: str) -> "RunRecord":
        """Parse a record. Raises CurateError naming `where` it lies when it is none of this version's."""
        try:
            record = json.loads(text)
        except ValueError as error:
            raise CurateError(f"{where}: cannot be read as JSON ({error})") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            seen = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise CurateError(
                f"{where}: format {seen!r}, this version of curate reads format {FORMAT}",
                hint=f"Read it with the version that wrote it, or make the {kind} again in another folder.",
            )
        missing = [key for key in ("settings", "fingerprints", "details") if key not in record]
        if missing:
            raise CurateError(f"{where}: lacks {', '.join(missing)}; it is not a {kind}'s record")
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
        known = {f.name for f in dataclasses.fields(Fingerprints)}
        return Fingerprints(**{k: v for k, v in self.json["fingerprints"].items() if k in known})

    @cached_property
    def details(self) -> Details:
        return Details(self.json["details"])

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
    def is_rescoring(self) -> bool:
        """Whether its documents are the shortlist of other runs."""
        return "parent_run" in self.settings

    def with_details(self, details: Mapping[str, Any]) -> "RunRecord":
        """Return the record with more details, or others of these names."""
        return RunRecord(json.loads(canonical({**self.json, "details": {**self.details.json, **details}})))


def _read(kind: type[_T], found: Mapping[str, Any] | None) -> _T | None:
    if not found:
        return None
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in found.items() if k in known})


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def canonical(value: Mapping[str, Any]) -> str:
    """The one JSON text of a value: sorted keys, two spaces, paths as strings, a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def as_json(value: Any) -> Any:
    """The value as it comes back from run.json: tuples as lists, paths as strings."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, had: str = "the run has", asked: str = "you asked for"
) -> list[str]:
    """One line for each leaf that differs: `dim: the run has 16, you asked for 32`.

    A setting that an older run does not know, and that asks for nothing now, is no difference.
    """
    before, after = _leaves(old), _leaves(as_json(new))
    lines = []
    for key in sorted({*before, *after}):
        was, now = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if was != now and not (was is _ABSENT and not now):
            lines.append(f"{key}: {had} {_show(was)}, {asked} {_show(now)}")
    return lines


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _leaves(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
