"""A report as HTML: what people write and what data holds runs nowhere, and figures are drawn."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.collab.reports.blocks import MAX_BLOCKS, blocks_of
from stratal.collab.reports.rendering import page, render, title_of
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast

ALLOWED = {
    *(
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "em",
        "strong",
        "s",
        "a",
        "ul",
        "ol",
        "li",
        "code",
        "pre",
        "hr",
        "br",
    ),
    *("blockquote", "table", "thead", "tbody", "tr", "th", "td", "div", "span", "figure", "svg", "polyline"),
    *("line", "text", "rect", "circle", "title"),
}
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "[click](vbscript:x)",
    "[click](//evil.example/)",
    "[click](/\\evil.example/)",
    "![see](https://evil.example/pixel.png)",
    '[a](https://x.example/"onmouseover="alert(1))',
    "<iframe src=//evil.example></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "```<script>alert(1)</script>\nx\n```",
    '```sql table"><script>alert(1)</script>\nselect 1\n```',
)


class Reader(HTMLParser):
    """Collects what a browser would see as elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def harmless(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert reader.tags <= ALLOWED, reader.tags - ALLOWED
    for name, value in reader.attributes:
        assert not name.startswith("on"), (name, value)
        assert name not in {"src", "srcdoc", "style", "formaction", "xlink:href", "action"}, (name, value)
        if name == "href":
            assert re.match(r"(https?://|mailto:|#|/(?![/\\]))", value), value


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_written_runs_nowhere(attack: str) -> None:
    harmless(render(attack, [{"error": attack}]))
    harmless(render(f"# {attack}\n\n| {attack} | b |\n|---|---|\n| {attack} | {attack} |\n", []))


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_data_holds_runs_nowhere(attack: str) -> None:
    rows: dict[str, Any] = {
        "columns": [attack, "n"],
        "rows": [[attack, 1], [None, 2.5]],
        "snapshots": [{"table": attack, "snapshot_id": attack}],
    }
    harmless(
        render("```sql table\nselect\n```\n\n```sql bar y=n\n```\n\n```sql line\n```", [rows, rows, rows])
    )
    harmless(render("```metrics run=r metric=m\n```", [{"lines": [{"name": attack, "points": [[1, 2]]}]}]))
    links = {"links": [{"kind": attack, "name": attack, "said": attack}]}
    harmless(render("```lineage table=t\n```", [links]))
    whole = page(attack, "<p>body</p>", attack, "")
    assert attack not in whole.replace("<p>body</p>", "") or "<" not in attack


@given(st.text(max_size=200))
def test_any_text_is_harmless(text: str) -> None:
    harmless(render(text, []))


def test_figures_are_drawn_from_what_their_blocks_say() -> None:
    text = "# Sales\n\n```sql bar x=day y=sales\nselect day, sales from t\n```\n\nAfter it.\n\n```python\nplain = 1\n```\n"
    (block,) = blocks_of(text)
    assert (block.kind, block.shape, block.options) == ("sql", "bar", {"x": "day", "y": "sales"})
    assert block.body == "select day, sales from t\n"
    data = {
        "columns": ["day", "sales"],
        "rows": [["Mon", 3], ["Tue", 5.5], ["Wed", None]],
        "snapshots": [{"table": "shop.t", "snapshot_id": "7"}],
    }
    html = render(text, [data])
    assert html.count('<rect class="s1"') == 3  # two bars, and what the colour means
    assert "sales Tue: 5.5" in html
    assert "From shop.t @ 7." in html
    assert '<code class="language-python">' in html
    assert title_of(text, "weekly") == "Sales"
    assert title_of("no heading", "weekly") == "weekly"


def test_lines_break_where_there_is_no_value() -> None:
    nan = float("nan")
    points = [[0, 1.0], [1, 2.0], [2, nan], [3, 4.0], [4, 3.0]]
    html = render("```metrics run=r metric=m\n```", [{"lines": [{"name": "m", "points": points}]}])
    assert html.count("<polyline") == 2
    empty = render("```metrics run=r metric=m\n```", [{"lines": [{"name": "m", "points": []}]}])
    assert "<svg" in empty


@pytest.mark.parametrize(
    ("info", "words"),
    [("sql round", "round"), ("metrics run=1 colour=red", "colour=red"), ('sql x="', "cannot be read")],
)
def test_how_a_block_is_wrong_is_said(info: str, words: str) -> None:
    (block,) = blocks_of(f"```{info}\n```")
    assert words in block.wrong


def test_a_column_that_is_not_there_is_said() -> None:
    html = render("```sql line x=day y=none\n```", [{"columns": ["day", "n"], "rows": [["a", 1]]}])
    assert "There is no column none" in html


def test_blocks_are_bounded() -> None:
    with pytest.raises(Invalid):
        blocks_of("```sql table\nselect 1\n```\n\n" * (MAX_BLOCKS + 1))
