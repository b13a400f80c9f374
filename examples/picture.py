r"""Draw the top of a run's trust report as one SVG: its verdicts, its charts, its sources.

    curate warmup --pool pool/ --layers 2 --width 96 --heads 2 --vocab-size 2048 --context 128 --tokens 300k
    curate score --target target.jsonl --pool pool/ --model proxy --holdout 30% --method ekfac --background 500 \\
        --out runs/ekfac
    python examples/picture.py runs/ekfac --out examples/report.svg

`pool/` and `target.jsonl` are those of pretraining.md.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from markupsafe import Markup

import curate
from curate.reports import page, plots
from curate.reports.figures import Figures, Source
from curate.reports.finding import LEVELS, Finding

WIDTH, MARGIN, LINE = 880, 20, 17
COLUMN = (WIDTH - 3 * MARGIN) / 2
STYLE = """
text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); }
.title { font-size: 19px; font-weight: 600; } .soft { fill: var(--soft); } .b { font-weight: 600; }
.end { text-anchor: end; }
.alarm { fill: var(--alarm); } .warning { fill: var(--warning); } .note { fill: var(--note); }
.fine { fill: var(--fine); }
.page { fill: var(--card); stroke: var(--line); }
"""


def style() -> str:
    """Return the style of the report's charts and of the picture, in the page's colours for light and for dark.

    Colours are written out: not every program that shows SVG knows variables.
    """
    css = Path(page.__file__).with_name("page.css").read_text(encoding="utf-8")
    colours, rest = css.split("* {", 1)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+)", part)) for part in colours.split("@media"))
    lines = (line for line in rest.splitlines() if line.startswith("svg "))
    rules = re.sub(r"\bsvg ", "svg svg ", "\n".join(lines)) + STYLE  # a chart is an svg within the picture

    def coloured(values: Mapping[str, str]) -> str:
        return re.sub(r"var\(--([\w-]+)\)", lambda name: values[name[1]], rules)

    return f"{coloured(light)}@media (prefers-color-scheme: dark) {{\n{coloured(dark)}}}\n"


def text(x: float, y: float, words: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.0f}" y="{:.0f}">{}</text>').format(kind, x, y, words)


def placed(chart: Markup, x: float, y: float, width: float) -> Markup:
    """Return a chart of the report at a place of the picture, and as wide as said."""
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', chart)
    assert box is not None
    height = int(box[2]) * width / int(box[1])
    where = Markup('<svg x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" ').format(x, y, width, height)
    return where + Markup(chart.removeprefix("<svg "))


def verdict(finding: Finding, y: float) -> tuple[Markup, float]:
    """Return a verdict's lines and where the next one begins."""
    lines = wrap(finding.says.replace("`", ""), 100)
    shapes = [text(MARGIN, y, finding.level, f"b {finding.level}"), text(100, y, finding.about, "b")]
    shapes.append(text(WIDTH - MARGIN, y, finding.figure, "end b"))
    shapes += [text(100, y + LINE * i, line, "soft") for i, line in enumerate(lines, start=1)]
    return Markup("").join(shapes), y + LINE * (len(lines) + 1) + 9


def sources(chosen: Sequence[Source], low: float, high: float, y: float) -> Markup:
    """Return a row for each source: its name, its documents, its scores, its share of the best."""
    heads = (
        ("source", MARGIN, ""),
        ("documents", 330, "end"),
        ("score", 360, ""),
        ("× its share, in the best 5 %", 860, "end"),
    )
    shapes = [text(x, y, name, f"soft {side}") for name, x, side in heads]
    for i, source in enumerate(chosen, start=1):
        line = y + 24 * i
        shapes += [text(MARGIN, line, str(source.value)), text(330, line, f"{source.documents:,}", "end")]
        shapes += [placed(plots.box(source, low, high), 360, line - 14, 240)]
        shapes += [text(WIDTH - MARGIN, line, f"{source.enrichment or 0:.1f}", "end b")]
    return Markup("").join(shapes)


def draw(figures: Figures, findings: Sequence[Finding], *, verdicts: int = 4, rows: int = 6) -> Markup:
    """Return the picture of one run."""
    shown = sorted(findings, key=lambda f: LEVELS.index(f.level))[:verdicts]
    shapes = [text(MARGIN, 40, f"curate report {figures.path}", "title")]
    facts = f"{figures.method} · {figures.documents:,} documents · {figures.tokens:,} tokens · {len(findings)} checks"
    shapes.append(text(MARGIN, 62, facts, "soft"))
    y = 96.0
    for finding in shown:
        lines, y = verdict(finding, y)
        shapes.append(lines)
    charts = plots.distribution(figures.scores[0]), plots.concentration(figures.scores[0])
    height = COLUMN * plots.HEIGHT / plots.WIDTH
    for i, chart in enumerate(charts):
        shapes.append(placed(chart, MARGIN + i * (COLUMN + MARGIN), y, COLUMN))
    y += height + 34
    chosen = sorted(figures.sources, key=lambda s: -(s.enrichment or 0))[:rows]
    quantiles = figures.scores[0].quantiles
    shapes.append(sources(chosen, quantiles["q01"] or 0.0, quantiles["q99"] or 0.0, y))
    y += 24 * len(chosen) + MARGIN
    head = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {:.0f}" role="img">\n<style>{}</style>\n')
    ground = Markup('<rect class="page" width="100%" height="100%" rx="10"/>\n')
    return head.format(WIDTH, y, Markup(style())) + ground + Markup("\n").join(shapes) + Markup("\n</svg>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("report.svg"))
    options = parser.parse_args()
    judged = curate.report(options.run).runs[0]
    options.out.write_text(draw(judged.figures, judged.findings), encoding="utf-8")


if __name__ == "__main__":
    main()
