"""Settings from a YAML file, under those given on the command line."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from curate.errors import SettingsError, nearest

_OTHERS = "curate.settings beside the options"


def config_option(command: Any) -> Any:
    """Add --config FILE: a YAML mapping of option names to values; flags win over it."""
    return _option(frozenset())(command)


def config_option_beside(others: Collection[str]) -> Callable[[Any], Any]:
    """Add --config FILE, in which settings of these names may stand beside the options; see `settings_beside`."""
    return _option(frozenset(others))


def settings_beside(ctx: click.Context) -> dict[str, Any]:
    """Return what --config gave beside the options."""
    return dict(ctx.meta.get(_OTHERS, {}))


def _option(others: frozenset[str]) -> Callable[[Any], Any]:
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=partial(_read, others),
        help="YAML file of options by name (`method: trackstar`); flags win.",
    )


def _read(others: frozenset[str], ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{path}: expected a mapping of options to values, found {type(given).__name__}.")
    # An option is known by its flag (`group-by`) and by its parameter's name.
    options = {f.lstrip("-").replace("-", "_"): p for p in ctx.command.params for f in (*p.opts, p.name or "")}
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name in others - options.keys():
            ctx.meta.setdefault(_OTHERS, {})[name] = value
            continue
        if name not in options:
            raise SettingsError(f"{path}: no option {key!r}.", hint=nearest(name, sorted({*options, *others})))
        parameter = options[name]
        if parameter.multiple and isinstance(value, dict):
            value = [f"{k}={v}" for k, v in value.items()]
        elif parameter.multiple and not isinstance(value, list):
            value = [value]
        values[parameter.name or name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
