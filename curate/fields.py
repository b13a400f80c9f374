"""Which columns hold what."""

from collections.abc import Collection
from dataclasses import fields

from curate.errors import SettingsError
from curate.settings import option, settings


@settings
class Fields:
    """The columns a document's content and id come from.

    Each row is looked at by itself, in the order text, messages, prompt + completion: the first that is there
    and not null is the content, so that a pool may mix forms.
    """

    text: str = option("text", "Column of the text.")
    messages: str = option("messages", "Column of the messages.")
    prompt: str = option("prompt", "Column of the prompt.")
    completion: str = option("completion", "Column of the completion.")
    id: str = option("id", "Column of the id.")

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            if not column:
                raise SettingsError(f"The column of {field.name!r} must be a name; got {column!r}.")
            if column in taken:
                raise SettingsError(
                    f"The column {column!r} is named for both {taken[column]!r} and {field.name!r}.",
                    hint="Give each a column of its own.",
                )
            taken[column] = field.name

    @property
    def columns(self) -> tuple[str, ...]:
        """All five columns: none of them is metadata."""
        return (self.text, self.messages, self.prompt, self.completion, self.id)

    @property
    def renamed(self) -> tuple[str, ...]:
        """The columns named otherwise than by default, so asked for by the user."""
        return tuple(getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default)

    def has_content(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns can be documents."""
        if self.text in columns or self.messages in columns:
            return True
        return self.prompt in columns and self.completion in columns
