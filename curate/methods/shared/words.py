"""Words of any script, for methods that read a document's text instead of its tokens."""

import re
import unicodedata
from functools import cache

_ASCII = re.compile(r"\w\w+", re.ASCII)
# Scripts whose words are not set apart by spaces (Han, kana, Thai, Lao, Burmese, Khmer), and Hangul, whose spaces set
# apart phrases: what Lucene's CJK analyser takes for bigrams, and its neighbours.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1050-\u108f\u1780-\u17d3\u1100-\u11ff\u3005-\u3007"
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u318e\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_ANY_UNSPACED = re.compile(f"[{_UNSPACED}]")
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]{{2,}}")


def words(text: str) -> list[str]:
    """Return the words of at least two characters in order; the case is the caller's business.

    Compatible forms are one (NFKC: full-width letters, composed accents). A combining mark belongs to the letter before
    it, or the words of Indic scripts would be cut. Runs without spaces (Chinese, Japanese, Korean, Thai …) become
    their overlapping pairs of characters: 東京都 → 東京, 京都; a run of one character is that character.
    """
    if text.isascii():
        return _ASCII.findall(text)
    text = unicodedata.normalize("NFKC", text)
    runs = _any_script().findall(text)
    if not _ANY_UNSPACED.search(text):
        return runs
    return [word for run in runs for word in ([run] if run.isascii() else _split(run))]


def _split(run: str) -> list[str]:
    parts: list[str] = []
    for match in _RUNS.finditer(run):
        unspaced = match.group(1)
        if unspaced is None:
            parts.append(match.group())
        elif len(unspaced) == 1:
            parts.append(unspaced)
        else:
            parts += [unspaced[i : i + 2] for i in range(len(unspaced) - 1)]
    return parts


@cache
def _any_script() -> re.Pattern[str]:
    """Match a run of two or more letters, digits and marks, or a single character of a script without spaces."""
    marks = [c for c in range(0x300, 0x20000) if unicodedata.category(chr(c)).startswith("M")]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    joined = "".join(f"{chr(begin)}-{chr(end)}" for begin, end in ranges)
    joiners = "\u200c\u200d"  # within words of Persian and of Indic scripts
    return re.compile(rf"[\w{joined}{joiners}]{{2,}}|[{_UNSPACED}]")
