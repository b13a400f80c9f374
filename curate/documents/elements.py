"""Cut the text of a file of JSON that is not one value a line: an array of rows, or values that span lines."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from curate.documents.lines import BOM, Truncated

HEAD = 1 << 10
"""Bytes of a file that tell how its rows are laid out."""
_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[")
_TURNS = re.compile(
    rb'(\xef\xbb\xbf)?\s*\[[ \t]*\{[ \t]*("(content|value)"[ \t]*:[ \t]*"(?:[^"\\\n]|\\.)*+"[ \t]*,[ \t]*)?'
    rb'"(role|from)"[ \t]*:[ \t]*"(system|developer|user|human|assistant|gpt)"'
)
"""The beginning of a line that is a list of turns; an array of rows that begins so would hold turns without a text."""
_OBJECT_OVER_LINES = re.compile(rb"(\xef\xbb\xbf)?\s*\{[ \t\r]*\n")
# The first group is a string that is not whole yet; the second one that its line's end cuts.
_TOKEN = re.compile(
    rb'"(?:[^"\\\n]++|\\.)*+"|(")(?:[^"\\\n]++|\\.)*+\\?\Z|("(?:[^"\\\n]++|\\.)*+)|[\[\]{},]', re.DOTALL
)
_BETWEEN = b" \t\r\n,"
_LINE_END = re.compile(rb"\s*\n\s*")


def is_array(head: bytes) -> bool:
    """Return whether a file that begins so holds an array of rows."""
    return _ARRAY.match(head) is not None and _TURNS.match(head) is None


def spans_lines(head: bytes) -> bool:
    """Return whether a file that begins so holds an array, or an object over several lines."""
    return is_array(head) or _OBJECT_OVER_LINES.match(head) is not None


def with_head(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return a text's first bytes, and all of its blocks."""
    head = b""
    try:
        for block in blocks:
            head += block
            if len(head) >= HEAD:
                break
    except Truncated as broken:  # what comes before the damage is read first
        return head[:HEAD], _broken_off(head, broken)
    return head[:HEAD], chain((head,), blocks)


def _broken_off(head: bytes, error: Truncated) -> Iterator[bytes]:
    yield head
    raise error


def elements(blocks: Iterator[bytes], is_json: Callable[[bytes], bool]) -> Iterator[tuple[int, bytes]]:
    """Yield (number of its first line, text) of every element of an array, and of every value outside of arrays.

    Those of several lines come on one, where `is_json` says that they are whole. One element and a block are in memory.
    Raises Truncated where the text ends within an array or object; the element that it cuts is left out.
    """
    cutter, number = _Cutter(), 1
    for block in chain(blocks, (None,)):
        for piece in cutter.feed(block):
            piece = piece.removeprefix(BOM) if number == 1 else piece
            element = piece.strip(_BETWEEN)
            if element:
                first = number + piece.count(b"\n", 0, len(piece) - len(piece.lstrip(_BETWEEN)))
                yield first, _LINE_END.sub(b" ", element) if b"\n" in element and is_json(element) else element
            number += piece.count(b"\n")


@dataclass
class _Cutter:
    """Cuts a text, block by block, at the ends of its elements."""

    text: bytes = b""
    """From the end of the last element on."""
    scanned: int = 0
    """Bytes of it whose brackets have been counted."""
    depth: int = 0
    """Brackets that are open there."""
    in_array: bool = False
    """Whether the outermost of them is an array's."""

    def feed(self, block: bytes | None) -> Iterator[bytes]:
        """Yield the pieces that a block completes, separators among them; None: the text has ended."""
        if block is None:
            if self.depth:
                raise Truncated(f"the JSON {'array' if self.in_array else 'object'} is never closed")
            yield self.text
            return
        self.text += block
        begin, end = 0, len(self.text)
        for token in _TOKEN.finditer(self.text, self.scanned):
            if token[1] is not None:  # a string that goes on in the next block
                end = token.start()
                break
            cut = self._cut(token[0], token.start(), token.end())
            if token[2] is not None and self.in_array and b"\n" not in self.text[begin : token.end()].lstrip(_BETWEEN):
                # A quote that is never closed, in an element that began on its line: it ends there.
                self.depth, cut = 1, (token.end(), token.end())
            if cut is not None:
                yield self.text[begin : cut[0]]
                begin = cut[1]
        self.text, self.scanned = self.text[begin:], end - begin

    def _cut(self, mark: bytes, start: int, end: int) -> tuple[int, int] | None:
        """Return where a piece ends and the next one begins, at a bracket or comma; None where none does."""
        if mark in (b"[", b"{"):
            self.depth += 1
            if self.depth == 1:
                self.in_array = mark == b"["
                return start, end if self.in_array else start
        elif mark in (b"]", b"}") and self.depth:
            self.depth -= 1
            if self.depth == 0:
                was_array, self.in_array = self.in_array, False
                return start if was_array else end, end
        elif mark == b"," and self.depth == self.in_array:
            return end, end
        return None
