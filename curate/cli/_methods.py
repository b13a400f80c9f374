"""The options of `curate score` that depend on --method: a method's own settings become flags."""

from itertools import pairwise
from pathlib import Path

import click

from curate import methods
from curate.cli._settings import METHOD, flags_of
from curate.errors import SettingsError, nearest
from curate.settings import read_yaml

_OPTIONS = "curate.options of the method"


class MethodCommand(click.Command):
    """A command with the options of a method: of --method, in --config, or of the run of --continue or --fit-from."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name = _named(args)
        if name is not None or not {"--help", "-h"} & set(args):
            kind = methods.get(methods.spelled(name or methods.DEFAULT)).Settings
            taken_flags = {flag for p in self.params for flag in p.opts}
            method_flags = [flag for flag in flags_of(kind, undocumented=True) if not taken_flags & set(flag.flags)]
            ctx.meta[METHOD] = kind
            ctx.meta[_OPTIONS] = [flag.click_option() for flag in method_flags]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = nearest(error.option_name, [flag for p in self.get_params(ctx) for flag in p.opts])
            method = name or methods.DEFAULT
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
    for flag in ("--continue", "--fit-from"):
        if (path := _path(values.get(flag), "run.json")) is not None:
            return read_yaml(path)["settings"].get("method")
    return None


def _path(address: str | None, *inside: str) -> Path | None:
    path = Path(address, *inside) if address else None
    return path if path is not None and path.is_file() else None
