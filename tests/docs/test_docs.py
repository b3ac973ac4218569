"""The documentation names what there is, and what it names there is."""

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from stratal.app.client_env import client_env
from stratal.app.settings import SETTINGS
from stratal.cli.main import COMMANDS, cli
from stratal.identity.keys import Credential

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
PREFIXED = ("PYICEBERG_CATALOG__DEFAULT__", "GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
README = (ROOT / "README.md").read_text()
DOCS = {path: path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]}


def test_every_setting_is_documented() -> None:
    page = DOCS[ROOT / "docs" / "settings.md"]
    assert [name for name in SETTINGS if f"`{name}`" not in page] == []


def test_every_variable_of_env_is_documented() -> None:
    page = DOCS[ROOT / "docs" / "settings.md"]
    variables = client_env("http://x", Credential("i", "s"), "p")
    assert [v for v in variables if v not in page and not v.startswith(PREFIXED)] == []


def test_every_command_that_a_message_or_a_page_names_exists() -> None:
    """``stratal job logs``, not ``stratal logs``: whatever is told to be typed can be typed."""
    own = {
        "import",
        "prediction",
        "spool",
        "encryption",
        "api",
        "filename",
    }  # words behind the name that are none
    wrong = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.html")]:
        for first, second in re.findall(r"\bstratal ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?", path.read_text()):
            command = cli.get_command(click.Context(cli), first)
            if command is None:
                wrong |= {f"{path.name}: stratal {first}"} if first not in own else set()
            elif not second or not isinstance(command, click.Group):
                continue
            elif command.get_command(click.Context(command), second) is None:
                wrong.add(f"{path.name}: stratal {first} {second}")
    assert wrong == set()


def test_the_command_reference_is_current() -> None:
    """After a change of commands: .venv/bin/python scripts/cli_reference.py"""
    made = runpy.run_path(str(ROOT / "scripts" / "cli_reference.py"))["reference"]()
    assert DOCS[ROOT / "docs" / "cli.md"] == made


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_its_short_help_is_true(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    with click.Context(command, info_name=f"stratal {name}") as context:
        assert "Usage:" in command.get_help(context)


def _commands_in(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [
        line.replace(".venv/bin/", "")
        for line in lines
        if line.replace(".venv/bin/", "").startswith("stratal ")
    ]


@pytest.mark.parametrize("line", [line for text in DOCS.values() for line in _commands_in(text)])
def test_commands_in_the_docs_exist_with_these_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0].split("|")[0])
        assert found is not None, f"there is no {words[0]!r} in: {line}"
        command, words = found, words[1:]
    before = words[: words.index("--")] if "--" in words else words
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [
        word for word in before if word.startswith("--") and word.split("=")[0] not in options | {"--help"}
    ]
    assert unknown == [], line


def test_links_between_pages_lead_somewhere() -> None:
    missing = [
        (path.name, target)
        for path, text in DOCS.items()
        for target in re.findall(r"\]\(([^)#:]+)\)", text)
        if not (path.parent / target).exists()
    ]
    assert missing == []
