"""The command line. Each module of this folder without a leading underscore is a command of its own name.

A command parses, calls one library function and prints; heavy imports happen inside it, so that `curate --help` is
instant and never imports torch.
"""

import os
import shlex
import signal
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click

from curate import __version__
from curate.errors import CurateError, disk_is_full, forbidden, memory_is_out, nearest

# The first lines of help follow the way of the work; a command that is not listed here comes after, by name.
ORDER = (
    *(
        "quickstart",
        "warmup",
        "score",
        "predict",
        "cascade",
        "rescore",
        "report",
        "why",
        "merge",
        "select",
        "validate",
        "verify",
    ),
    *("index", "query", "sql", "status", "bench"),
)


class Commands(click.Group):
    """The commands of this folder, each imported only when it is called or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_")}
        return [c for c in ORDER if c in names] + sorted(names - set(ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return import_module(f"curate.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            ctx.fail(f"There is no command {args[0]!r}. {nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="curate")
def group() -> None:
    """Choose training data by its measured influence on a target.

    The target is a file of text that a model should become good at; the pool holds the documents to choose from; the
    proxy is a small model whose gradients tell how much each document would help.

    \b
    curate quickstart                                 # try it all
    curate score  --target val.jsonl --pool pile/     # how much each helps
    curate report                                     # can these scores be trusted?
    curate select --top 5%                            # a dataset to train on, into selected/
    curate sql "SELECT source, avg(score) FROM scores GROUP BY source"

    Every command explains itself with examples: curate COMMAND --help.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line; exit code 0, 1 (failed) or 2 (usage or settings error)."""
    # Before torch loads: threads that wait sleep at once. Spinning for the next product, as they do by default, they
    # are a fifth faster alone, and a third slower than one thread where another process has work.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if args is None:
        _quiet_libraries()
    try:
        group.main(args=args, prog_name="curate", standalone_mode=False)
        sys.stdout.flush()
        if args is None:  # all is done: while libraries end, an interrupt has nothing to stop, and would be a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except click.exceptions.Abort:
        click.echo(f"Interrupted.{_after_interrupt(sys.argv[1:] if args is None else args)}", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        if disk_is_full(error):
            error = _full(sys.argv[1:] if args is None else args)
        elif memory_is_out(error):
            error = CurateError(
                f"Memory ran out: {str(error).strip().splitlines()[0] if str(error).strip() else 'nothing was left'}",
                hint="What was finished is kept, and the same command goes on. Take a smaller --dim, --dtype bfloat16"
                " or a smaller proxy, or end what else is in the device's memory.",
            )
        elif isinstance(error, UnicodeEncodeError):
            error = CurateError(
                f"The encoding of the output, {error.encoding}, has no {error.object[error.start]!a}.",
                hint="Give the command another: PYTHONIOENCODING=utf-8 curate …",
            )
        elif not isinstance(error, CurateError):
            if (refusal := forbidden(error)) is None:
                raise
            error = CurateError(
                f"A file may not be read or written: {refusal}",
                hint="Give this user the right to it, or name another folder. What was finished is kept, and the same"
                " command goes on.",
            )
        from curate.cli._output import print_error

        print_error(error)
        sys.exit(error.exit_code)


def _quiet_libraries() -> None:
    """Keep other packages' warnings and progress bars off the screen, unless the environment says otherwise."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DATASETS_VERBOSITY", "error"),
        ("HF_HUB_VERBOSITY", "error"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _after_interrupt(args: list[str]) -> str:
    """Say what the same command does when it is given again after Ctrl-C; '' where there is nothing to go on with."""
    command = group.get_command(click.Context(group), args[0]) if args and not args[0].startswith("-") else None
    if command is None or "--dry-run" in args:
        return ""
    if any("--continue" in parameter.opts for parameter in command.params) or args[0] == "merge":
        return " What was finished is kept: the same command, given again, goes on from there."
    return " The same command, given again, begins anew." if args[0] == "warmup" else ""


def _full(args: list[str]) -> CurateError:
    """Return the error of a full disk; what waits to be printed is given up, since it may have nowhere to go."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CurateError(
        "The disk is full, or its quota: what was finished is kept, and nothing half-written is left.",
        hint=f"Make room, then give the same command again: {shlex.join(['curate', *args])}",
    )
