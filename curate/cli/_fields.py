"""The options that say which columns hold what, the same for every command that reads documents."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from curate.documents import Fields

F = TypeVar("F", bound=Callable[..., Any])
_NAMES = ("text", "messages", "prompt", "completion", "id")


def fields_options(command: F) -> F:
    """Add --text-column, --messages-column, --prompt-column, --completion-column, --id-column and --txt-lines."""
    lines_help = "Every line of a .txt file is a document, not the whole file."
    command = click.option("--txt-lines", is_flag=True, help=lines_help)(command)
    for name in reversed(_NAMES):
        option = click.option(f"--{name}-column", default=name, help=f"Column of the {name}.", show_default=True)
        command = option(command)
    return command


def make_fields(options: dict[str, Any]) -> "Fields":
    """Take those options out of a command's parsed options."""
    from curate.documents import Fields

    columns = {name: options.pop(f"{name}_column") for name in _NAMES}
    return Fields(**columns, txt_lines=options.pop("txt_lines"))
