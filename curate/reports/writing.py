"""Write numbers and other people's text."""

from markupsafe import Markup, escape

from curate.visible import visible

_ONE_LINE = 34  # characters of code that also a narrow screen holds


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as people read it: 1,234 · 0.0123 · −4.5e−7; a dash where there is none."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        shown = f"{int(value):,}"
    elif 10 ** (digits) <= abs(value) < 1e6:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:.{digits}g}"
    return shown.replace("e-0", "e-").replace("e+0", "e").replace("-", "\u2212")


def percent(share: float | None) -> str:
    """Return a share as text: 0.04 %, 3.6 %, 42 %."""
    if share is None:
        return "–"
    value = 100 * share
    shown = f"{value:.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"
    return f"{shown} %".replace("-", "\u2212")


def rho(value: float | None) -> str:
    """Return a correlation with two digits after the point: .93, −.04, 1.00."""
    if value is None:
        return "none"
    shown = f"{abs(value):.2f}"
    sign = "\u2212" if value < 0 and float(shown) else ""
    return sign + (shown[1:] if shown.startswith("0") else shown)


def unbroken(text: str) -> str:
    """Return visible text whose figures no line end tears from their signs."""
    return visible(text).replace(" %", "\u00a0%").replace("ρ = ", "ρ\u00a0=\u00a0").replace(" × ", "\u00a0×\u00a0")


def with_code(text: str) -> Markup:
    """Escape a sentence, with what stands in backticks as code."""
    pieces = [escape(unbroken(p)) for p in text.split("`")]
    codes = [Markup("<code>{}</code>" if len(p) <= _ONE_LINE else '<code class="long">{}</code>') for p in pieces]
    return Markup("").join(codes[i].format(p) if i % 2 else p for i, p in enumerate(pieces))
