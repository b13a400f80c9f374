"""What commands that train ask alike: a recipe from a file, single settings, and --config."""

from typing import TYPE_CHECKING, Any

from curate.errors import SettingsError

if TYPE_CHECKING:
    from curate.training.recipe import Recipe


def make_recipe(options: dict[str, Any], beside: dict[str, Any]) -> "Recipe":
    """Take `recipe` and `given` (--set) out of a command's parsed options; what is given by name wins over the file."""
    from curate.training.recipe import Recipe

    whole = dict(beside)
    for text in options.pop("given"):
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text}: expected NAME=VALUE.")
        whole[name.strip()] = value.strip()
    if (file := options.pop("recipe")) is not None:
        whole["recipe"] = file
    return Recipe.gathered(whole)


def parse_share(text: str, flag: str) -> float:
    """Turn `1%` or `0.01` into a share. Raises SettingsError naming the flag."""
    from curate.selection.values import parse_share as parse

    try:
        return parse(text)
    except ValueError as error:
        raise SettingsError(f"{flag}: {error}") from None
