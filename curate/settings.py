"""How settings are declared: frozen dataclasses, checked as they are built, that the command line takes options from.

A field is declared once, with its type, default and help. Values come as flags, YAML and Python give them ("1%", "2M",
"true", one word for a list of one) and are turned into the field's type; a value that does not fit is a SettingsError
that names the field, the value and what was expected.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from curate.amounts import parse_float, parse_int, parse_portion, parse_share
from curate.errors import SettingsError, nearest

T = TypeVar("T")
_GIVEN = "_given"


def _flag(value: Any) -> bool:
    if str(value).casefold() not in ("true", "false") or (isinstance(value, int) and not isinstance(value, bool)):
        raise ValueError(f"expected true or false, got {value!r}")
    return str(value).casefold() == "true"


def _several(value: Any) -> Any:
    """Turn one word into a list of one, nothing into an empty list, and paths into words."""
    values = [value] if isinstance(value, str | Path | float | int) else value or []
    return [str(v) if isinstance(v, Path) else v for v in values] if isinstance(values, list | tuple) else values


def _split(value: Any) -> Any:
    """Turn words with commas between them into a list."""
    return [part for word in _several(value) for part in (word.split(",") if isinstance(word, str) else [word])]


Count = Annotated[int, BeforeValidator(parse_int)]
"""A whole number: 300, 20_000, "20M", "1e6"."""
Share = Annotated[float, BeforeValidator(parse_share)]
"""A share of a whole, from 0 to 1: 0.05, "5%"."""
Portion = Annotated[int | float, BeforeValidator(parse_portion)]
"""A share of a whole as a float, "5%", 0.05, or a number as an int, "20k"."""
Number = Annotated[float, BeforeValidator(parse_float)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Words = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""Names or addresses: one, or several."""
Listed = BeforeValidator(_split)
"""Several values, or one word with commas between them."""


def least(number: float) -> Any:
    """Annotate a type: at least this number."""
    return Field(ge=number)


def above(number: float) -> Any:
    """Annotate a type: above this number, and finite."""
    return Field(gt=number, allow_inf_nan=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """How the command line shows a field."""

    help: str
    flags: tuple[str, ...] = ()
    """Its flags where they are not the field's name; of a field that is true by default, the flag that turns it off."""
    metavar: str | None = None
    shown: str | None = None
    """What stands for the default where that is decided later ("the run's")."""
    argument: bool = False
    """Given by its place, not by a flag."""
    prefix: str = ""
    suffix: str = ""
    """Around the flags of a nested class's fields: `--target-` … `-column`."""


def option(
    *,
    help: str,
    default: Any = dataclasses.MISSING,
    factory: Any = dataclasses.MISSING,
    repr: bool = True,
    **how: Any,
) -> Any:
    """Declare a field of a settings class with its help; `how` is what Option takes."""
    shown = {"option": Option(help=help, **how)}
    return dataclasses.field(default=default, default_factory=factory, repr=repr, metadata=shown)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, dataclasses.field))
def settings(kind: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass that turns values into its fields' types and refuses others."""
    checked: Any = checked_dataclass(kind, frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
    build_checked = checked.__init__

    @wraps(build_checked)
    def __init__(self: Any, **values: Any) -> None:
        try:
            build_checked(self, **_without_none_words(checked, values))
        except ValidationError as error:
            raise _explained(error, checked, checked.__name__) from None
        object.__setattr__(self, _GIVEN, frozenset(values))

    checked.__init__ = __init__
    return checked


def given(values: Any) -> dict[str, Any]:
    """Return the fields that a settings object was built with; all others have their defaults."""
    names = getattr(values, _GIVEN, [f.name for f in dataclasses.fields(values)])
    return {name: getattr(values, name) for name in names}


def gathered(kind: type[T], values: T | None, others: Mapping[str, Any]) -> T:
    """Return settings that came as an object, as names and values, or as both: the latter win."""
    if isinstance(values, Mapping):
        values, others = None, {**values, **others}
    if values is not None and not isinstance(values, kind):
        raise SettingsError(f"settings is {values!r}; expected {kind.__name__}, or names and values.")
    if values is not None and not others:
        return values
    names = others if values is None else given(values) | dict(others)
    return getattr(kind, "of", partial(build, kind, owner=kind.__name__))(names)


def changed(values: T, **changes: Any) -> T:
    """Return settings with some fields changed; fields that nobody gave stay so."""
    return type(values)(**(given(values) | changes))


def part_of(kind: type[T], values: Any) -> T:
    """Return the fields that settings share with a smaller class, as an object of that class."""
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given(values).items() if name in names})


def build(kind: type[T], values: Mapping[str, Any], *, owner: str, prefix: str = "", others: Sequence[str] = ()) -> T:
    """Build settings from names and values as flags, YAML or a record have them.

    The fields of a nested class may stand beside the others by their own names; the nested class itself may be given
    as an object, as names and values, or as a YAML file of them. Raises SettingsError for a name that there is not,
    with the nearest one that there is, here or among `others` (`owner` begins the sentence), or for a value that does
    not fit (`prefix` does).
    """
    inside = nested(kind)
    home = {f.name: name for name, part in inside.items() for f in dataclasses.fields(part)}
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    outer: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for written, value in values.items():
        name = str(written).replace("-", "_")
        if name not in names and name not in home:
            near = [n for n in (*names, *home, *others) if nearest(name, [n]).startswith("Did")]
            raise SettingsError(
                f"{owner} has no setting {str(written)!r}.", hint=nearest(name, near or [*names, *home])
            )
        if name in names:
            outer[name] = value
        else:
            inner.setdefault(home[name], {})[name] = value
    for name, part in inside.items():
        if name in inner or outer.get(name) is not None:
            outer[name] = _nested_value(kind, name, part, outer.get(name), inner.get(name, {}))
    return _checked(kind, outer, prefix)


def nested(kind: type) -> dict[str, type]:
    """Return the fields of a class that hold settings of another class."""
    parts: dict[str, type] = {}
    for name, hint in _types(kind).items():
        classes = [t for t in (hint, *get_args(hint)) if isinstance(t, type) and dataclasses.is_dataclass(t)]
        if classes:
            parts[name] = classes[0]
    return parts


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's names and values. Raises SettingsError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds {type(content).__name__}; expected names and values.")
    return content


def _nested_value(kind: type, name: str, part: type, whole: Any, inner: dict[str, Any]) -> Any:
    """Return a nested class's object: its default, changed by `whole`, then by what stood beside the outer fields."""
    if dataclasses.is_dataclass(whole):
        if not inner:
            return whole
        whole = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
    elif isinstance(whole, str | Path):
        whole = read_yaml(Path(whole))
    elif whole is not None and not isinstance(whole, Mapping):
        raise SettingsError(f"{name} is {whole!r}; expected names and values, or a YAML file of them.")
    whole = {str(n).replace("-", "_"): v for n, v in (whole or {}).items()}
    values = _over(part, whole, inner)
    factory = next(f.default_factory for f in dataclasses.fields(kind) if f.name == name)  # type: ignore[arg-type]
    if factory is not dataclasses.MISSING:
        values = _over(part, given(factory()), values)
    return build(part, values, owner=f"{name}")


def _over(kind: type, base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return values over others; a class may say by `over` which of the others no longer hold."""
    return (kind.over(values, base) if hasattr(kind, "over") else base) | values


def _checked(kind: type[T], values: dict[str, Any], prefix: str) -> T:
    try:
        if hasattr(kind, "__pydantic_validator__"):
            return kind(**values)
        return TypeAdapter(kind).validate_python(values)  # a plain dataclass, of a method from another package
    except ValidationError as error:
        problem = _explained(error, kind, kind.__name__)
    except TypeError as error:
        problem = SettingsError(f"{error}.")
    except SettingsError as error:
        problem = error
    raise SettingsError(f"{prefix}{problem.message}", hint=problem.hint) from None


@cache
def _types(kind: type) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return {n: t for n, t in get_type_hints(kind, include_extras=True).items() if n in names}


def _without_none_words(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Read "none" and "null" as None where a field that holds no words may be None: a flag has no other way."""

    def is_none(name: str, value: Any) -> bool:
        word = isinstance(value, str) and value.casefold() in ("none", "null")
        return word and NoneType in (args := get_args(_types(kind).get(name))) and str not in args

    words = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {name: None if is_none(name, value) else value for name, value in words.items()}


def _explained(error: ValidationError, kind: type, owner: str) -> SettingsError:
    """Say what was seen and what was expected, of the first value that does not fit."""
    problem = error.errors(include_url=False)[0]
    name, why = str(problem["loc"][0]) if problem["loc"] else "", problem["type"]
    if why in ("unexpected_keyword_argument", "extra_forbidden"):
        names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return SettingsError(f"{owner} has no setting {name!r}.", hint=nearest(name, names))
    if why in ("missing", "missing_keyword_only_argument"):
        return SettingsError(f"{name} is missing.")
    value = problem["input"]
    if why == "value_error":
        reason = str(problem.get("ctx", {}).get("error")).removesuffix(f", got {value!r}")
        if not name:  # of the class as a whole
            return SettingsError(f"{reason.removesuffix('.')}.")
        return SettingsError(
            f"{name} is {value!r}; {reason}." if reason.startswith("expected") else f"{name}: {reason}."
        )
    hint = nearest(str(value), words_of(_types(kind)[name])) if why == "literal_error" else None
    return SettingsError(f"{name} is {value!r}; expected {_expected(_types(kind).get(name), why)}.", hint=hint)


def words_of(hint: Any) -> list[str]:
    """Return the words that a type allows."""
    return [w for t in (hint, *get_args(hint)) if get_origin(t) is Literal for w in get_args(t)]


def _expected(hint: Any, why: str) -> str:
    if why == "literal_error":
        return f"one of {', '.join(words_of(hint))}"
    sizes = {"ge": "at least", "gt": "above", "lt": "less than", "le": "at most"}
    bounds = [f"{sizes[bound]} {value:g}" for bound, value in _bounds(hint)]
    if why.startswith(("greater", "less", "finite")) and bounds:
        return ", or ".join([" and ".join(bounds), *words_of(hint)])
    nouns = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}
    return nouns.get(why.split("_")[0], "a word")


def _bounds(hint: Any) -> Iterator[tuple[str, float]]:
    """Yield the bounds in a type's annotations, as (ge, 1)."""
    if get_origin(hint) is Annotated:
        for extra in hint.__metadata__:
            for bound in getattr(extra, "metadata", ()):
                yield from ((k, v) for k in ("ge", "gt", "lt", "le") if (v := getattr(bound, k, None)) is not None)
    for inner in get_args(hint):
        if inner is not hint and not isinstance(inner, str):
            yield from _bounds(inner)
