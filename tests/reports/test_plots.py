from xml.etree import ElementTree

import pytest

from curate.reports import plots
from curate.reports.measure import measure
from curate.scores.run import Run


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-0.31, 1.7, [0, 0.5, 1, 1.5]),
        (0, 0.0042, [0, 0.001, 0.002, 0.003, 0.004]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_within(low: float, high: float, found: list[float]) -> None:
    assert plots.ticks(low, high, 3) == found


def test_every_plot_is_well_formed_lies_in_its_picture_and_says_what_it_shows(large: Run) -> None:
    figures = measure(large)
    drawn = [
        plots.distribution(figures.scores[0]),
        plots.small_distribution(figures.scores[1]),
        plots.concentration(figures.scores[0]),
        *(plots.bands(b, name) for name, b in figures.bands.items()),
        *(plots.box(s, -1.0, 1.0) for s in figures.sources),
    ]
    for svg in drawn:
        root = ElementTree.fromstring(str(svg))
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert root.attrib["aria-label"]
        for shape in root.iter("rect"):
            x, y = float(shape.attrib["x"]), float(shape.attrib["y"])
            assert 0 <= x <= x + float(shape.attrib["width"]) <= width + 0.5
            assert 0 <= y <= y + float(shape.attrib["height"]) <= height + 0.5


def test_the_bars_of_a_histogram_are_as_high_as_their_counts(large: Run) -> None:
    scores = measure(large).scores[0]
    root = ElementTree.fromstring(str(plots.distribution(scores)))
    heights = [float(r.attrib["height"]) for r in root.iter("rect")]
    scale = max(heights) / max(scores.histogram.counts)
    assert heights == pytest.approx([scale * n for n in scores.histogram.counts], abs=0.06)
