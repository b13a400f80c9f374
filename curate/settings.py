"""What a scoring run is asked for: the settings that decide its bytes, checked as they are built."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.documents import Fields
from curate.errors import SettingsError, nearest
from curate.selection.values import parse_share

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M"
DEFAULT_METHOD = "trackstar"
MAX_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """One scoring run. Everything here is kept in run.json, and all of it must be the same to continue a run."""

    target: tuple[str, ...]
    """Addresses of the validation set."""
    pool: tuple[str, ...] = ()
    """Addresses of the candidates."""
    against: tuple[str, ...] = ()
    """Addresses of a control set, whose mean gradient is subtracted from the target's."""
    method: str = DEFAULT_METHOD
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    """The method's own settings by name; those that are not given have the method's defaults."""
    model: str = DEFAULT_MODEL
    revision: str | None = None
    modules: tuple[str, ...] = ()
    dtype: str = "float32"
    device: str = "auto"
    fields: Fields = field(default_factory=Fields)
    target_fields: Fields | None = None
    """Columns of the target where they differ from the pool's."""
    group_by: str | None = None
    holdout: float = 0.0
    """Share of the target's rows, of every group, that takes no part in scoring; '30%' is read as 0.3."""
    per_token: bool = False
    """Whether every token's part of the score is written, too."""
    context: int | None = None
    """Tokens per sequence; None: the model's own, at most 2 048."""
    long: str = "truncate"
    batch_tokens: int | None = None
    """Tokens per batch; None: by device."""
    background: int | None = None
    """Documents of the pool that curvature is fitted on; None: the method's own number."""
    seed: int = 0
    """Seeds the background sample and which target rows are kept aside; projections have their own."""
    part_documents: int = 1024
    """Documents of one part: what a killed process loses at most."""
    fit_from: str | None = None
    """Folder of a run whose curvature, directions and scores of unchanged shards are taken; nothing is fitted anew."""

    store: str | None = None
    """Folder of a gradient store that holds the pool's sketches: it decides pool, model and projection, and nothing of
    the pool is read."""

    def __post_init__(self) -> None:
        for name, least in (("background", 1), ("part_documents", 1), ("batch_tokens", 2), ("context", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}; expected at least {least}.")
        if self.long not in ("truncate", "windows"):
            raise SettingsError(f"long is {self.long!r}; expected 'truncate' or 'windows'.")
        try:
            object.__setattr__(self, "holdout", parse_share(self.holdout))
        except ValueError as error:
            raise SettingsError(f"holdout: {error}.") from None
        if self.holdout == 1:
            raise SettingsError("holdout is the whole target; scoring needs rows, too.", hint="Hold out 30%, say.")
        if self.store and self.fit_from:
            raise SettingsError("A store has its own fits.", hint="Give --store or --fit-from, not both.")
        if not self.target or not (self.pool or self.store):
            raise SettingsError(
                "A run needs a target, and a pool or a store.", hint="curate score --target FILE --pool FOLDER"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for run.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ScoreSettings":
        """Return the settings that a run.json holds under `settings`."""
        given = {f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record}
        for name in ("target", "pool", "against", "modules"):
            given[name] = tuple(given.get(name) or ())
        for name in ("fields", "target_fields"):
            given[name] = Fields(**given[name]) if isinstance(given.get(name), Mapping) else given.get(name)
        return cls(**given)


def background_fingerprint(pool: str, settings: ScoreSettings) -> str:
    """Name the background sample that settings draw from a pool of this fingerprint."""
    return f"{pool}:{settings.background}:{settings.seed}:{settings.fields}"


def build(kind: type[Any], given: Mapping[str, Any], *, owner: str) -> Any:
    """Build a settings dataclass from names and values, turning strings into the types of its defaults.

    A class that holds settings of another kind (a recipe's) gathers them from what is given, by a class method
    `gathered`. Raises SettingsError for a name that it does not have, or a value of the wrong type.
    """
    if hasattr(kind, "gathered"):
        given = kind.gathered(given)
    known = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        key = name.replace("-", "_")
        if key not in known:
            raise SettingsError(f"{owner} has no setting {name!r}.", hint=nearest(key, list(known)))
        values[key] = _parsed(value, known[key], f"{owner}: {name}")
    return kind(**values)


def _parsed(value: Any, setting: dataclasses.Field[Any], what: str) -> Any:
    default = setting.default
    if isinstance(default, bool):
        if str(value).casefold() not in ("true", "false"):
            raise SettingsError(f"{what} is {value!r}; expected true or false.")
        return str(value).casefold() == "true"
    if not isinstance(value, str) or isinstance(default, str):
        return value
    kind, expected = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(value)
    except ValueError:
        if setting.type == float | str:
            return value  # a setting that takes a number or a word checks the word itself
        raise SettingsError(f"{what} is {value!r}; expected {expected}.") from None


def default_out(settings: ScoreSettings) -> Path:
    """Return where a run goes when no folder is given: `runs/<target>-<method>`, with `-<refine>` where refined."""
    stem = Path(settings.target[0].rstrip("/")).name.split(".")[0] or "target"
    refined = settings.method_settings.get("refine", "none")
    return Path("runs") / f"{stem}-{settings.method}{'' if refined == 'none' else f'-{refined}'}"
