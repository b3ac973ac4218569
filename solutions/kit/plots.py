"""Plots as SVG, written by hand: a few kilobytes each, no library, right in light and dark.

Every function returns the SVG's text; `Study.plot` keeps it. Colours are those of the console's charts.
"""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 16, 46
COLOURS = ("#0f6b4f", "#c2571a", "#4a63c8", "#a03a80", "#7a6a00", "#52606d")
STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#33352f}.grid{stroke:#dcdcd6}.axis{stroke:#8a8c84}"
    "@media(prefers-color-scheme:dark){text{fill:#d8dad2}.grid{stroke:#33352f}.axis{stroke:#75776f}}</style>"
)

Line = tuple[str, Sequence[float], Sequence[float]]


def lines(
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    bands: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]] = (),
    diagonal: bool = False,
    markers: bool = False,
    marks: Sequence[tuple[str, float, float]] = (),
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines with optional bands (xs, lows, highs), a diagonal, and named points."""
    xs = [v for _, a, _ in series for v in a] + [p for _, p, _ in marks]
    ys = [v for _, _, b in series for v in b] + [p for _, _, p in marks]
    ys += [v for _, low, high in bands for v in (*low, *high)]
    frame = _Frame(xs, ys, y_range)
    body = [frame.axes(x, y)]
    for index, (at, low, high) in enumerate(bands):
        path = [frame.point(a, b) for a, b in zip(at, high, strict=True)]
        path += [frame.point(a, b) for a, b in zip(reversed(list(at)), reversed(list(low)), strict=True)]
        body.append(f'<polygon points="{" ".join(path)}" fill="{_colour(index)}" opacity="0.15"/>')
    if diagonal:
        a, b = frame.point(frame.x0, frame.x0).split(","), frame.point(frame.x1, frame.x1).split(",")
        body.append(
            f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" class="axis" stroke-dasharray="4 4"/>'
        )
    for index, (_, at, found) in enumerate(series):
        points = [frame.point(a, b) for a, b in _thinned(at, found)]
        body.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{_colour(index)}" stroke-width="2"/>'
        )
        if markers:
            body += [_dot(point, _colour(index), 3) for point in points]
    for name, a, b in marks:
        px, py = frame.point(a, b).split(",")
        body.append(_dot(f"{px},{py}", "#c2571a", 5))
        body.append(f'<text x="{float(px) + 9:.1f}" y="{float(py) + 4:.1f}">{html.escape(name)}</text>')
    return _svg(body, [name for name, _, _ in series])


def points(groups: Sequence[Line], *, x: str, y: str, diagonal: bool = False, radius: float = 2.5) -> str:
    """Clouds of points, at most 1,500 of each."""
    frame = _Frame([v for _, a, _ in groups for v in a], [v for _, _, b in groups for v in b])
    body = [frame.axes(x, y)]
    if diagonal:
        low, high = max(frame.x0, frame.y0), min(frame.x1, frame.y1)
        a, b = frame.point(low, low).split(","), frame.point(high, high).split(",")
        body.append(
            f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" class="axis" stroke-dasharray="4 4"/>'
        )
    for index, (_, at, found) in enumerate(groups):
        for a, b in _thinned(at, found, 1500):
            px, py = frame.point(a, b).split(",")
            body.append(f'<circle cx="{px}" cy="{py}" r="{radius}" fill="{_colour(index)}" opacity="0.55"/>')
    return _svg(body, [name for name, _, _ in groups])


def bars(rows: Sequence[tuple[str, float, float | None, float | None]], *, x: str) -> str:
    """Horizontal bars with intervals: (name, value, low, high), in the order given."""
    values = [v for _, v, low, high in rows for v in (v, low, high) if v is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    height = TOP + 26 * len(rows) + BOTTOM
    left = 190
    scale = (WIDTH - left - RIGHT - 52) / (high - low)
    body = []
    for index, (name, value, bottom, top) in enumerate(rows):
        y = TOP + 26 * index
        start, end = left + (min(0.0, value) - low) * scale, left + (max(0.0, value) - low) * scale
        body.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{html.escape(name[:28])}</text>')
        body.append(
            f'<rect x="{start:.1f}" y="{y + 3}" width="{max(end - start, 0.5):.1f}" height="16" rx="2" '
            f'fill="{_colour(index)}" opacity="0.85"/>'
        )
        edge = end
        if bottom is not None and top is not None:
            a, b = left + (bottom - low) * scale, left + (top - low) * scale
            edge = max(edge, b)
            body.append(
                f'<line x1="{a:.1f}" y1="{y + 11}" x2="{b:.1f}" y2="{y + 11}" class="axis" stroke-width="2"/>'
            )
        body.append(f'<text x="{edge + 6:.1f}" y="{y + 15}">{_short(value)}</text>')
    body.append(f'<text x="{left}" y="{height - 16}">{html.escape(x)}</text>')
    return _svg(body, [], height)


def histogram(
    values: Sequence[float], *, x: str, bins: int = 30, marks: Sequence[tuple[str, float]] = ()
) -> str:
    found = [float(v) for v in values if math.isfinite(v)]
    low, high = min([*found, *(m for _, m in marks)]), max([*found, *(m for _, m in marks)])
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in found:
        counts[min(int((value - low) / width), bins - 1)] += 1
    frame = _Frame([low, low + width * bins], [0, max(counts)])
    body = [frame.axes(x, "count")]
    for index, count in enumerate(counts):
        a = frame.point(low + index * width, count).split(",")
        b = frame.point(low + (index + 1) * width, 0).split(",")
        body.append(
            f'<rect x="{a[0]}" y="{a[1]}" width="{max(float(b[0]) - float(a[0]) - 1, 0.5):.1f}" '
            f'height="{float(b[1]) - float(a[1]):.1f}" fill="{COLOURS[0]}" opacity="0.8"/>'
        )
    for index, (name, at) in enumerate(marks):
        px = frame.point(at, 0).split(",")[0]
        body.append(
            f'<line x1="{px}" y1="{TOP}" x2="{px}" y2="{HEIGHT - BOTTOM}" stroke="{_colour(index + 1)}" stroke-width="2"/>'
            f'<text x="{float(px) + 5:.1f}" y="{TOP + 12 + 16 * index}">{html.escape(name)}</text>'
        )
    return _svg(body, [])


def image(png: bytes, *, width: int, height: int, marks: Sequence[str] = ()) -> str:
    """A picture (PNG bytes) with SVG elements over it, in the picture's pixels."""
    import base64

    shown = 560 / width
    data = base64.b64encode(png).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="560" height="{height * shown:.0f}">'
        f'<image href="data:image/png;base64,{data}" width="{width}" height="{height}" style="image-rendering:pixelated"/>'
        + "".join(marks)
        + "</svg>"
    )


class _Frame:
    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], y_range: tuple[float, float] | None = None
    ) -> None:
        finite_x = [float(v) for v in xs if math.isfinite(v)] or [0.0, 1.0]
        finite_y = [float(v) for v in ys if math.isfinite(v)] or [0.0, 1.0]
        self.x0, self.x1 = _padded(min(finite_x), max(finite_x), 0.0)
        self.y0, self.y1 = y_range or _padded(min(finite_y), max(finite_y), 0.05)

    def point(self, x: float, y: float) -> str:
        px = LEFT + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)
        py = HEIGHT - BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)
        return f"{px:.1f},{min(max(py, -50), HEIGHT + 50):.1f}"

    def axes(self, x: str, y: str) -> str:
        parts = []
        for tick in _ticks(self.y0, self.y1):
            py = self.point(self.x0, tick).split(",")[1]
            parts.append(f'<line x1="{LEFT}" y1="{py}" x2="{WIDTH - RIGHT}" y2="{py}" class="grid"/>')
            parts.append(
                f'<text x="{LEFT - 6}" y="{float(py) + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
            )
        for tick in _ticks(self.x0, self.x1):
            px = self.point(tick, self.y0).split(",")[0]
            parts.append(
                f'<text x="{px}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_short(tick)}</text>'
            )
        base = HEIGHT - BOTTOM
        parts.append(f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}" class="axis"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(x)}</text>')
        parts.append(
            f'<text x="14" y="{(TOP + base) / 2}" text-anchor="middle" '
            f'transform="rotate(-90 14 {(TOP + base) / 2})">{html.escape(y)}</text>'
        )
        return "".join(parts)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    if high <= low:
        return low - 0.5, high + 0.5
    pad = (high - low) * share
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(12) if first + i * step <= high + step * 1e-6]


def _thinned(xs: Sequence[float], ys: Sequence[float], most: int = 800) -> list[tuple[float, float]]:
    pairs = [
        (float(a), float(b)) for a, b in zip(xs, ys, strict=True) if math.isfinite(a) and math.isfinite(b)
    ]
    step = max(1, math.ceil(len(pairs) / most))
    kept = pairs[::step]
    return kept if not pairs or kept[-1] == pairs[-1] else [*kept, pairs[-1]]


def _dot(point: str, colour: str, radius: float) -> str:
    px, py = point.split(",")
    return f'<circle cx="{px}" cy="{py}" r="{radius}" fill="{colour}"/>'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _short(value: float) -> str:
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"


def _svg(body: Sequence[str], names: Sequence[str], height: int = HEIGHT) -> str:
    """With a legend above the plot, where it hides nothing."""
    named = [(index, name[:24]) for index, name in enumerate(names) if name]
    legend: list[str] = []
    at, line = LEFT, 0
    for index, name in named if len(named) > 1 else []:
        wide = 28 + 7 * len(name)
        if at > LEFT and at + wide > WIDTH:
            at, line = LEFT, line + 1
        y = 18 * line - 8
        legend.append(
            f'<rect x="{at}" y="{y - 9}" width="10" height="10" rx="2" fill="{_colour(index)}"/>'
            f'<text x="{at + 15}" y="{y}">{html.escape(name)}</text>'
        )
        at += wide
    above = 18 * (line + 1) + 2 if legend else 0
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-above} {WIDTH} {height + above}" '
        f'width="{WIDTH}" height="{height + above}">' + STYLE + "".join(body) + "".join(legend) + "</svg>"
    )
