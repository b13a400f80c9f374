import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from subprocess import run as run_process

import pyarrow as pa
import pytest

import curate
from curate.documents import Fields, documents, open_pool
from curate.errors import CurateError
from curate.reports.excerpts import SHOWN
from curate.reports.report import report
from curate.schema import Document
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</style></div></body></html><h1>gone",
    "{{ 7 * 7 }}{% raw %}",
    "a\u202edcb\u0000e\u0007f\u2066g",
    "&lt;b&gt; & \"quoted\" 'text'",
    "א עברית \u200f text",
    "x" * 200_000,
    "]]><!-- <![CDATA[",
]


class Page(HTMLParser):
    """What a browser would make of the page: its elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    """A run over a pool of texts that try to be more than text; so do its sources, ids and groups."""
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"id": t[:40], "text": t, "source": t[:60]}) + "\n" for t in HOSTILE))
    opened = open_pool(str(pool))
    found = [d for d in documents(opened.shards[0], Fields()) if isinstance(d, Document)]
    group = 'score_<svg onload="x">'
    table = rows(
        "pool.jsonl",
        0,
        [float(i) for i in range(len(found))],
        doc_id=[d.doc_id for d in found],
        content_hash=[d.content_hash for d in found],
        preview=[d.preview for d in found],
        source=[d.metadata["source"] for d in found],
        **{group: [float(-i) for i in range(len(found))]},
    )
    fingerprints = {**FINGERPRINTS, "pool": opened.fingerprint()}
    run = Run.start(
        tmp_path / "<b>run</b>",
        settings={**SETTINGS, "pool": [str(pool)], "model": "<i>m</i>"},
        fingerprints=fingerprints,
    )
    write(run, "pool.jsonl", 0, table)
    run.finish({"documents": len(found), "tokens": 0, "skipped": {}})
    return run


def test_hostile_texts_stay_text(hostile: Run, tmp_path: Path) -> None:
    made = report([hostile, hostile], out=tmp_path / "report.html")
    assert made.out is not None
    html = made.out.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("h1") == 1
    assert page.tags.count("i") == 0
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [v for name, v in page.attributes if name in ("href", "src") and v and v[0] != "#" and v != "data:,"]
    assert not [c for c in html if ord(c) < 32 and c not in "\n\t"]
    assert not set("\u202e\u2066") & set(html)
    for text in ("</script><script>alert(1)</script>", "{{ 7 * 7 }}{% raw %}", "]]><!-- <![CDATA[", "א עברית"):
        assert text in page.text
    assert "a\\u202edcb\u2400e\u2407f\\u2066g" in page.text
    assert "x" * SHOWN in page.text
    assert "x" * (SHOWN + 1) not in page.text
    assert "more characters in the pool" in page.text


def test_the_page_needs_nothing_else_and_is_the_same_bytes_every_time(hostile: Run, large: Run, tmp_path: Path) -> None:
    for run in (hostile, large):
        pages = []
        for name in ("one.html", "two.html"):
            made = report(run, out=tmp_path / name)
            assert made.out is not None
            pages.append(made.out.read_bytes())
        assert pages[0] == pages[1]
        assert not re.search(rb"""(src|href)=["']?(https?:)?//|@import|url\(""", pages[0])


def test_documents_come_with_the_pools_own_text_or_say_why_not(hostile: Run, large: Run, tmp_path: Path) -> None:
    (read,) = report(hostile, out=tmp_path / "a.html").runs
    assert read.figures.texts_note is None
    best = [e for e in read.figures.excerpts if e.best and e.column == "score"]
    assert [e.text for e in best][:2] == [HOSTILE[-1], "x" * SHOWN]
    assert best[1].cut == 200_000 - SHOWN
    worst = [e for e in read.figures.excerpts if not e.best]
    assert [e.text for e in worst][:2] == HOSTILE[:2]
    (group,) = {e.column for e in read.figures.excerpts} - {"score"}
    assert next(e for e in read.figures.excerpts if e.column == group).text == HOSTILE[0]

    (gone,) = report(large, out=tmp_path / "b.html").runs
    assert "pool cannot be read" in (gone.figures.texts_note or "")
    whole = large.scores().collect().sort("score", descending=True)
    best = [e for e in gone.figures.excerpts if e.best and e.column == "score"]
    assert [e.score for e in best] == pytest.approx(whole["score"].head(10).to_list(), rel=1e-5)
    assert {e.text for e in best} == {"…"}


def test_documents_of_a_run_by_token_are_coloured_by_it(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", settings=SETTINGS, fingerprints=FINGERPRINTS)
    texts = [["<b>", " good", "\n", " bad"], ["x" * SHOWN, "y"], []]
    parts = [[0.5, 2.0, 0.0, -1.0], [1.0, 1.0], []]
    halves = [[0.25, 1.0, 0.0, -4.0], [1.0, 1.0], []]
    table = rows("a", 0, [1.5, 2.0, 0.0], score_law=[-2.75, 2.0, 0.0], token_texts=texts)
    for name, lists in (("token_scores", parts), ("token_scores_law", halves)):
        table = table.append_column(name, pa.array(lists, pa.list_(pa.float32())))
    write(run, "a", 0, table)
    run.finish({"documents": 3, "tokens": 6, "skipped": {}})
    (judged,) = report(run, out=tmp_path / "a.html").runs
    shown = {(e.column, e.best, e.row): [(t.text, t.score) for t in e.tokens] for e in judged.figures.excerpts}
    assert shown["score", True, 0] == list(zip(texts[0], parts[0], strict=True))
    assert shown["score_law", True, 0] == list(zip(texts[0], halves[0], strict=True))
    assert shown["score", False, 1] == [("x" * SHOWN, 1.0)]
    html = (tmp_path / "a.html").read_text()
    assert re.search(r'<span title="2" style="background: rgba\(30, 150, 70, 0\.75\)"> good</span>', html)
    assert re.search(r'<span title="\W?1" style="background: rgba\(210, 50, 40, 0\.53\)"> bad</span>', html)
    assert "&lt;b&gt;" in html
    assert not [e for e in report(run, out=tmp_path / "a.html", texts=False).runs[0].figures.excerpts if e.tokens]


def test_a_pool_that_changed_since_is_not_shown_as_the_one_scored(hostile: Run, tmp_path: Path) -> None:
    path = Path(hostile.record.pool[0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{}", *lines[1:]]) + "\n")
    (read,) = report(hostile, out=tmp_path / "a.html").runs
    assert "pool cannot be read" in (read.figures.texts_note or "")
    assert all(len(e.text) <= 160 for e in read.figures.excerpts)


def test_a_file_that_no_report_wrote_is_not_replaced(hostile: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<!DOCTYPE html>my own")
    with pytest.raises(CurateError, match="no report wrote it"):
        report(hostile, out=mine)
    with pytest.raises(CurateError, match="is a folder"):
        report(hostile, out=tmp_path)
    assert report(hostile, out=tmp_path / "new" / "r.html").out == report(hostile, out=tmp_path / "new" / "r.html").out


def test_figures_alone_read_no_pool_and_write_nothing(large: Run) -> None:
    made = curate.report(large)
    assert (made.out, made.runs[0].figures.excerpts) == (None, ())
    assert json.loads(json.dumps(made.record()))["runs"][0]["figures"]["documents"] == 100_000


def test_a_report_never_imports_torch(hostile: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from curate.reports.report import report;"
        f" report({str(hostile.path)!r}, out={str(tmp_path / 'r.html')!r}); sys.exit('torch' in sys.modules)"
    )
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
