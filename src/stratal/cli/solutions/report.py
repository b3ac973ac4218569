"""The report: one HTML file that needs nothing else.

Plots come from a job, so they are shown as images, where no script runs.
"""

import base64
from collections.abc import Sequence
from importlib import resources
from typing import Any

from stratal.ai.solutions.manifest import Solution

Json = dict[str, Any]


def render(solution: Solution, result: Json, plots: Sequence[Json]) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update({"figure": figure, "between": between, "picture": picture})
    text = resources.files("stratal.cli.solutions").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        solution=solution, result=result, plots=plots, numbers=numbers(solution, result)
    )


def numbers(solution: Solution, result: Json) -> list[Json]:
    """The declared metrics that were measured, with what each is compared to."""
    found = []
    for metric in solution.metrics:
        told = result["numbers"].get(metric.name)
        if told is not None:
            published = next((r for r in solution.references if r.metric == metric.name), None)
            found.append({"metric": metric, "published": published, **told})
    return found


def picture(svg: str) -> str:
    """As an address that holds the picture itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def figure(value: Any) -> str:
    """Four significant digits; an em dash for nothing."""
    if value is None:
        return "—"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def between(told: Json | None) -> str:
    """``0.994 [0.988, 1]``."""
    if told is None:
        return "—"
    if told.get("low") is None or told.get("high") is None:
        return figure(told["mean"])
    return f"{figure(told['mean'])} [{figure(told['low'])}, {figure(told['high'])}]"
