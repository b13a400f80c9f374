"""Run the blocks of a page of Markdown as its reader would, at a small size."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import curate.cli

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What keeps a walk-through small: options that follow a command's own, and texts that stand for others.
NEW_PROXY = "--layers 1 --width 32 --heads 2 --vocab-size 400 --context 64 --batch-tokens 512"
SMALL = {
    "warmup": "--tokens 8k",
    "score": "--background 16",
    "cascade": "--background 16",
    "rescore": "--background 16",
    "index": "--background 16",
    "validate": "--documents 24 --subsets 4 --queries 3 --removals 1 --drop 10% --resamples 100",
    "verify": "--seeds 1 --points 1 --tokens 2k --other-documents 8",
}
REPLACED = {
    'package="asyncio", documents=3000, target_rows=200': 'package="ipaddress", documents=150, target_rows=12',
    "HuggingFaceTB/SmolLM2-135M-Instruct": "instruct",
}


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks of code, in order."""
    return [Block(*match.groups()) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of every command of a block of shell, comments and prompts left out."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def small(words: list[str]) -> list[str]:
    """Return a command of `curate` with the options that make it small."""
    more = [] if "--epochs" in words else SMALL.get(words[1], "").split()
    if words[1] == "warmup" and "--model" not in words:
        more += NEW_PROXY.split()
    return [*words[1:], *more]


def walk(page: Path) -> None:
    """Run a page's blocks `sh` and `python` in the current folder, commands in this process."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        code = block.code
        for text, other in REPLACED.items():
            code = code.replace(text, other)
        if block.language == "python":
            exec(compile(code, str(page), "exec"), names)
        elif block.language == "sh":
            for words in commands(code):
                run(words)


def run(words: list[str]) -> None:
    """Run one command of `curate`. Raises AssertionError where it fails, or is another program."""
    assert words[0] == "curate", f"{shlex.join(words)} is no command of curate"
    try:
        curate.cli.main(small(words))
    except SystemExit as error:
        raise AssertionError(f"{shlex.join(words)} ended with exit code {error.code}") from error
