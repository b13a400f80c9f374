"""Filters: one SQL file each, with a comment header that gives its summary and parameters.

    -- summary: keep the best documents by score
    -- param: share  share   null   share of all documents of the run
    -- param: score  column  score  the column to rank by
    -- one of: share, count
    SELECT … FROM candidates WHERE … $share … {score}

A parameter's line has its name, type, default and meaning. Types: int, float, share, bool, str are bound
as `$name`, never pasted; `column` and `columns` stand as `{name}`, are checked to be columns of the
candidates, and quoted. The default is a value, `null`, `required`, or a flag (`--top`, `--budget`) whose
value it takes when the user gave it. `$total` is always there: the number of documents (or shards) of the
run before any filter. `one of` lists parameters of which exactly one must have a value. `needs: neighbours`
says that the filter reads the pairs of near documents of a gradient store; `needs: neighbours when near`,
that it does where the parameter `near` has a value.

In `candidates`, `score` is what ranks: the column of `--group`, and with `--rank-by density` every score column is
divided by the document's tokens. The view `scores` has them as they were scored.

An installed package offers a filter by an entry point of the group `curate.filters`: its name is the filter's, its
value a package (or module) in whose folder `<name>.sql` lies.

    [project.entry-points."curate.filters"]
    short = "my_filters"        # my_filters/short.sql
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import curate
from curate.errors import CurateError, SettingsError, nearest
from curate.registry import Registry
from curate.scores.views import quoted
from curate.selection.values import COLUMN_TYPES, PARSERS, match_columns

_HEADER = re.compile(r"^--\s*(summary|param|one of|needs):\s*(.*)$")
_NEEDS = re.compile(r"neighbours(?: when (\w+))?")
_FLAGS = ("--top", "--budget")
_RESERVED = ("total",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One parameter of a filter, as its header says."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One SQL file, parsed."""

    name: str
    summary: str
    params: tuple[Param, ...]
    one_of: tuple[str, ...]
    needs: str | None
    """The parameter whose value makes it read neighbours; '' where it always does, None where it never does."""
    sql: str
    path: Path
    has_name: bool = True
    """Whether it is found by its name; else by its file alone."""

    def needs_neighbours(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether it reads the pairs of near documents with these values."""
        return self.needs is not None and (not self.needs or parameters.get(self.needs) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A filter with its values: the SQL to run, and the values bound to it."""

    filter: Filter
    sql: str
    values: Mapping[str, Any]
    """Every parameter's value, columns too: for the manifest."""
    asked: Mapping[str, Any]
    """Those of the values that are not defaults."""
    binding: Mapping[str, Any]
    """The values of the SQL's `$names`."""

    def named(self, columns: Sequence[str]) -> list[str]:
        """Return those of some columns that the filter reads: as parameters, or by name outside its SQL's comments."""
        given = [v for p in self.filter.params if p.type in COLUMN_TYPES for v in _several(self.values[p.name])]
        words = {*given, *re.findall(r"\w+", re.sub(r"--.*|\{\w+\}", "", self.filter.sql))}
        return [c for c in columns if c in words]


def needs_neighbours(filters: Sequence[str | Path | tuple[str | Path, Mapping[str, Any]]]) -> bool:
    """Return whether any of these filters, by name or with parameters, reads the pairs of near documents."""
    pairs = [(f, {}) if isinstance(f, str | Path) else f for f in filters]
    return any(find_filter(name).needs_neighbours(parameters) for name, parameters in pairs)


def filters_folder() -> Path:
    """Return the folder of the shipped filters: inside the package when installed, else beside it in the checkout."""
    package = Path(curate.__file__).parent
    inside = package / "_filters"
    return inside if inside.is_dir() else package.parent / "filters"


_REGISTRY = Registry(
    kind="filter",
    group="curate.filters",
    folder=filters_folder(),
    ending=".sql",
    otherwise="Or give a path to a .sql file.",
)


def named_filters() -> dict[str, Filter]:
    """Return every filter that has a name: the shipped ones and those of installed packages."""
    return {name: find_filter(name) for name in _REGISTRY.names()}


def find_filter(name: str | Path) -> Filter:
    """Return a filter by its name, or by the path of its .sql file."""
    if str(name).endswith(".sql"):
        return replace(read_filter(Path(name)), has_name=False)
    source = _REGISTRY.source(str(name))
    return read_filter(source if isinstance(source, Path) else _file_of(source))


def _file_of(entry: EntryPoint) -> Path:
    module = _REGISTRY.load(entry)
    # A package that is a folder without __init__.py has no file of its own.
    file = getattr(module, "__file__", None)
    folder = Path(file).parent if file else Path(next(iter(module.__path__)))
    path = folder / f"{entry.name}.sql"
    if not path.is_file():
        raise CurateError(
            f"The filter {entry.name!r}: {entry.value} holds no {path.name}.",
            hint=f"An entry point of the group {entry.group} is called as the .sql file in the folder of its package.",
        )
    return path


def read_filter(path: Path) -> Filter:
    """Parse a filter's header. Raises CurateError with the line that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
    summary, params, one_of, needs = "", [], (), None
    for number, line in enumerate(text.splitlines(), 1):
        if not (header := _HEADER.match(line)):
            continue
        key, content = header.groups()
        if key == "summary":
            summary = content.strip()
        elif key == "param":
            params.append(_param(content, f"{path}, line {number}"))
        elif key == "needs":
            needs = _needs(content, f"{path}, line {number}")
        else:
            one_of = tuple(name.strip() for name in content.split(","))
    if unknown := set(one_of) - {p.name for p in params}:
        raise CurateError(f"{path}: 'one of' names {sorted(unknown)[0]!r}, which is no param.")
    if needs and needs not in {p.name for p in params}:
        raise CurateError(f"{path}: 'needs' names {needs!r}, which is no param.")
    return Filter(
        name=path.stem, summary=summary, params=tuple(params), one_of=one_of, needs=needs, sql=text, path=path
    )


def _needs(text: str, where: str) -> str:
    if not (match := _NEEDS.fullmatch(text.strip())):
        raise CurateError(f"{where} is {text!r}; expected `-- needs: neighbours` or `-- needs: neighbours when PARAM`.")
    return match.group(1) or ""


def _param(text: str, where: str) -> Param:
    words = text.split(maxsplit=3)
    if len(words) < 4:
        raise CurateError(f"{where} is {text!r}; expected `-- param: name type default meaning`.")
    param = Param(name=words[0], type=words[1], default=words[2], meaning=words[3].strip())
    types = [*PARSERS, *COLUMN_TYPES]
    if param.type not in types:
        raise CurateError(
            f"{where}: the type is {param.type!r}; expected one of {', '.join(types)}.", hint=nearest(param.type, types)
        )
    if param.name in _RESERVED:
        raise CurateError(f"{where}: ${param.name} is given by curate.", hint="Choose another name.")
    if param.default.startswith("--") and param.default not in _FLAGS:
        raise CurateError(f"{where}: the default is {param.default}; expected one of {', '.join(_FLAGS)}, or a value.")
    return param


def bind(
    filter: Filter, parameters: Mapping[str, Any], columns: Sequence[str], *, total: int, size: Mapping[str, Any]
) -> Bound:
    """Check a filter's parameters against its header and the candidates' columns, and fill in defaults.

    `size` holds the values of --top and --budget: `share`, `count` or `tokens`.
    """
    names = [p.name for p in filter.params]
    for name in parameters:
        if name not in names:
            raise SettingsError(f"Filter {filter.name!r} has no parameter {name!r}.", hint=nearest(name, names))
    has_size = any(parameters.get(p.name) is not None for p in filter.params if p.default in _FLAGS)
    values = {p.name: _value(filter, p, parameters, {} if has_size else size) for p in filter.params}
    _check_one_of(filter, values, parameters)
    sql = filter.sql
    for param in filter.params:
        if param.type in COLUMN_TYPES and values[param.name] is not None:
            matched = _columns(filter, param, values[param.name], columns)
            values[param.name] = matched[0] if param.type == "column" else matched
            sql = sql.replace("{" + param.name + "}", ", ".join(quoted(c) for c in matched))
    defaults = {p.name: _default(p) for p in filter.params}
    changed = {k: v for k, v in values.items() if v is not None and v != defaults[k]}
    binding = {p.name: values[p.name] for p in filter.params if p.type not in COLUMN_TYPES}
    return Bound(filter=filter, sql=sql, values=values, asked=changed, binding={**binding, "total": total})


def _value(filter: Filter, param: Param, parameters: Mapping[str, Any], size: Mapping[str, Any]) -> Any:
    raw = parameters.get(param.name)
    if raw is None:
        if param.default == "required":
            raise SettingsError(
                f"Filter {filter.name!r} needs {param.name!r}: {param.meaning}.", hint=f"Add -p {param.name}=…"
            )
        raw = size.get(param.name) if param.default in _FLAGS else param.default
        if raw is None or raw == "null":
            return None
    if param.type in COLUMN_TYPES:
        return raw
    try:
        return PARSERS[param.type](raw)
    except ValueError as error:
        raise SettingsError(
            f"Filter {filter.name!r}, {param.name}: {error}.", hint=f"The parameter: {param.meaning}."
        ) from None


def _default(param: Param) -> Any:
    """Return the header's default as a value; None for null, required and flags."""
    if param.default in ("null", "required", *_FLAGS):
        return None
    return param.default if param.type in COLUMN_TYPES else PARSERS[param.type](param.default)


def _check_one_of(filter: Filter, values: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    if not filter.one_of:
        return
    named = [name for name in filter.one_of if parameters.get(name) is not None]
    if len(named) > 1:
        raise SettingsError(
            f"Filter {filter.name!r} has {' and '.join(named)}; expected one of {', '.join(filter.one_of)}."
        )
    if all(values[name] is None for name in filter.one_of):
        flags = any(p.default in _FLAGS for p in filter.params)
        ways = " or ".join(f"-p {name}=…" for name in filter.one_of)
        raise SettingsError(
            f"Filter {filter.name!r} needs one of {', '.join(filter.one_of)}.",
            hint=f"Add {ways}{', or --top or --budget for the whole selection' if flags else ''}.",
        )


def _several(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or []


def _columns(filter: Filter, param: Param, value: Any, columns: Sequence[str]) -> list[str]:
    if param.type == "columns":
        try:
            return match_columns(value, columns)
        except SettingsError as error:
            raise SettingsError(f"Filter {filter.name!r}, {param.name}: {error.message}", hint=error.hint) from None
    if value not in columns:
        raise SettingsError(
            f"Filter {filter.name!r}, {param.name}: no column {value!r}.",
            hint=nearest(str(value), list(columns)),
        )
    return [value]
