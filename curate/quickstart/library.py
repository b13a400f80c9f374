"""Read the standard library's own sources as documents: real text that every Python carries.

A module is cut into pieces that never overlap, so that no piece of the target can be found inside the pool:
its docstring, its functions, its classes; a class too long for one document gives its head and its methods.
"""

import ast
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from curate.errors import CurateError

MIN_CHARS, MAX_CHARS = 200, 2000
# Not text about anything: generated tables, build leftovers, and what is not the standard library. Tests are
# left out since some distributions do not ship them, and the pool should be nearly the same everywhere.
_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "lib-dynload",
    "pydoc_data",
}
_GENERATED = ("_sysconfigdata", "config-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One document cut from the standard library."""

    id: str
    """`email.message:Message.as_string`, unique in the library."""
    text: str
    source: str
    """The top-level package or module it comes from."""
    kind: str
    """docstring, function, class or method."""


def read_library(root: Path | None = None) -> Iterator[Piece]:
    """Yield every piece of the standard library, in an order that depends on file names only.

    `root` defaults to this Python's own library. Files that do not parse (the library keeps some on purpose)
    are skipped. Raises CurateError where there are no sources, as in an interpreter frozen into one file.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    files = sorted(_source_files(root))
    if not files:
        raise CurateError(
            f"There are no Python source files in {root}, the standard library's folder.",
            hint="Run the quickstart with a Python that ships its library's sources.",
        )
    for path in files:
        yield from read_module(path, path.relative_to(root))


def read_module(path: Path, relative: Path) -> Iterator[Piece]:
    """Yield one file's pieces; none for a file that does not parse."""
    try:
        with tokenize.open(path) as file:  # honours the file's own coding line
            code = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a newer parser warns of an old file's escapes
            tree = ast.parse(code)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    parts = relative.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    lines = code.split("\n")  # not splitlines: the parser does not count form feeds as line ends
    seen: dict[str, int] = {}
    for name, kind, text in _pieces(tree, lines):
        text = dedent(text).strip()
        if not MIN_CHARS <= len(text) <= MAX_CHARS:
            continue
        # One name may be defined twice, in the branches of an `if`.
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}~{seen[name]}"
        yield Piece(id=f"{module}:{unique}", text=text, source=relative.with_suffix("").parts[0], kind=kind)


def _source_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in _LEFT_OUT and not f.startswith(_GENERATED)]
        yield from (Path(folder, f) for f in files if f.endswith(".py") and not f.startswith(_GENERATED))


def _pieces(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    docstring = ast.get_docstring(tree)
    if docstring:
        yield "", "docstring", docstring
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, "function", _source(node, lines)
        elif isinstance(node, ast.ClassDef):
            yield from _class_pieces(node, lines)


def _class_pieces(node: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    source = _source(node, lines)
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    if len(source) <= MAX_CHARS or not methods:
        yield node.name, "class", source
        return
    yield node.name, "class", "\n".join(lines[_first_line(node) - 1 : _first_line(methods[0]) - 1])
    for method in methods:
        yield f"{node.name}.{method.name}", "method", _source(method, lines)


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _source(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: list[str]) -> str:
    return "\n".join(lines[_first_line(node) - 1 : node.end_lineno])
