"""The commands and the Python that pages show can be copied and run: they parse, and name what exists."""

import ast
import html
import re
import shlex

import click
import pytest

from console_stand_in import Browser, Native, answers, every_page
from stratal.cli.main import cli

pytestmark = pytest.mark.fast

FULL = Browser(Native(answers("clinic.ecg-1")))
EMPTY = Browser(
    Native(
        {
            f"/api/v1/projects/default/{noun}": {noun: []}
            for noun in ("jobs", "runs", "models", "tables", "buckets", "endpoints", "sweeps")
        }
    )
)
PAGES = [(FULL, path) for path in every_page("clinic.ecg-1") if "panel" not in path and "proof" not in path]
PAGES += [
    (EMPTY, f"/projects/default{path}")
    for path in (
        "",
        *("/" + noun for noun in ("jobs", "runs", "models", "tables", "buckets", "endpoints", "sweeps")),
    )
]


def parse(command: str) -> None:
    """Parse a command line as the CLI would, without running it. Raises what click raises."""
    _, *words = shlex.split(command)
    found: click.Command = cli
    context = click.Context(found, info_name="stratal")
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        following = found.get_command(context, name)
        assert following is not None, f"there is no command {name!r} in: {command}"
        found = following
        context = click.Context(found, info_name=name, parent=context)
    found.make_context(found.name, words, parent=context.parent)


def shown_code(page: str) -> list[str]:
    return [
        html.unescape(found)
        for found in re.findall(r'<button class="copy" type="button" data-copy="([^"]*)"', page)
    ]


@pytest.mark.parametrize(
    ("browser", "path"), PAGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_shown_code_runs(browser: Browser, path: str) -> None:
    page = browser.get(path)
    assert page.status_code == 200
    commands = 0
    for text in shown_code(page.text):
        if re.match(r"(import|from) ", text):
            ast.parse(text)
        for line in text.splitlines():
            for command in re.findall(r"^stratal .*|(?<=\$\()stratal [^)]*", line):
                parse(command)
                commands += 1
    assert commands or "preview" in path or "/comments/" in path
