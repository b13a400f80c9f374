"""Words without case, punctuation and variants of width: of one text, and in the bytes of many at once."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from curate.documents.hashed_words import PADDING

# Scripts written without spaces: each character counts as a word, so that an n-gram is n characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003134f]+"
)
# \w leaves out the vowel signs of Indic scripts and combining marks, which would cut words to pieces.
_IN_WORDS = "\\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff"
_WORD = re.compile(f"[{_IN_WORDS}]+")
_BETWEEN = re.compile(f"[^\\x00-\\x7f{_IN_WORDS}]+")
"""What is beyond ASCII and in no word."""
_ASCII_WORD = re.compile(r"\w+", re.ASCII)  # three times as fast, and most text is ASCII
# Quotes, dashes, dots, the unbreakable space: no part of a word in any form, and often all there is beyond ASCII.
_PUNCTUATION = re.compile("[\u00a0\u00ab\u00bb\u2010-\u2016\u2018-\u2027\u2030\u2039\u203a]")
_MOST_KEPT = 48  # bytes of a stretch that is kept: a word of most scripts


def words(text: str) -> list[str]:
    """Split into words without case, punctuation and width variants; unspaced scripts into characters."""
    text = _without_punctuation(text)
    return _ASCII_WORD.findall(text.lower()) if text.isascii() else _WORD.findall(_folded(text))


def is_unspaced(word: str) -> bool:
    """Return whether a word is a character of a script without spaces."""
    return len(word) == 1 and _UNSPACED.match(word) is not None


def folded_block(block: Sequence[bytes]) -> tuple[bytes, np.ndarray]:
    """Return texts in UTF-8, each but the last with its padding, in which `hashed_words` finds the words of `words`.

    Also where each ends there, its padding included. What is ASCII stays as it is; the stretches between, which are
    mostly words and marks that come again and again, are folded each by itself.
    """
    joined = PADDING.join(block)
    ends = np.cumsum([len(text) + len(PADDING) for text in block])
    if joined.isascii():
        return joined, ends
    beyond = np.frombuffer(joined, np.int8) < 0
    edges = np.flatnonzero(beyond[1:] != beyond[:-1]) + 1
    edges = np.concatenate([np.zeros(1 + beyond[0], np.int64), edges, [len(joined)]])
    pieces = [joined[begin:end] for begin, end in pairwise(edges.tolist())]
    pieces[1::2] = _folded_stretches(pieces)
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    changes = np.cumsum(sizes - np.diff(edges))
    folded = b"".join(pieces)
    return folded, ends + np.concatenate([[0], changes])[np.searchsorted(edges[:-1], ends)]


def _folded_stretches(pieces: list[bytes]) -> list[bytes]:
    """Return every second piece folded; where one begins with a mark, the character before leaves its own piece."""
    stretches = []
    for i, folded in enumerate(map(_stretch, pieces[1::2])):
        if folded is None:
            before = pieces[2 * i]
            pieces[2 * i] = before[:-1]
            folded = _fold((before[-1:] + pieces[2 * i + 1]).decode("utf-8", "surrogatepass"))
        stretches.append(folded)
    return stretches


def _stretch(stretch: bytes) -> bytes | None:
    return _kept_stretch(stretch) if len(stretch) <= _MOST_KEPT else _fold_stretch(stretch)


def _fold_stretch(stretch: bytes) -> bytes | None:
    """Fold what lies between ASCII; None where it begins with a mark on the character before."""
    text = stretch.decode("utf-8", "surrogatepass")
    if unicodedata.combining(unicodedata.normalize("NFKD", text[0])[0]):
        return None
    return _fold(text)


_kept_stretch = lru_cache(maxsize=1 << 16)(_fold_stretch)


def _fold(text: str) -> bytes:
    return _BETWEEN.sub(" ", _folded(_without_punctuation(text))).encode("utf-8", "surrogatepass")


def _without_punctuation(text: str) -> str:
    return text if text.isascii() else _PUNCTUATION.sub(" ", text)


def _folded(text: str) -> str:
    """Return a text without case and variants, its unspaced characters apart."""
    return _UNSPACED.sub(_apart, unicodedata.normalize("NFKC", text).casefold())


def _apart(characters: re.Match[str]) -> str:
    return f" {' '.join(characters[0])} "
