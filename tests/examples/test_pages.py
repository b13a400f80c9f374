"""README and examples: links resolve, commands exist, the reference says what the commands say."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import click
import pyarrow as pa
import pytest

import curate
from curate.cli import group
from curate.scores.run import Run
from tests.examples.walking import ROOT, blocks, commands
from tests.small_runs import rows, write

PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md"))]
REFERENCE = ROOT / "examples" / "reference"
LINK = re.compile(r"\]\(([^)\s]+)\)")
WITH_COMMANDS = [p for p in PAGES if p != REFERENCE / "commands.md"]  # whose examples are the commands' own


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        address, _, anchor = link.partition("#")
        if "://" in address:
            continue
        target = page.parent / address if address else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_has_the_options_that_it_is_given(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for block in blocks(page):
        if block.language not in ("", "sh"):
            continue
        for words in given(block.code):
            if words[0] == "make":
                assert words[1] in targets[1].split(), shlex.join(words)
            if words[0] == "curate":
                parsed(words)


def given(code: str) -> list[list[str]]:
    """Return the commands of a block; none where it is no shell."""
    is_shell = re.search(r"^(curate|make|python) ", code, re.MULTILINE)
    return list(commands(code)) if is_shell else []


def parsed(words: list[str]) -> None:
    """Parse a command, and run nothing."""
    command = group.get_command(click.Context(group), words[1])
    assert command is not None, shlex.join(words)
    command.make_context(words[1], words[2:])


def test_the_command_reference_is_what_the_commands_say() -> None:
    written = runpy.run_path(str(REFERENCE / "commands.py"))["pages"]()
    expected = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    assert "\n".join(written) == expected, "An option has changed: run `make reference`."


def test_the_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_the_picture_of_a_report_has_verdicts_charts_and_sources(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows("a.jsonl", 0, [10.0 - i for i in range(40)], source=pa.array(["<code>", "web & books"] * 20))
    with start("x") as run:
        write(run, "a.jsonl", 0, table)
        run.finish({"documents": 40, "tokens": 8200, "skipped": {}})
    picture = tmp_path / "report.svg"
    monkeypatch.setattr(sys, "argv", ["picture.py", str(tmp_path / "x"), "--out", str(picture)])
    runpy.run_path(str(ROOT / "examples" / "picture.py"), run_name="__main__")
    texts = [e.text for e in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"<code>", "web & books", "best 5 %"} <= set(texts)
    findings = curate.report(tmp_path / "x").runs[0].findings
    assert any(f.about in texts for f in findings)
    assert ElementTree.parse(ROOT / "examples" / "report.svg").getroot().tag.endswith("svg")
