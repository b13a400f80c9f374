"""How documents are read: which columns hold what, and what a document of plain text is."""

from pathlib import Path

from curate.errors import SettingsError
from curate.registry import Registry
from curate.settings import Flag, option, settings

COLUMNS = ("text", "messages", "prompt", "completion", "id")
"""The settings that name a column; each is called as its column is by default."""

SHAPES = Registry(
    kind="shape of rows",
    group="curate.shapes",
    folder=Path(__file__).parent / "documents" / "shapes",
    package="curate.documents.shapes",
    leave_out=frozenset({"contract"}),
    needs=("SHAPE",),
)
"""The shapes of rows that there are, by name."""


@settings
class Fields:
    """The columns a document's content and id come from, and what a text file holds.

    Each row is looked at by itself, in the order text, messages, prompt + completion: the first that is there
    and not null is the content, so that a pool may mix forms. Rows of other shapes (`curate.documents.shapes`) are told
    by their own columns.
    """

    text: str = option(default="text", help="Column of the text.")
    messages: str = option(default="messages", help="Column of the messages.")
    prompt: str = option(default="prompt", help="Column of the prompt.")
    completion: str = option(default="completion", help="Column of the completion.")
    id: str = option(default="id", help="Column of the id.")
    format_as: str | None = option(
        default=None,
        help=f"Read every row as this shape: {', '.join(SHAPES.names())}.",
        flags=("--format-as",),
        metavar="SHAPE",
        shown="each row's own",
        repr=False,
    )
    txt_lines: Flag = option(
        default=False,
        help="Every line of a .txt file is a document, not the whole file.",
        flags=("--txt-lines",),
        repr=False,
    )

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for name, column in zip(COLUMNS, self.columns, strict=True):
            if not column:
                raise SettingsError(f"The column of {name!r} must be a name; got {column!r}.")
            if column in taken:
                raise SettingsError(
                    f"The column {column!r} is named for both {taken[column]!r} and {name!r}.",
                    hint="Give each a column of its own.",
                )
            taken[column] = name

    def __str__(self) -> str:
        # Samples are kept under this name: without the settings it is what it was before there were any.
        shape = f" format_as={self.format_as}" if self.format_as else ""
        return f"{self!r}{' txt_lines' if self.txt_lines else ''}{shape}"

    @property
    def columns(self) -> tuple[str, ...]:
        """All five columns: none of them is metadata."""
        return (self.text, self.messages, self.prompt, self.completion, self.id)

    @property
    def renamed(self) -> tuple[str, ...]:
        """The columns named otherwise than by default, so asked for by the user."""
        return tuple(column for name, column in zip(COLUMNS, self.columns, strict=True) if column != name)
