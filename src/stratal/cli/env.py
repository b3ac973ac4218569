"""``stratal env`` and ``stratal login-link``."""

import os
import shlex
from pathlib import Path

import click

from stratal.app.client_env import client_env
from stratal.app.settings import Home, home_directory
from stratal.cli.output import json_option, print_json
from stratal.identity.keys import Credential
from stratal.kernel.names import check_name
from stratal.sdk import ApiError, Client


@click.command(epilog='Example: eval "$(stratal env)" && python my_script.py')
@click.option("-p", "--project", default=None, help="Project whose key is used (default: the key's own).")
@click.option(
    "--format", "style", type=click.Choice(["sh", "json", "dotenv"]), default="sh", show_default=True
)
def env(project: str | None, style: str) -> None:
    """Print the variables that point your clients at this platform.

    They carry a key of the project: the one in STRATAL_API_KEY when it is of that project, else one
    that is made on first use and kept in the data directory (mode 0600).
    """
    client = Client(project=project)
    who = client.get("/whoami")
    place = project or os.environ.get("STRATAL_PROJECT") or str(who["project"])
    check_name("project", place)
    if os.environ.get("STRATAL_API_KEY") and who["project"] == place:
        token = client.key
    else:
        token = _kept_key(client, Home(home_directory()), place)
    key_id, _, secret = token.partition(".")
    variables = client_env(
        client.url, Credential(key_id, secret), place, first_git_setting=_git_settings(client.url)
    )
    if style == "json":
        print_json(dict(variables))
    elif style == "dotenv":
        for name, value in variables.items():
            click.echo(f"{name}={_dotenv(value)}")
    else:
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")


def _dotenv(value: str) -> str:
    """The value so that shells and readers of dotenv files take it as it is: in single quotes where it has a dollar."""
    return f"'{value}'" if "$" in value else f'"{value}"'


def _git_settings(url: str) -> int:
    """How many settings of somebody else git is given by variables here (https://git-scm.com/docs/git-config)."""
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    count = int(given) if given.isdecimal() and len(given) < 5 else 0
    ours = f"credential.{url}.helper"
    return next((n for n in range(count) if os.environ.get(f"GIT_CONFIG_KEY_{n}") == ours), count)


def _kept_key(client: Client, home: Home, project: str) -> str:
    """The project's key kept in the home, when it still opens; else a new one, kept there when the home is ours."""
    path = home.env_key(project)
    if path.exists():
        token = path.read_text().strip()
        try:
            if Client(client.url, token).get("/whoami")["project"] == project:
                return token
        except ApiError as error:
            if error.status != 401:
                raise
    token = str(client.post(client.path("/keys"), {"name": "env", "role": "owner"})["token"])
    if path.parent.is_dir():
        _write_private(path, token)
    return token


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@click.command("login-link")
@click.option("--person", default="admin", show_default=True, help="Whom it signs in.")
@json_option
def login_link(person: str, as_json: bool) -> None:
    """Print a link that signs the admin, or PERSON, in to the console, once, within a day."""
    client = Client()
    made = client.request("POST", "/login-links", params={"person": person})
    link = client.url + str(made["path"])
    if as_json:
        print_json({"url": link})
    else:
        click.echo(link)
