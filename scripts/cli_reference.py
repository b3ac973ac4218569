"""Write docs/cli.md from the commands themselves. A test holds the page to them.

Usage: .venv/bin/python scripts/cli_reference.py
"""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from stratal.cli.main import COMMANDS, EXIT_CODES, cli

MARK = "\b\n"
PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def reference() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Commands\n\nMade from the commands' own help by `scripts/cli_reference.py`. "
        "`--json` prints one object on one line.",
        "## Exit codes\n\n```text\n"
        + inspect.cleandoc(EXIT_CODES.replace("\b", "")).split("\n", 1)[1]
        + "\n```",
    ]
    context = click.Context(cli, info_name="stratal")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts += _sections(command, f"stratal {name}", 2)
    return "\n\n".join(parts) + "\n"


def _sections(command: click.Command, path: str, level: int) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(click.Context(command)))
    lines = [
        f"{'#' * level} {path}",
        f"`{path} {usage}`",
        _text(command.help or ""),
    ]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        lines.append(
            "\n".join(f"- `{', '.join(p.opts)}`: {' '.join((p.help or '').split())}" for p in options)
        )
    if command.epilog:
        lines.append(_text(command.epilog))
    yield "\n\n".join(line for line in lines if line)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _sections(child, f"{path} {name}", level + 1)


def _text(said: str) -> str:
    """As Markdown: what a help shows line by line is fenced in, so that nothing in it is taken for markup."""
    found = []
    for one in inspect.cleandoc(said).split("\n\n"):
        shown = textwrap.dedent(one.lstrip().removeprefix(MARK)) if one.lstrip().startswith(MARK) else ""
        found.append(f"````text\n{shown}\n````" if shown else one)
    return "\n\n".join(found)


if __name__ == "__main__":
    PAGE.write_text(reference())
