"""The blocks of a report: fenced code whose first word says what is to stand in its place.

```metrics run=RUN,RUN metric=auc           one line a run, by step
```sql table                                rows of the query below
```sql line x=day y=sales,costs             or: bar
```lineage prediction=ID                    or: table=namespace.name
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stratal.kernel.errors import Invalid

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_BLOCKS = 30
KINDS = {"metrics", "sql", "lineage"}
SHAPES = {"table", "line", "bar"}
_OPTIONS = {"metrics": {"run", "metric"}, "sql": {"x", "y"}, "lineage": {"prediction", "table"}}

Data = Mapping[str, Any]
"""What a block shows, as JSON: ``{"lines": …}``, ``{"columns": …, "rows": …}``, ``{"links": …}`` or ``{"error": …}``."""


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is one of `KINDS`, `shape` one of `SHAPES`; `wrong` says what is wrong with how it is written."""

    kind: str
    body: str
    shape: str = "table"
    options: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""

    def listed(self, name: str) -> list[str]:
        return [part for part in self.options.get(name, "").split(",") if part]


def reader() -> "MarkdownIt":
    """CommonMark and tables, without HTML and images; links lead to pages and mailboxes."""
    from markdown_it import MarkdownIt

    found = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    found.validateLink = _is_harmless  # type: ignore[method-assign]
    return found


def blocks_of(text: str) -> list[Block]:
    """The blocks in their order. Raises `Invalid` (``too_many_blocks``)."""
    found = [block for token in reader().parse(text) if (block := block_of(token)) is not None]
    if len(found) > MAX_BLOCKS:
        raise Invalid(f"A report has at most {MAX_BLOCKS} charts and tables.", reason="too_many_blocks")
    return found


def block_of(token: "Token") -> Block | None:
    """The block that a token of the text is; None for all else."""
    if token.type != "fence" or not token.info.strip():
        return None
    kind = token.info.split()[0]
    return _parsed(kind, token.info, token.content) if kind in KINDS else None


def _parsed(kind: str, info: str, body: str) -> Block:
    try:
        words = shlex.split(info)[1:]
    except ValueError as error:
        return Block(kind, body, wrong=f"Its first line cannot be read: {error}.")
    shape, options = "table", dict[str, str]()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and kind == "sql" and word in SHAPES:
            shape = word
        elif equals and name in _OPTIONS[kind]:
            options[name] = value
        else:
            allowed = ", ".join(sorted(f"{one}=…" for one in _OPTIONS[kind]))
            return Block(kind, body, wrong=f"{word[:60]!r} says nothing to {kind}; it takes {allowed}.")
    return Block(kind, body, shape, options)


def _is_harmless(url: str) -> bool:
    """Is that where a link of a report may lead? Not a script, nor a page that the text itself holds."""
    head = url.strip().lower()
    if head.startswith(("http://", "https://", "mailto:", "#")):
        return True
    return head.startswith("/") and not head.startswith(("//", "/\\"))
