"""What commands print: one JSON object on one line with ``--json``, else tables for people."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def print_json(value: dict[str, Any]) -> None:
    """One object on one line, for programs."""
    import json

    click.echo(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def print_error(message: str, hint: str = "", request_id: str = "") -> None:
    """What failed, what next, and the id under which the server's log has more; on stderr."""
    click.echo(click.style("Error: ", fg="red", bold=True) + message, err=True)
    if hint:
        click.echo(hint, err=True)
    if request_id:
        click.echo(click.style(f"(request {request_id})", dim=True), err=True)


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, right: Sequence[int] = ()
) -> None:
    """A table for people; `right` are the columns aligned right. `empty` is said when there are no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = list(rows)
    if not listed:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in right else "left", overflow="fold")
    for row in listed:
        table.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    console.print(table)


def json_option(function: F) -> F:
    """``--json``: passes `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line.")(
        function
    )


def project_option(function: F) -> F:
    """``--project``: passes `project` (None: STRATAL_PROJECT, else the key's own)."""
    return click.option("-p", "--project", default=None, help="Project to act in (default: the key's own).")(
        function
    )


def home_option(function: F) -> F:
    """``--home``: passes `home` as an absolute path (STRATAL_HOME, else ~/.stratal)."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="STRATAL_HOME",
        default=lambda: Path.home() / ".stratal",
        show_default="~/.stratal",
        help="Data directory.",
    )(function)


def human_bytes(count: float) -> str:
    """1536 → '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
