"""A report as HTML. All that people wrote or data held is escaped; nothing in it is a script, a frame or a form."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from stratal.collab.reports import drawing
from stratal.collab.reports.blocks import Block, Data, block_of, reader

_ROWS_SHOWN = 200


def render(text: str, data: Sequence[Data]) -> str:
    """The report with what its blocks show, in their order."""
    from markdown_it.token import Token

    markdown = reader()
    tokens = markdown.parse(text)
    answers = iter(data)
    for place, token in enumerate(tokens):
        block = block_of(token)
        if block is not None:
            shown = Token("html_block", "", 0)
            shown.content = str(_shown(block, next(answers, {"error": "It was not asked."})))
            tokens[place] = shown
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer nofollow")
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def title_of(text: str, name: str) -> str:
    """The first heading, else the report's name."""
    for line in text.splitlines():
        if line.startswith("# ") and line[2:].strip():
            return line[2:].strip()[:200]
    return name


def _shown(block: Block, data: Data) -> Markup:
    if "error" in data:
        return Markup('<p class="report-wrong">{} cannot be shown: {}</p>\n').format(
            block.kind, data["error"]
        )
    if "links" in data:
        return _lineage(data)
    if "lines" in data:
        return _figure(drawing.lines(data["lines"]), data)
    if block.shape in {"line", "bar"}:
        return _drawn(block, data)
    return _table(data)


def _drawn(block: Block, data: Data) -> Markup:
    columns = [str(name) for name in data["columns"]]
    x = block.options.get("x") or columns[0]
    ys = block.listed("y") or [name for name in columns if name != x][:5]
    unknown = [name for name in (x, *ys) if name not in columns]
    if unknown or not ys:
        return Markup('<p class="report-wrong">There is no column {} in the answer: it has {}.</p>\n').format(
            ", ".join(unknown) or "to draw", ", ".join(columns)
        )
    at = columns.index(x)
    labels = [_text(row[at]) for row in data["rows"]]
    series = [(name, [_number(row[columns.index(name)]) for row in data["rows"]]) for name in ys[:5]]
    draw = drawing.bars if block.shape == "bar" else drawing.rising
    return _figure(draw(labels, series), data)


def _figure(drawn: Markup, data: Data) -> Markup:
    return Markup('<figure class="report-figure">{}{}</figure>\n').format(drawn, _source(data))


def _table(data: Data) -> Markup:
    heads = Markup("").join(Markup("<th>{}</th>").format(name) for name in data["columns"])
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row))) for row in data["rows"][:_ROWS_SHOWN]
    )
    more = (
        Markup('<p class="report-source">The first {} rows.</p>').format(_ROWS_SHOWN)
        if data.get("more")
        else ""
    )
    return Markup(
        '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}{}\n'
    ).format(heads, rows, more, _source(data))


def _cell(value: object) -> Markup:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Markup('<td class="n">{}</td>').format(_text(value))
    return Markup("<td>{}</td>").format(_text(value))


def _source(data: Data) -> Markup:
    """Of which snapshots the figures are: what makes a report provable."""
    named = [
        f"{one['table']} @ {one['snapshot_id']}"
        for one in data.get("snapshots", ())
        if one.get("snapshot_id")
    ]
    return Markup('<p class="report-source">From {}.</p>').format(", ".join(named)) if named else Markup("")


def _lineage(data: Data) -> Markup:
    links = Markup("").join(
        Markup(
            '<li><span class="report-kind">{}</span> {} <span class="report-source">{}</span></li>'
        ).format(link["kind"], link["name"], link["said"])
        for link in data["links"]
    )
    return Markup('<ol class="report-lineage">{}</ol>\n').format(links)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:500]


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def page(title: str, body: str, note: str, style: str) -> str:
    """A page of its own, for whoever has the link. `body` is what `render` made."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f'<body><main class="report">{body}</main><footer class="report-source">{escape(note)}</footer></body></html>'
    )
