"""Charts as SVG without any script: their figures stand in them as text, for readers of every kind."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 46
_MOST_LABELS = 6

Series = Sequence[tuple[str, Sequence[float | None]]]


def lines(found: Sequence[Mapping[str, Any]]) -> Markup:
    """Lines of points ``[x, y]``, each with its name; x are steps."""
    drawn = [(str(line["name"]), [(float(x), _finite(y)) for x, y in line["points"]]) for line in found]
    xs = [x for _, points in drawn for x, _ in points]
    ends = (f"{min(xs):g}", f"{max(xs):g}") if xs else ("", "")
    return _chart(drawn, [(0.0, ends[0]), (1.0, ends[1])] if xs else [])


def rising(labels: Sequence[str], series: Series) -> Markup:
    """Lines over rows in their order; `labels` stand below."""
    drawn = [(name, [(float(i), _finite(y)) for i, y in enumerate(values)]) for name, values in series]
    return _chart(drawn, _marks(labels, centred=False))


def bars(labels: Sequence[str], series: Series) -> Markup:
    """Bars over rows in their order, side by side for several columns."""
    values = [value for _, column in series for value in map(_finite, column) if value is not None]
    low, high = _span([*values, 0.0])
    many = max(1, len(labels))
    slot = _inner_width() / many
    wide = slot * 0.8 / len(series)
    zero = _y(0.0, low, high)
    shapes = Markup("")
    for number, (name, column) in enumerate(series, 1):
        for place, value in enumerate(map(_finite, column)):
            if value is None:
                continue
            top = _y(value, low, high)
            shapes += Markup(
                '<rect class="s{}" x="{}" y="{}" width="{}" height="{}"><title>{} {}: {}</title></rect>'
            ).format(
                number, _px(_LEFT + place * slot + slot * 0.1 + (number - 1) * wide), _px(min(top, zero)),
                _px(max(wide, 0.5)), _px(abs(top - zero)), name, labels[place], f"{value:.6g}",
            )  # fmt: skip
    return _frame(shapes, low, high, [name for name, _ in series], _marks(labels, centred=True))


def _chart(
    drawn: Sequence[tuple[str, Sequence[tuple[float, float | None]]]], marks: Sequence[tuple[float, str]]
) -> Markup:
    ys = [y for _, points in drawn for _, y in points if y is not None]
    xs = [x for _, points in drawn for x, _ in points]
    low, high = _span(ys)
    left, right = (min(xs), max(xs)) if xs else (0.0, 1.0)
    shapes = Markup("")
    for number, (_, points) in enumerate(drawn, 1):
        for part in _unbroken(points):
            at = " ".join(
                f"{_px(_LEFT + (0.5 if right == left else (x - left) / (right - left)) * _inner_width())},"
                f"{_px(_y(y, low, high))}"
                for x, y in part
            )
            shapes += Markup('<polyline class="s{}" points="{}"/>').format(number, at)
            if len(part) == 1:
                x, y = at.split(",")
                shapes += Markup('<circle class="s{}" cx="{}" cy="{}" r="3"/>').format(number, x, y)
    return _frame(shapes, low, high, [name for name, _ in drawn], marks)


def _frame(
    shapes: Markup, low: float, high: float, names: Sequence[str], marks: Sequence[tuple[float, str]]
) -> Markup:
    """Axes, what they say, and which colour is what, around what was drawn."""
    around = Markup("")
    for share in (0.0, 0.5, 1.0):
        value = low + (high - low) * share
        y = _px(_y(value, low, high))
        around += Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, WIDTH - _RIGHT, y, y
        )
        around += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _LEFT - 6, _px(float(y) + 4), f"{value:.4g}"
        )
    for share, label in marks:
        anchor = "start" if share <= 0 else "end" if share >= 1 else "middle"
        around += Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _px(_LEFT + share * _inner_width()), HEIGHT - _BOTTOM + 16, anchor, label[:24]
        )
    x = _LEFT
    for number, name in enumerate(names, 1):
        around += Markup('<rect class="s{}" x="{}" y="{}" width="9" height="9"/>').format(
            number, x, HEIGHT - 14
        )
        around += Markup('<text x="{}" y="{}">{}</text>').format(x + 13, HEIGHT - 6, name[:32])
        x += 26 + 7 * min(len(name), 32)
    return Markup(
        '<svg class="report-chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>'
    ).format(WIDTH, HEIGHT, ", ".join(names) or "empty", around, shapes)


def _marks(labels: Sequence[str], *, centred: bool) -> list[tuple[float, str]]:
    many = len(labels)
    if not many:
        return []
    step = max(1, math.ceil(many / _MOST_LABELS))
    if centred:
        return [((place + 0.5) / many, labels[place]) for place in range(0, many, step)]
    last = max(1, many - 1)
    return [(place / last, labels[place]) for place in range(0, many, step)]


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The line in pieces, where it has no value in between."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            parts.append([])
        else:
            parts[-1].append((x, y))
    return [part for part in parts if part]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _finite(value: object) -> float | None:
    found = float(value) if isinstance(value, int | float) else None
    return found if found is not None and math.isfinite(found) else None


def _inner_width() -> float:
    return WIDTH - _LEFT - _RIGHT


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (1 - (value - low) / (high - low)) * (HEIGHT - _TOP - _BOTTOM)


def _px(value: float) -> str:
    return f"{value:.1f}"
