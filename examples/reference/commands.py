"""Write the command reference from the commands themselves.

python examples/reference/commands.py           # prints it
make reference                                  # writes examples/reference/commands.md
"""

import inspect
import re
from collections.abc import Iterable, Iterator

import click

from curate import methods
from curate.cli import group
from curate.cli._settings import Flag, flags_of
from curate.selection.filters import Param, named_filters
from curate.training.recipe import Recipe

HEAD = """\
# Commands

Written from the commands by `make reference`; a test keeps it true. `curate COMMAND --help` says the same.

Every command takes `--help`, and most `--json` for programs. Results go to stdout, progress to stderr. Exit codes:
0, 1 (failed), 2 (usage or settings error). Settings come from flags, then from `--config file.yaml`, then from
defaults. The record of a run or a store is a configuration, too: `--config runs/x/run.json --out runs/y`. Numbers are
read alike everywhere: `5%`, `0.05`, `20k`, `1.5B`.

Python takes the same names with the same defaults, side by side or as an object: `curate.score(target="val.jsonl",
pool="pile/", method="ekfac", damping=0.2, holdout="30%")`, `curate.plan_index(pool="pile/")`,
`curate.validate(runs="runs/x", learning_rate=1e-3)`, `curate.warmup(pool="pile/", layers=6)`.
"""


def pages() -> Iterator[str]:
    """Yield the reference, section by section."""
    yield HEAD
    context = click.Context(group, info_name="curate")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield of_command(name, command, context)
        if name == "score":
            yield "### Options of a method\n\n`-s NAME=VALUE` gives each of them, too.\n"
            yield from map(of_method, methods.names())
    yield "## Recipes\n\nThe settings of a training run: lines of a `--recipe` file, or `--set NAME=VALUE`.\n"
    yield table(("setting", ""), ((f.parameter, f.help) for f in flags_of(Recipe)))
    yield "## Filters\n\n`curate select --filter NAME -p PARAMETER=VALUE`; also an `.sql` file of your own.\n"
    yield from map(of_filter, named_filters())


def of_command(name: str, command: click.Command, parent: click.Context) -> str:
    """Return one command's usage, description and options."""
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [p.get_help_record(context) for p in command.params]
    options = table(("option", ""), (r for r in records if r is not None))
    return f"## curate {name}\n\n```\n{usage}\n```\n\n{described(command.help or '')}\n{options}"


def described(text: str) -> str:
    """Return a command's description, its verbatim paragraphs as code."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        verbatim = paragraph.removeprefix("\b\n")
        paragraphs.append(f"```\n{verbatim}\n```" if verbatim != paragraph else paragraph)
    return "\n\n".join(paragraphs) + "\n"


def of_method(name: str) -> str:
    """Return a method's first line and its own options."""
    method = methods.get(name)
    flags = [f for f in flags_of(method.Settings, undocumented=True) if f.parameter != "seed"]
    options = f"\n{table(('option', ''), map(written, flags))}" if flags else ""
    return f"**`{name}`**: {method.description}\n{options}"


def written(flag: Flag) -> tuple[str, str]:
    """Return a flag as help writes it, and what it does."""
    words = "" if flag.switch else f" {flag.option.metavar or flag.words}"
    return ", ".join(flag.flags) + words, flag.help


def of_filter(name: str) -> str:
    """Return what a filter does and its parameters."""
    shipped = named_filters()[name]
    parameters = f"\n{table(('parameter', ''), map(described_parameter, shipped.params))}" if shipped.params else ""
    return f"**`{name}`**: {shipped.summary}\n{parameters}"


def described_parameter(param: Param) -> tuple[str, str]:
    """Return a parameter's name, and what it means with its type and default."""
    default = param.default if param.default == "required" else f"default {param.default}"
    return param.name, f"{param.meaning} ({param.type}; {default})"


def table(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a table whose first column is code."""
    lines = [f"| {header[0]} | {header[1]} |", "| --- | --- |"]
    for name, meaning in rows:
        cells = f"`{name}`", re.sub(r"\s+", " ", meaning)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print("\n".join(pages()), end="")
