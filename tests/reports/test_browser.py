"""The page in a real browser; where none is installed there is nothing to test it with."""

import shutil
import subprocess
from pathlib import Path

import pytest

from curate.reports.page import MADE_HERE
from curate.reports.report import report
from curate.scores.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-logging=stderr --v=0"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


def said(page: Path, folder: Path) -> list[str]:
    """Open a page, draw it, and return what it wrote to the console."""
    assert CHROMIUM is not None
    folder.mkdir()
    picture = folder / "picture.png"
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}"]
    made = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert picture.stat().st_size > 5000
    return [line for line in made.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_opens_without_a_word_on_the_console(large: Run, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report([large, large], out=page)
    assert said(page, tmp_path / "one") == []
    wrong = tmp_path / "wrong.html"  # a control: the page's own policy must be heard forbidding a script
    wrong.write_text(page.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert MADE_HERE in wrong.read_text(encoding="utf-8")
    assert said(wrong, tmp_path / "two")
