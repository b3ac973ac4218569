"""How jobs are worded in the terminal: states, commands, times. One place for all commands that show them."""

import re
import shlex
import time
from datetime import UTC, datetime
from typing import Any

import click

from stratal.sdk import amounts


class Size(click.ParamType):  # type: ignore[type-arg]
    """``512MiB`` → bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return amounts.size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """``30m`` → seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return amounts.seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class GrowTo(click.ParamType):  # type: ignore[type-arg]
    """``64,256GiB`` → processors and bytes."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?),([^,]+)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not processors and memory, like 64,256GiB.", param, ctx)
        return float(match[1]), Size().convert(match[2], param, ctx)


class Shares(click.ParamType):  # type: ignore[type-arg]
    """``10``, ``v2=10`` or ``v2=10,v1=90`` as ``{"v2": 10, …}``; a bare number is named ""."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in str(value).split(","):
            match = re.fullmatch(r"(?:([A-Za-z0-9]{1,20})=)?(\d{1,3})%?", part.strip())
            if match is None or (match[1] or "") in found:
                self.fail(f"{value!r} does not share out requests like v2=10 (percent).", param, ctx)
            found[match[1] or ""] = int(match[2])
        return found


class Gpus(click.ParamType):  # type: ignore[type-arg]
    """``2``, ``h100:2`` or ``h100`` → how many, of which type."""

    name = "gpus"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, str | None]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(
            r"(?:([a-z][a-z0-9-]{0,39}|[a-z0-9-]{1,39}(?=:)):?)?(\d{1,4})?", str(value), re.ASCII
        )
        if match is None or not (match[1] or match[2]):
            self.fail(f"{value!r} does not say GPUs: say how many (1), or which (h100, h100:2).", param, ctx)
        return int(match[2] or 1), match[1]


def note(text: str) -> None:
    """A line beside the output, on stderr."""
    click.echo(click.style(text, dim=True), err=True)


def state_of(found: dict[str, Any]) -> str:
    """The state, with the exit code where it says more."""
    code = found["exit_code"]
    return f"{found['state']} (exit code {code})" if code else str(found["state"])


def name_of(found: dict[str, Any]) -> str:
    """The name, with the index for a member of an array."""
    return f"{found['name']}[{found['array_index']}]" if found["array"] else str(found["name"])


def command_of(found: dict[str, Any], *, whole: bool = False) -> str:
    text = shlex.join(found["argv"])
    return text if whole or len(text) <= 60 else text[:57] + "…"


def parsed(stamp: str) -> float:
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()


def ago(stamp: str) -> str:
    seconds = max(0.0, time.time() - parsed(stamp))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now" if seconds < 5 else f"{seconds:.0f} s ago"


def took(found: dict[str, Any]) -> str:
    if not found["started_at"]:
        return ""
    end = parsed(found["ended_at"]) if found["ended_at"] else time.time()
    return lasted(max(0.0, end - parsed(found["started_at"])))


def lasted(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
