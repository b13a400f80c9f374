"""Choose the files of one split of a dataset's folder, as its card or the names of its files tell them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from curate.errors import CurateError

TRAIN = "train"
_DEFAULT = "default"
WORDS = {
    TRAIN: ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Names of splits, and the words by which `datasets` knows them in a path."""


def of_split(names: Sequence[str], split: str | None, *, card: str | None, address: str) -> list[str]:
    """Return the names of one split's files; without a split those of `train`, or all where none is named so.

    `card`: the text of the folder's README.md. Of the configurations that it lists one that is the default stands for
    the dataset, and `split` may be the name of one. Without a card that lists data files, a split is a whole word of
    the path, and files without such a word belong to `train`. Raises CurateError where the split has no file, or where
    the card's splits leave it open which of them is for training.
    """
    configs = _configurations(card, names)
    part = configs.get(split) if split else None
    part, split = (part, None) if part else (next((c for c in configs.values() if c.is_default), None), split)
    every = _merged([c.files for c in configs.values()])
    by_split = (every if part is None or (split and split not in part.files) else part.files) or _by_words(names)
    if part is not None and split is None:
        names = [n for n in names if any(n in files for files in by_split.values())]
    if split is None:
        if TRAIN not in by_split:
            return _of_a_card_without_train(names, by_split, address) if configs else list(names)
        others = set() if configs else set(names) - {n for files in by_split.values() for n in files}
        return [n for n in names if n in by_split[TRAIN] or n in others]
    wanted = by_split.get(split) or by_split.get(_canonical(split)) or {n for n in names if _has_word(n, split)}
    if not wanted:
        known = [*sorted(by_split), *(sorted(configs) if len(configs) > 1 else ())]
        raise CurateError(
            f"{address}: no file of the split {split!r}. Files there: {(', '.join(names) or 'none')[:500]}.",
            hint=f"Splits there: {', '.join(known) or 'none'}.",
        )
    return [n for n in names if n in wanted]


def _of_a_card_without_train(names: Sequence[str], by_split: Mapping[str, set[str]], address: str) -> list[str]:
    """Return the files of the only split of a card that trains by its name (`train_sft`), or of all where none does."""
    train = [split for split in by_split if _split_of(split) == TRAIN]
    if len(train) > 1:
        raise CurateError(
            f"{address}: the dataset's card lists several splits to train on: {', '.join(train)}.",
            hint=f"Name one, or several one after the other: {address}:{train[0]}.",
        )
    return [n for n in names if not train or n in by_split[train[0]]]


def several_configurations(card: str | None, names: Sequence[str]) -> list[str]:
    """Return the names of a card's configurations where there are several and none is the default."""
    configs = _configurations(card, names)
    return [] if len(configs) < 2 or any(c.is_default for c in configs.values()) else list(configs)


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


@dataclass
class _Configuration:
    """A part of a dataset that its card names."""

    files: dict[str, set[str]]
    """By split."""
    is_default: bool


def _configurations(card: str | None, names: Sequence[str]) -> dict[str, _Configuration]:
    """Return the configurations of a card that have files, by name."""
    configs: dict[str, _Configuration] = {}
    for config in _listed(card) if card is not None else []:
        name = str(config.get("config_name") or _DEFAULT)
        files: dict[str, set[str]] = {}
        for split, path in _data_files(config.get("data_files")):
            pattern = str(PurePosixPath(str(config.get("data_dir") or "")) / path)
            if matches := set(filter(re.compile(_regex(pattern)).fullmatch, names)):
                files.setdefault(split, set()).update(matches)
        if files:
            earlier = configs[name].files if name in configs else {}
            is_default = name == _DEFAULT or config.get("default") is True
            configs[name] = _Configuration(_merged([earlier, files]), is_default)
    return configs


def _merged(several: Iterable[Mapping[str, set[str]]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for split, files in (item for by_split in several for item in by_split.items()):
        merged.setdefault(split, set()).update(files)
    return merged


def _listed(card: str) -> list[dict[str, Any]]:
    """Return what a card lists as its configurations."""
    front = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        content: Any = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:  # the card of a dataset is for people, too
        return []
    configs = content.get("configs") if isinstance(content, dict) else None
    return [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []


def _data_files(data_files: Any) -> Iterator[tuple[str, str]]:
    """Yield (split, pattern): of a list with a split each, an object with a key for each, or patterns alone."""
    if isinstance(data_files, dict) and "path" not in data_files:
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    for item in data_files if isinstance(data_files, list) else [data_files]:
        is_split = isinstance(item, dict)
        split, paths = (str(item.get("split", TRAIN)), item.get("path")) if is_split else (TRAIN, item)
        yield from ((split, path) for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str))


def _regex(pattern: str) -> str:
    """Return the regular expression of a glob: `*` stays in a folder, `**` does not."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    letters = (p.replace("[!", "[^", 1) if p.startswith("[") and p.endswith("]") else re.escape(p) for p in pieces)
    return "".join(meaning.get(p) or letter for p, letter in zip(pieces, letters, strict=True))
