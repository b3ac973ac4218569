"""Templates to pages: Jinja2 with autoescape on, compiled when first used."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from markupsafe import Markup

from stratal.console import shown
from stratal.console.assets import Assets
from stratal.console.native import segment

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Ways:
    """The same thing said on the command line and in Python: shown at the foot of every page."""

    cli: str
    python: str


class Templates:
    """Renders templates by name. `now` is the clock that relative times are told by."""

    def __init__(self, assets: Assets, now: Callable[[], datetime]) -> None:
        self._assets = assets
        self._now = now

    @cached_property
    def _environment(self) -> "Environment":
        # Imported with the first page: a server nobody looks at starts sooner and stays smaller.
        from jinja2 import ChainableUndefined, Environment, FileSystemLoader

        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=ChainableUndefined,  # an older or newer API may lack a part: it is then not shown
            auto_reload=False,
        )
        environment.filters.update(
            {
                "ago": self._ago,
                "between": lambda start, end=None: shown.between(start, end, self._now()),
                "duration": shown.duration,
                "exact": shown.exact,
                "figure": shown.number,
                "segment": lambda value: segment(str(value)),
                "shape": shown.shape,
                "short": shown.short,
                "size": shown.size,
                "state_name": shown.state_name,
                "tensors": shown.tensors,
                "written": shown.written,
            }
        )
        environment.tests["numeric_type"] = shown.is_numeric_type
        environment.globals.update({"asset": self._assets.url, "plural": shown.plural, "query": _query})
        return environment

    def render(self, name: str, **context: object) -> str:
        """The page as text. Raises `jinja2.TemplateNotFound` for an unknown name."""
        return self._environment.get_template(name).render(**context)

    def _ago(self, value: object) -> Markup:
        at = shown.moment(value)
        if at is None:
            return Markup("")
        return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(
            at.astimezone(UTC).isoformat(timespec="milliseconds"),
            shown.exact(value),
            shown.ago(value, self._now()),
        )


def _query(current: dict[str, str], **changes: object) -> str:
    """The page's query with some parameters changed, and those changed to nothing left out: ``?a=1&b=2``."""
    merged = {**current, **{name: str(value) for name, value in changes.items() if value is not None}}
    kept = {n: v for n, v in merged.items() if v != "" and not (n in changes and changes[n] in (None, ""))}
    return f"?{urlencode(kept)}" if kept else "?"
