"""The options of `curate score` and `curate index` that depend on --method: its own settings become flags."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from curate import methods
from curate.cli._settings import METHOD, flags_of
from curate.errors import SettingsError, nearest
from curate.settings import read_yaml

_OPTIONS = "curate.options of the method"
STORE = "store.json"


def _all_settings(name: str) -> type:
    return methods.get(name).Settings


class MethodCommand(click.Command):
    """A command with the options of a method: of --method, in --config, or of the folder of --continue and others.

    `settings_of` returns those settings of a method, by its name; None where it has none for the command. `default` is
    the method where none is named.
    """

    def __init__(
        self,
        *args: Any,
        settings_of: Callable[[str], type | None] = _all_settings,
        default: str = methods.DEFAULT,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.settings_of, self.default = settings_of, default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from curate.cli._output import loading

        name = _named(args)
        if name is not None or not {"--help", "-h"} & set(args):
            with loading():
                kind = self.settings_of(methods.spelled(name or self.default))
            taken_flags = {flag for p in self.params for flag in p.opts}
            all_flags = flags_of(kind, undocumented=True) if kind else ()
            method_flags = [flag for flag in all_flags if not taken_flags & set(flag.flags)]
            ctx.meta[METHOD] = kind
            ctx.meta[_OPTIONS] = [flag.click_option() for flag in method_flags]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = nearest(error.option_name, [flag for p in self.get_params(ctx) for flag in p.opts])
            method = name or self.default
            raise SettingsError(f"Method {method!r} has no option {error.option_name}.", hint=hint) from None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(_OPTIONS, [])]


def _named(args: list[str]) -> str | None:
    """Return the method that the arguments name; None without one."""
    joined = [arg.split("=", 1) for arg in args if arg.startswith("--") and "=" in arg]
    values = dict(pairwise(args)) | dict(joined)
    if "--method" in values:
        return values["--method"]
    if (path := _path(values.get("--config"))) is not None:
        content = read_yaml(path)
        if name := content.get("method") or (content.get("settings") or {}).get("method"):
            return str(name)
    records = (
        ("--continue", "cascade.json"),
        ("--continue", "run.json"),
        ("--fit-from", "run.json"),
        ("--continue", STORE),
        ("--store", STORE),
    )
    for flag, record in records:
        if (settings := _recorded(values.get(flag), record)) is not None:
            return settings.get("method", methods.DEFAULT_OF_STORES if record == STORE else None)
    return None


def _recorded(address: str | None, record: str) -> dict[str, Any] | None:
    """Return the settings in a folder's record; None where it has none of that name."""
    if not address:
        return None
    from curate.folders.folder import read_json
    from curate.folders.local import open_folder

    folder = open_folder(address)
    return read_json(folder, record)["settings"] if folder.exists(record) else None


def _path(address: str | None) -> Path | None:
    path = Path(address) if address else None
    return path if path is not None and path.is_file() else None
