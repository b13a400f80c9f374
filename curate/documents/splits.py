"""Choose the files of one split of a dataset's folder, as its card or the names of its files tell them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from curate.errors import CurateError

TRAIN = "train"
WORDS = {
    TRAIN: ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Names of splits, and the words by which `datasets` knows them in a path."""


def of_split(names: Sequence[str], split: str | None, *, card: str | None, address: str) -> list[str]:
    """Return the names of one split's files; without a split those of `train`, or all where none is named so.

    `card`: the text of the folder's README.md. Without a card that lists data files, a split is a whole word of the
    path, and files without such a word belong to `train`. Raises CurateError where the split has no file.
    """
    listed = _listed(card, names) if card is not None else {}
    by_split = listed or _by_words(names)
    if split is None:
        if TRAIN not in by_split:
            return list(names)
        others = set() if listed else set(names) - {n for files in by_split.values() for n in files}
        return [n for n in names if n in by_split[TRAIN] or n in others]
    wanted = by_split.get(split) or by_split.get(_canonical(split)) or {n for n in names if _has_word(n, split)}
    if not wanted:
        raise CurateError(
            f"{address}: no file of the split {split!r}. Files there: {(', '.join(names) or 'none')[:500]}.",
            hint=f"Splits there: {', '.join(sorted(by_split)) or 'none'}.",
        )
    return [n for n in names if n in wanted]


def _canonical(split: str) -> str:
    return next((name for name, words in WORDS.items() if split.casefold() in words), split)


def _has_word(name: str, word: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", name, re.IGNORECASE) is not None


def _by_words(names: Iterable[str]) -> dict[str, set[str]]:
    by_split: dict[str, set[str]] = {}
    for name in names:
        if split := _split_of(name):
            by_split.setdefault(split, set()).add(name)
    return by_split


def _split_of(name: str) -> str | None:
    """Return the split that a path names; the file's own name comes before its folders'."""
    for part in reversed(PurePosixPath(name).parts):
        if split := next((s for s, words in WORDS.items() if any(_has_word(part, w) for w in words)), None):
            return split
    return None


def _listed(card: str, names: Sequence[str]) -> dict[str, set[str]]:
    """Return the files of every split of every configuration that a card lists."""
    by_split: dict[str, set[str]] = {}
    for split, pattern in _patterns(card):
        matches = re.compile(_regex(pattern)).fullmatch
        if files := {n for n in names if matches(n)}:
            by_split.setdefault(split, set()).update(files)
    return by_split


def _patterns(card: str) -> Iterator[tuple[str, str]]:
    front = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        content: Any = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:  # the card of a dataset is for people, too
        return
    configs = content.get("configs") if isinstance(content, dict) else None
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict):
            for split, path in _data_files(config.get("data_files")):
                yield split, str(PurePosixPath(str(config.get("data_dir") or "")) / path)


def _data_files(data_files: Any) -> Iterator[tuple[str, str]]:
    for item in data_files if isinstance(data_files, list) else [data_files]:
        is_split = isinstance(item, dict)
        split, paths = (str(item.get("split", TRAIN)), item.get("path")) if is_split else (TRAIN, item)
        yield from ((split, path) for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str))


def _regex(pattern: str) -> str:
    """Return the regular expression of a glob: `*` stays in a folder, `**` does not."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(p) or (p if p.startswith("[") and p.endswith("]") else re.escape(p)) for p in pieces)
