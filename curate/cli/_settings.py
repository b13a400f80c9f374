"""Options of commands, generated from settings: every field with its help, default and flags.

A command takes `@settings_options(Kind)` and gives `given(ctx, Kind, options)` to the library, which reads flags,
--config and keyword arguments by the same rules. Options without a value are not passed on, so that one place decides
defaults.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import click

from curate.errors import SettingsError, nearest
from curate.settings import Option, build, gathered, nested, read_yaml, words_of
from curate.training.recipe import Recipe

_GIVEN = "curate.settings from --config"
METHOD = "curate.settings of the method"
RECORD = "curate.settings are of a record"
CONTINUED = "curate.folder of --continue"
_METHOD_SETTINGS = "method_settings"
_PAIRS = "settings_by_name"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """One field of a settings class on the command line."""

    path: tuple[str, ...]
    """The field's name, behind the names of the fields that it is nested in."""
    flags: tuple[str, ...]
    option: Option
    default: Any
    several: bool
    switch: bool
    words: str
    """The word for its value in help."""

    @property
    def parameter(self) -> str:
        """The name that click passes the value by."""
        return "__".join(self.path)

    @property
    def help(self) -> str:
        """Return the field's help with its default."""
        shown = self.option.shown
        if shown is None and not self.switch and self.default not in (None, ()):
            shown = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else f"{self.default}"
        return self.option.help if shown is None else f"{self.option.help}  [default: {shown}]"

    def inside(self, outer: Option) -> "Flag":
        """Return the flag as help shows it behind a prefix: as the twin of one without it."""
        if not outer.prefix:
            return self
        option = dataclasses.replace(self.option, help=f"{self.option.help} {outer.help}", shown=outer.shown)
        return dataclasses.replace(self, option=option)

    def click_option(self) -> click.Option:
        """Return the option that click parses; its value stays text, which the settings class reads."""
        how: dict[str, Any] = {"is_flag": True, "default": None} if self.switch else {"multiple": self.several}
        metavar = self.option.metavar or (None if self.switch else self.words)
        return click.Option(
            [*self.flags, self.parameter],
            help=self.help,
            metavar=metavar,
            **how,
        )


def flags_of(
    kind: type, path: tuple[str, ...] = (), prefix: str = "", suffix: str = "", *, undocumented: bool = False
) -> Iterator[Flag]:
    """Yield the flags of a settings class: its own fields first, then those of the classes that it is built on.

    `undocumented`: of fields without help, too (a method of another package may have a plain dataclass).
    """
    parts, hints = nested(kind), get_type_hints(kind, include_extras=True)
    for field in _declared_first(kind):
        option = field.metadata.get("option") or (Option(help="A setting of the method.") if undocumented else None)
        if option is None or option.argument:
            continue
        place = (*path, field.name)
        if field.name in parts and option.metavar is None:
            for inner in flags_of(parts[field.name], place, option.prefix, option.suffix):
                yield inner.inside(option)
            continue
        default = None if field.default is dataclasses.MISSING else field.default
        kinds = str(hints[field.name])
        yield Flag(
            path=place,
            flags=tuple(f.replace("--", f"--{prefix}") for f in option.flags)
            or (f"--{'no-' if default is True else ''}{prefix}{field.name.replace('_', '-')}{suffix}",),
            option=option,
            default=default,
            several="tuple[" in kinds or get_origin(hints[field.name]) is dict,
            switch=isinstance(default, bool),
            words=_metavar(hints[field.name], bool(suffix)),
        )


def settings_options(kind: type) -> Callable[[Any], Any]:
    """Add an option for every field of a settings class, and --config FILE."""

    def add(command: Any) -> Any:
        config = click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=partial(_read_config, kind),
            help="YAML file of options and settings by name, or the record of an earlier run; flags win.",
        )
        options = [flag.click_option() for flag in flags_of(kind)]
        if "recipe" in nested(kind):
            options.append(_by_name("A setting of the recipe; repeatable."))
        command.__click_params__ = [*getattr(command, "__click_params__", []), config, *reversed(options)]
        return command

    return add


def given(ctx: click.Context, kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that --config, then flags gave, by name; the chosen method's among them."""
    values: dict[str, Any] = deepcopy(ctx.meta.get(_GIVEN, {}))
    method = ctx.meta.get(METHOD)
    places = [(flag, flag.path) for flag in flags_of(kind)]
    names = {flag.parameter for flag, _ in places}  # --seed is the run's, and its method's by that
    method_flags = flags_of(method, undocumented=True) if method else ()
    places += [(flag, (_METHOD_SETTINGS, *flag.path)) for flag in method_flags if flag.parameter not in names]
    for flag, place in places:
        value = options.get(flag.parameter)
        if value is None or value == ():
            continue
        if place == (_METHOD_SETTINGS,):
            _merge(values, _METHOD_SETTINGS, _pairs(value))
        else:
            _put(values, place, not flag.default if flag.switch else value)
    if pairs := _pairs(options.get(_PAIRS, ())):
        _merge(values, "recipe", pairs)
    if CONTINUED in ctx.meta:
        _refuse_conflicts(ctx, kind, values)
    return values


def _merge(values: dict[str, Any], name: str, others: Mapping[str, Any]) -> None:
    """Put names and values over those that are there; a recipe's may be a file so far."""
    base = values.get(name) or {}
    base = read_yaml(Path(base)) if isinstance(base, str | Path) else base
    base = {str(n).replace("-", "_"): v for n, v in base.items()}
    values[name] = (Recipe.over(others, base) if name == "recipe" else base) | dict(others)


def _by_name(text: str) -> click.Option:
    return click.Option(["--set", "-s", _PAIRS], multiple=True, metavar="NAME=VALUE", help=text)


def _pairs(texts: Any) -> dict[str, Any]:
    """Return names and values of `NAME=VALUE` words; a file may hold a mapping, too."""
    if isinstance(texts, Mapping):
        return {str(name).replace("-", "_"): value for name, value in texts.items()}
    pairs, texts = {}, [texts] if isinstance(texts, str) else texts
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set is {text}; expected NAME=VALUE.")
        pairs[name.strip()] = value.strip()
    return pairs


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Put a value at a nested field's place; open a nested object that came whole."""
    for name in path[:-1]:
        inner = values.get(name)
        if dataclasses.is_dataclass(inner):
            inner = {f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)}
        values[name] = dict(inner or {})
        values = values[name]
    values[path[-1]] = value


def _declared_first(kind: type) -> Iterator[Any]:
    """Yield a dataclass's fields, those that it declares itself before its bases'."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for base in kind.__mro__:
        for name in get_annotations(base):
            if name in fields:
                yield fields.pop(name)


def _metavar(hint: Any, column: bool) -> str:
    """Return the word for a value of this type in help: its choices, or its kind."""
    kinds = {"int": "N", "float": "NUMBER"}
    words = [*(kinds[k] for k in kinds if re.search(rf"\b{k}\b", str(hint))), *words_of(hint)]
    return "|".join(words) or ("COLUMN" if column else "TEXT")


def _read_config(kind: type, ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Read a file: keep its settings for `given`, and the command's other options as click's defaults."""
    if path is None:
        return
    content = read_yaml(path)
    if {"settings", "fingerprints"} <= content.keys():
        ctx.meta[_GIVEN], ctx.meta[RECORD] = _of_record(kind, ctx, path, content), True
        return
    flags = {f.lstrip("-").replace("-", "_"): flag for flag in flags_of(kind) for f in (*flag.flags, flag.parameter)}
    others = {f.lstrip("-").replace("-", "_"): p.name for p in ctx.command.params for f in (*p.opts, p.name or "")}
    values: dict[str, Any] = ctx.meta.setdefault(_GIVEN, {})
    for written, value in content.items():
        name = str(written).replace("-", "_")
        if name == "set":
            _merge(values, _METHOD_SETTINGS if _is_open(kind) else "recipe", _pairs(value))
        elif name in nested(kind):
            values[name] = value
        elif name in flags:
            flag = flags[name]
            turned_off = flag.switch and flag.default and name != flag.path[-1]  # the flag's name says the opposite
            _put(values, flag.path, str(value).casefold() != "true" if turned_off else value)
        elif name in others and others[name] not in {flag.parameter for flag in flags.values()}:
            ctx.default_map = {**(ctx.default_map or {}), others[name] or name: value}
        elif name in _names_inside(kind):
            _merge(values, next(n for n, part in nested(kind).items() if name in _names(part)), {name: value})
        elif _is_open(kind):
            _merge(values, _METHOD_SETTINGS, {name: value})
        else:
            names = sorted({n for n in {*flags, *others, *_names_inside(kind)} if "__" not in n})
            raise SettingsError(f"{path}: no option {str(written)!r}.", hint=nearest(name, names))


def _of_record(kind: type, ctx: click.Context, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the record of a run or a store holds. Raises SettingsError for another command's."""
    from curate.folders.record import RunRecord
    from curate.pipeline.continuing import of_record

    command, values = of_record(RunRecord(record), record["settings"])
    if command != ctx.info_name:
        raise SettingsError(
            f"{path} is a record of `curate {command}`; expected one of `curate {ctx.info_name}`.",
            hint="Give a YAML file of this command's options.",
        )
    return values


def continue_option(command: Any) -> Any:
    """Add --continue FOLDER, which takes the settings from the folder's own record."""
    return click.option(
        "--continue",
        "continued",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_continue,
        metavar="FOLDER",
        help="Go on with a folder that this command began, by its own settings, from any working folder.",
    )(command)


def executor_options(command: Any) -> Any:
    """Add --workers and --executor, which say where the work is done and decide no byte of it."""
    executor = click.option(
        "--executor",
        metavar="NAME",
        help="Where the work is done: local, processes, ray, array or a package's own.  [default: by --workers]",
    )
    workers = click.option(
        "--workers",
        default="auto",
        metavar="N",
        show_default=True,
        help="Processes that share the work; auto: one per CUDA device, or per core for a small proxy.",
    )
    return workers(executor(command))


def part_option(command: Any) -> Any:
    """Add --part, which says which of several jobs this is."""
    return click.option(
        "--part", metavar="I/N", help="One of N jobs that share the folder; N alone: I from their variables."
    )(command)


def format_option(command: Any) -> Any:
    """Add --format, which says how a selection's dataset is stored."""
    return click.option(
        "--format",
        type=click.Choice(["arrow", "parquet", "jsonl.zst", "megatron"]),
        default="arrow",
        show_default=True,
        help="How the dataset is stored; megatron: token ids, as .bin and .idx.",
    )(command)


def place_of(ctx: click.Context, out: Path | None, *arguments: str | None) -> Path | None:
    """Return the folder of --continue, else `out`. Raises SettingsError where more is given beside --continue."""
    continued: Path | None = ctx.meta.get(CONTINUED)
    if continued is not None and (given_too := ["--out"] if out is not None else [a for a in arguments if a]):
        raise SettingsError(
            f"--continue {continued} says what to go on with; expected no {given_too[0]} beside it.",
            hint=f"Leave {given_too[0]} out.",
        )
    return continued or out


def _continue(ctx: click.Context, _param: click.Parameter, folder: Path | None) -> None:
    if folder is None:
        return
    from curate.cli._output import loading

    with loading():
        from curate.pipeline.continuing import recorded_values
    command, values = recorded_values(folder)
    if command != ctx.info_name:
        again = shlex.join(["curate", command, "--continue", str(folder)])
        raise SettingsError(f"{folder} was begun by `curate {command}`.", hint=f"Go on with it by: {again}")
    ctx.meta[_GIVEN], ctx.meta[CONTINUED], ctx.meta[RECORD] = values, folder, True


def _refuse_conflicts(ctx: click.Context, kind: type, merged: Mapping[str, Any]) -> None:
    """Raise SettingsError naming every flag that says otherwise than the folder that is gone on with."""
    from curate.documents.located import same_places
    from curate.folders.record import as_json, decisive, differences, without_consequences

    folder = ctx.meta[CONTINUED]
    had, now = ctx.meta[_GIVEN], merged
    if had.get("method") == now.get("method"):
        had, now = (_leveled(ctx, kind, values) for values in (had, now))
    else:  # the settings of one method are none of another's
        had, now = ({"method": values.get("method")} for values in (had, now))
    now = {n: had[n] if isinstance(v, str | tuple) and same_places(v, had[n]) else v for n, v in now.items()}
    lines, _ = without_consequences(differences(decisive(as_json(had)), decisive(now), had=f"{folder} has"), [])
    if lines:
        raise SettingsError(
            f"{folder} was begun with other settings:\n  " + "\n  ".join(lines),
            hint="Leave these out to go on, or begin anew: the command without --continue, and with another --out.",
        )


def _leveled(ctx: click.Context, kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as their class reads them, the method's own among them."""
    built: Any = gathered(kind, None, values)
    content = dataclasses.asdict(built)
    if method := ctx.meta.get(METHOD):
        own = {n: v for n, v in content[_METHOD_SETTINGS].items() if v is not None}
        content[_METHOD_SETTINGS] = dataclasses.asdict(build(method, own, owner="The method"))
    return content


def _is_open(kind: type) -> bool:
    """Return whether a class takes settings by names that are not its own: a method's."""
    return _METHOD_SETTINGS in _names(kind)


def _names_inside(kind: type) -> set[str]:
    return {name for part in nested(kind).values() for name in _names(part)}


def _names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}
