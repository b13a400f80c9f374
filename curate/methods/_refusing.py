"""What a baseline says to a setting that has no meaning for it."""

from curate.errors import SettingsError
from curate.methods._contract import Inputs


def refuse_target_settings(inputs: Inputs, method: str) -> None:
    """Raise SettingsError where a control set or scores by token are asked of a method that does not know the target.

    Ignoring them would give a run whose record says that a control set was subtracted."""
    if inputs.against is not None:
        raise SettingsError(
            f"Method {method!r} does not look at the target, so there is nothing to subtract a control set from.",
            hint="Leave out --against, or choose another --method.",
        )
    refuse_tokens(inputs, method)


def refuse_tokens(inputs: Inputs, method: str) -> None:
    """Raise SettingsError where scores by token are asked of a method that scores whole documents."""
    if inputs.per_token:
        raise SettingsError(
            f"Method {method!r} scores whole documents, not their tokens.",
            hint="Leave out --per-token, or choose another --method.",
        )
