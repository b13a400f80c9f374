"""Plots as small SVGs, drawn by hand: a few rectangles and lines, whose colours are the page's.

Coordinates are in a picture of WIDTH by HEIGHT units; classes name the shapes, and the style sheet gives their colours
for light and dark. Every picture has a text for those who do not see it.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from curate.reports.figures import Band, Histogram, Scores, Source
from curate.reports.writing import number, percent

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 22, 22, 34
Scale = Callable[[float], float]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the scale that brings [low, high] to [start, end]; its middle where low is high."""
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int = 3) -> list[float]:
    """Return round numbers within [low, high]: at least `count`, at most twice as many and one."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(m * power for m in (1, 2, 5) if m * power <= rough)
    first_step = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first_step, math.floor(high / step + 1e-9) + 1)]


def distribution(scores: Scores) -> Markup:
    """Draw the histogram of a score column, the best 5 % in colour."""
    h, edge = scores.histogram, scores.quantiles["q95"] or 0.0
    x = linear(h.low, h.high, LEFT, WIDTH - RIGHT)
    y = linear(0, max(h.counts), HEIGHT - BOTTOM, TOP)
    shapes = [_bars(h, x, y, edge), _x_axis(x, ticks(h.low, h.high), "score"), _y_axis(y, ticks(0, max(h.counts)))]
    middle = scores.quantiles["q50"] or 0.0
    sides = (("median", middle, "end"), ("best 5 %", edge, "start"))
    shapes += [_upright(x(value), name, side) for name, value, side in sides if h.low <= value <= h.high]
    label = f"Histogram of {scores.label}: median {number(middle)}, the best 5 % above {number(edge)}."
    return _picture(shapes, label)


def small_distribution(scores: Scores) -> Markup:
    """Draw a histogram without axes, for a row of a table."""
    h = scores.histogram
    x, y = linear(h.low, h.high, 0, 140), linear(0, max(h.counts), 26, 0)
    label = f"Histogram of {scores.label} from {number(h.low)} to {number(h.high)}."
    return _picture([_bars(h, x, y, scores.quantiles["q95"] or 0.0)], label, size=(140, 26), kind="spark")


def concentration(scores: Scores) -> Markup:
    """Draw the share of Σ|score| that the largest documents hold; the dashed line is equal shares."""
    x = linear(math.log(0.001), 0, LEFT, WIDTH - RIGHT)
    y = linear(0, 1, HEIGHT - BOTTOM, TOP)
    points = [(x(math.log(share)), y(held)) for share, held in scores.concentration]
    equal = [(x(math.log(share)), y(share)) for share, _ in scores.concentration]
    shares = (0.001, 0.01, 0.1, 1.0)
    shapes = [
        Markup('<path class="area" d="{}L{:.1f} {:.1f}L{:.1f} {:.1f}Z"/>').format(
            _path(points), points[-1][0], y(0), points[0][0], y(0)
        ),
        Markup('<path class="line" d="{}"/><path class="dashed" d="{}"/>').format(_path(points), _path(equal)),
        _x_axis(lambda share: x(math.log(share)), shares, "documents of largest |score|", percent),
        _y_axis(y, (0, 0.5, 1), percent),
        _upright(x(math.log(0.01)), f"1 %: {percent(scores.mass)}", "start"),
    ]
    return _picture(shapes, f"The 1 % of documents with the largest |score| hold {percent(scores.mass)} of its sum.")


def bands(parts: Sequence[Band], name: str) -> Markup:
    """Draw the score along a variable: its median, the middle half and the middle 80 %."""
    low = min(b.quantiles[0] for b in parts)
    high = max(b.quantiles[-1] for b in parts)
    y = linear(low, high, HEIGHT - BOTTOM, TOP)
    x = linear(0, len(parts), LEFT, WIDTH - RIGHT)

    def area(lower: int, upper: int) -> str:
        # Forth along the upper quantile, back along the lower one.
        upper_edge = [(x(i + 0.5), y(b.quantiles[upper])) for i, b in enumerate(parts)]
        lower_edge = [(x(i + 0.5), y(b.quantiles[lower])) for i, b in reversed(list(enumerate(parts)))]
        return _path([*upper_edge, *lower_edge]) + "Z"

    middle = _path([(x(i + 0.5), y(b.quantiles[2])) for i, b in enumerate(parts)])
    at = [0, len(parts) // 3, 2 * len(parts) // 3, len(parts) - 1]
    marks = {i + 0.5: (parts[i].low + parts[i].high) / 2 for i in at}
    shapes = [
        Markup('<path class="pale" d="{}"/><path class="area" d="{}"/>').format(area(0, 4), area(1, 3)),
        Markup('<path class="line" d="{}"/>').format(middle),
        _x_axis(x, list(marks), f"{name} ({len(parts)} parts of like size)", lambda m: number(marks[m], 2)),
        _y_axis(y, ticks(low, high)),
        Markup('<path class="zero" d="M{} {:.1f}H{}"/>').format(LEFT, y(0), WIDTH - RIGHT) if low < 0 < high else "",
    ]
    return _picture(shapes, f"The score along {name}: median, middle half and middle 80 % of {len(parts)} parts.")


def box(source: Source, low: float, high: float) -> Markup:
    """Draw one source's quantiles on the scale of all: 5 to 95 % a line, 25 to 75 % a box, the median a mark."""
    x = linear(low, high, 2, 218)
    q = {name: x(min(high, max(low, value or 0.0))) for name, value in source.quantiles.items()}
    shapes = [
        Markup('<path class="zero" d="M{:.1f} 0V20"/>').format(x(0)) if low < 0 < high else "",
        Markup('<path class="whisker" d="M{:.1f} 10H{:.1f}"/>').format(q["q05"], q["q95"]),
        Markup('<rect class="bar" x="{:.1f}" y="5" width="{:.1f}" height="10" rx="2"/>').format(
            q["q25"], max(1.0, q["q75"] - q["q25"])
        ),
        Markup('<path class="median" d="M{:.1f} 2V18"/>').format(q["q50"]),
    ]
    label = f"Score: median {number(source.quantiles['q50'])}, middle half {number(source.quantiles['q25'])} to "
    return _picture(shapes, label + number(source.quantiles["q75"]), size=(220, 20), kind="spark")


def _bars(h: Histogram, x: Scale, y: Scale, edge: float) -> Markup:
    width = (h.high - h.low) / len(h.counts)
    base, shapes = y(0), []
    for i, count in enumerate(h.counts):
        start, end = (x(h.low + width * j) for j in (i, i + 1))
        if h.low == h.high:
            start, end = x(h.low) - 4, x(h.low) + 4
        kind = "best" if width and h.low + width * (i + 0.5) >= edge else "bar"
        shapes.append(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                kind, start, y(count), max(0.5, end - start - 0.6), base - y(count)
            )
        )
    return Markup("").join(shapes)


def _x_axis(x: Scale, marks: Sequence[float], name: str, write: Callable[[float], str] = number) -> Markup:
    base = HEIGHT - BOTTOM
    middle = (LEFT + WIDTH - RIGHT) / 2
    texts = [(x(mark), base + 13, "mid", write(mark)) for mark in marks] + [(middle, HEIGHT - 5, "mid name", name)]
    axis = Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, base, WIDTH - RIGHT)
    return axis + Markup("").join(
        Markup('<text x="{:.1f}" y="{}" class="{}">{}</text>').format(*text) for text in texts
    )


def _y_axis(y: Scale, marks: Sequence[float], write: Callable[[float], str] = number) -> Markup:
    shape = Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" class="end">{}</text>')
    return Markup("").join(
        shape.format(LEFT, y(mark), WIDTH - RIGHT, LEFT - 5, y(mark) + 3.5, write(mark)) for mark in marks
    )


def _upright(x: float, name: str, side: str) -> Markup:
    """Draw a line from top to bottom; its name ends or starts at it, on the other side where there is no room."""
    if x > WIDTH - RIGHT - 50:
        side = "end"
    elif x < LEFT + 50:
        side = "start"
    place = x - 4 if side == "end" else x + 4
    return Markup(
        '<path class="mark" d="M{:.1f} {}V{}"/><text x="{:.1f}" y="{}" class="{} strong">{}</text>'
    ).format(x, TOP - 17, HEIGHT - BOTTOM, place, TOP - 9, side, name)  # fmt: skip


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _picture(
    shapes: Sequence[str], label: str, *, size: tuple[int, int] = (WIDTH, HEIGHT), kind: str = "plot"
) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>')
    return head.format(kind, *size, label, label) + Markup("").join(shapes) + Markup("</svg>")
