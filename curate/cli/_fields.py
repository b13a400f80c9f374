"""The options that say which columns hold what, the same for every command that reads documents."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from curate.documents import Fields

F = TypeVar("F", bound=Callable[..., Any])
_NAMES = ("text", "messages", "prompt", "completion", "id")


def fields_options(command: F) -> F:
    """Add --text-column, --messages-column, --prompt-column, --completion-column and --id-column."""
    for name in reversed(_NAMES):
        option = click.option(f"--{name}-column", default=name, help=f"Column of the {name}.", show_default=True)
        command = option(command)
    return command


def make_fields(options: dict[str, Any]) -> "Fields":
    """Take those options out of a command's parsed options."""
    from curate.documents import Fields

    return Fields(**{name: options.pop(f"{name}_column") for name in _NAMES})
