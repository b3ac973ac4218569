"""Reports: a step whose result is one page of HTML, kept with the run.

A report in SQL is a text in a little Markdown with queries in it, each shown as a table, a chart or a value. It is drawn
here, as SVG and with the standard library alone, so that it needs no environment and runs beside the other small steps. A
notebook is executed by papermill and made a page by nbconvert, in a job of its own.

The page has no script and loads nothing, and is shown in a frame that could not run or load anything either.
"""

import hashlib
import html
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.values import Model, Object, Table

NOTEBOOK_REQUIREMENTS = ("papermill==2.7.0", "ipykernel==7.4.0", "nbconvert>=7.17")
SHOWN = ("table", "line", "bar", "scatter", "value")
_BLOCK = re.compile(r"^```sql[ \t]*(?P<how>[^\n]*)\n(?P<query>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_HOW = re.compile(r"(\w+)=(?:\"([^\"]*)\"|(\S+))")
_MOST_ROWS = 1000
_MOST_POINTS = 5000
_COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#475569")


def keep(page: str, step: str) -> Object:
    """Store a page where the project's reports are; the same page is stored once."""
    digest = hashlib.sha256(page.encode()).hexdigest()[:32]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", step)[:100]
    return lake.current().put_report(f"{plain}/{digest}.html", page.encode())


def sql_report(text: str, rendered: Callable[[str], str], arguments: Mapping[str, Any], title: str) -> str:
    """The page of a report. `rendered` puts tables and arguments into a query. Raises `ValueError`, naming the query."""
    parts: list[str] = []
    at = 0
    for number, block in enumerate(_BLOCK.finditer(text), 1):
        parts.append(_markdown(_with_words(text[at : block.start()], arguments)))
        how = {name: quoted or plain for name, quoted, plain in _HOW.findall(block["how"])}
        kind = how.pop("chart", None) or (block["how"].split() or ["table"])[0]
        if kind not in SHOWN:
            kind = "table" if "=" in kind else kind
        if kind not in SHOWN:
            raise ValueError(f"Query {number} is to be shown as {kind!r}: there is {', '.join(SHOWN)}.")
        try:
            rows = lake.read_sql(rendered(block["query"]))
        except Exception as error:
            raise ValueError(f"Query {number} of the report: {error}") from error
        parts.append(_shown(kind, rows, how, number))
        at = block.end()
    parts.append(_markdown(_with_words(text[at:], arguments)))
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def notebook_page(path: str, parameters: Mapping[str, Any]) -> str:
    """Execute a notebook and give its page; a cell that fails makes this raise, after what it printed."""
    import papermill  # type: ignore[import-untyped,unused-ignore]
    from nbconvert import HTMLExporter

    given = {name: _plain(value) for name, value in parameters.items() if name != "after"}
    output = f"executed-{os.getpid()}.ipynb"
    papermill.execute_notebook(
        path,
        output,
        parameters=given,
        kernel_name="python3",
        language="python",
        cwd=str(Path(path).parent),
        log_output=True,
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )
    as_page = HTMLExporter(template_name="basic", exclude_anchor_links=True)
    as_page.exclude_input_prompt = as_page.exclude_output_prompt = True
    page, _ = as_page.from_filename(output)
    Path(output).unlink()
    return _PAGE.format(title=html.escape(Path(path).stem), body=page)


def _plain(value: Any) -> Any:
    """A parameter as a notebook's cell can hold it: what is kept here goes by its name."""
    match value:
        case Table():
            return value.name
        case Object():
            return value.location
        case Model():
            return f"models:/{value.name}/{value.version}"
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
    return value


# -- what a query's rows look like -----------------------------------------------------------------------


def _shown(kind: str, rows: Sequence[Mapping[str, Any]], how: Mapping[str, str], number: int) -> str:
    title = how.get("title", "")
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    if not rows:
        return f"<figure>{caption}<p class=none>No rows.</p></figure>"
    if kind == "table":
        return f"<figure>{caption}{_table(rows)}</figure>"
    if kind == "value":
        cells = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(_word(value))}</dd></div>"
            for name, value in rows[0].items()
        )
        return f"<figure>{caption}<dl>{cells}</dl></figure>"
    names = list(rows[0])
    x = how.get("x", names[0])
    ys = how["y"].split(",") if "y" in how else [name for name in names if name != x]
    missing = next((name for name in [x, *ys] if name not in names), None)
    if missing is not None or not ys:
        raise ValueError(f"Query {number} has no column {missing}; it has {', '.join(names)}.")
    return f"<figure>{caption}{_chart(kind, rows[:_MOST_POINTS], x, ys, title)}</figure>"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in rows[0])
    lines = []
    for row in rows[:_MOST_ROWS]:
        cells = "".join(
            f"<td{' class=n' if isinstance(value, int | float) else ''}>{html.escape(_word(value))}</td>"
            for value in row.values()
        )
        lines.append(f"<tr>{cells}</tr>")
    more = len(rows) - _MOST_ROWS
    left = f"<p class=none>and {more} rows more</p>" if more > 0 else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>{left}"


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760, 300, 64, 34, 12


def _chart(kind: str, rows: Sequence[Mapping[str, Any]], x: str, ys: Sequence[str], title: str) -> str:
    """An SVG of the columns `ys` over `x`. Numbers and moments have a scale; anything else stands side by side."""
    places = [_number(row[x]) for row in rows]
    scaled = kind != "bar" and all(place is not None for place in places)
    xs = [place or 0.0 for place in places] if scaled else [float(index) for index in range(len(rows))]
    values = [[_float(row[name]) for row in rows] for name in ys]
    known = [value for column in values for value in column if value is not None]
    if not known:
        return "<p class=none>No numbers to draw.</p>"
    low, high = min(known), max(known)
    if kind == "bar":
        low, high = min(low, 0.0), max(high, 0.0)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = min(xs), max(xs)
    half = 0.5 if kind == "bar" or not scaled else 0.0
    first, last = first - half, last + half

    def across(place: float) -> float:
        return round(_LEFT + (place - first) / ((last - first) or 1) * (_WIDTH - _LEFT - 10), 1)

    def down(value: float) -> float:
        return round(_TOP + (high - value) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM), 1)

    drawn = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{down(t)}" y2="{down(t)}"/>'
        f'<text x="{_LEFT - 8}" y="{down(t) + 4}" text-anchor="end">{html.escape(_word(t))}</text>'
        for t in ticks
    ]
    step = max(1, math.ceil(len(rows) / 7))
    for index in range(0, len(rows), step):
        label = html.escape(_word(rows[index][x])[:12])
        drawn.append(f'<text x="{across(xs[index])}" y="{_HEIGHT - 12}" text-anchor="middle">{label}</text>')
    for number, column in enumerate(values):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [
            (across(place), down(value), value)
            for place, value in zip(xs, column, strict=True)
            if value is not None
        ]
        if kind == "line":
            path = " ".join(f"{px},{py}" for px, py, _ in points)
            drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        elif kind == "scatter":
            drawn += [
                f'<circle cx="{px}" cy="{py}" r="2.6" fill="{colour}" fill-opacity=".7"/>'
                for px, py, _ in points
            ]
        else:
            wide = (_WIDTH - _LEFT - 10) / max(len(rows), 1) * 0.8 / len(values)
            base = down(0.0)
            drawn += [
                f'<rect x="{round(px + (number - len(values) / 2) * wide, 1)}" y="{min(py, base)}" '
                f'width="{max(wide, 0.5):.1f}" height="{abs(base - py):.1f}" fill="{colour}"/>'
                for px, py, _ in points
            ]
    legend = "".join(
        f'<span><i style="background:{_COLOURS[number % len(_COLOURS)]}"></i>{html.escape(name)}</span>'
        for number, name in enumerate(ys)
    )
    label = html.escape(title or f"{', '.join(ys)} by {x}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
        f"<p class=legend>{legend}</p>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers about `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    high = max(high, low + span)
    size = 10 ** math.floor(math.log10(span / 4))
    size *= next(factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 6)
    start = math.floor(low / size)
    return [round(number * size, 10) for number in range(start, math.ceil(high / size) + 1)]


def _number(value: Any) -> float | None:
    """Where a value stands on a scale: numbers, and moments as text has them."""
    import datetime

    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return float(value.toordinal()) * 86400
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    found = _float(value)
    if found is not None or not isinstance(value, str):
        return found
    try:
        return datetime.datetime.fromisoformat(value).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return None


def _float(value: Any) -> float | None:
    import decimal

    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def _word(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


# -- the text between ----------------------------------------------------------------------------------

_ARGUMENT = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


def _with_words(text: str, arguments: Mapping[str, Any]) -> str:
    return _ARGUMENT.sub(lambda found: _word(arguments.get(found[1], found[0])), text)


def _markdown(text: str) -> str:
    """Headings, paragraphs, lists, **bold**, *emphasis* and `code`; all else is text as it stands."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        while lines and (heading := re.match(r"(#{1,4}) +(.*)", lines[0])):
            depth = len(heading[1])
            made.append(f"<h{depth}>{_inline(heading[2])}</h{depth}>")
            lines = lines[1:]
        if lines and all(re.match(r"[-*] ", line) for line in lines):
            made.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif lines:
            made.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(made)


def _inline(text: str) -> str:
    told = html.escape(text, quote=False)
    told = re.sub(r"`([^`]+)`", r"<code>\1</code>", told)
    told = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", told)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", told)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body{{font:15px/1.55 system-ui,sans-serif;color:#1f2937;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1.2rem}}
h1,h2,h3{{line-height:1.25}}
table{{border-collapse:collapse;font-size:13px}}
th,td{{padding:.25rem .7rem;border-bottom:1px solid #e5e7eb;text-align:left}}
td.n{{text-align:right;font-variant-numeric:tabular-nums}}
figure{{margin:1.2rem 0;overflow-x:auto}}
figcaption{{font-weight:600;margin-bottom:.4rem}}
svg{{width:100%;max-width:760px;height:auto}}
svg line{{stroke:#e5e7eb}}
svg text{{font-size:11px;fill:#6b7280}}
.legend span{{margin-right:1rem;font-size:13px}}
.legend i{{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.35rem}}
.none{{color:#6b7280}}
dl{{display:flex;gap:2rem;flex-wrap:wrap;margin:0}}
dt{{color:#6b7280;font-size:13px}}
dd{{margin:0;font-size:1.7rem}}
pre,code{{font-family:ui-monospace,monospace;font-size:13px}}
pre{{background:#f3f4f6;padding:.6rem .8rem;overflow-x:auto}}
img{{max-width:100%}}
</style></head><body>
{body}
</body></html>
"""
