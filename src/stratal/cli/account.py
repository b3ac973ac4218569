"""``stratal login``, ``context`` and ``account``."""

import socket
import time
from urllib.parse import urlsplit

import click

from stratal.cli.output import json_option, print_json, print_table
from stratal.cli.shown import note
from stratal.sdk import ApiError, Client, contexts


@click.command(epilog="Example: stratal login https://stratal.example.org")
@click.argument("url")
@click.option("--name", help="What to call this place (default: its host).")
@json_option
def login(url: str, name: str | None, as_json: bool) -> None:
    """Sign this machine in at URL: shows a code, to which you say yes in a browser.

    The key is kept in your configuration folder (mode 0600) and used from then on; see: stratal context.
    """
    address = url.rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise click.UsageError(f"{url!r} is no address like https://stratal.example.org")
    client = Client(address, "none")
    machine = socket.gethostname()[:60] or "a command line"
    begun = client.post("/device", {"machine": machine})
    click.echo(f"Open {address}{begun['path']}", err=True)
    click.echo(f"and say yes to the code {begun['user_code']}. Waiting …", err=True)
    deadline = time.monotonic() + begun["expires_seconds"]
    while True:
        answer = client.post("/device/token", {"device_code": begun["device_code"]})
        if not answer["pending"]:
            break
        if time.monotonic() > deadline:
            raise ApiError(401, "too_late", "Nobody said yes in time.", "Begin anew: stratal login URL")
        time.sleep(begun["interval_seconds"])
    chosen = name or parts.netloc
    contexts.put(chosen, contexts.Context(address, str(answer["token"]), str(answer["project"])))
    told = {"context": chosen, "url": address, "person": answer["person"], "project": answer["project"]}
    if as_json:
        print_json(told)
    else:
        click.echo(f"Signed in at {address} as {answer['person']}, in project {answer['project']}.")
        note(
            "Commands now go there. Others: stratal context use NAME; this machine's own: stratal context use none"
        )


@click.group(epilog="Example: stratal context use stratal.example.org")
def context() -> None:
    """The places that this machine is signed in at, and which of them commands go to."""


@context.command("list")
@json_option
def list_contexts(as_json: bool) -> None:
    """List them; the one in use is marked."""
    current, found = contexts.read()
    rows = [
        {"name": name, "url": one.url, "project": one.project, "current": name == current}
        for name, one in sorted(found.items())
    ]
    if as_json:
        print_json({"contexts": rows})
        return
    print_table(
        ["", "Name", "Address", "Project"],
        [("→" if row["current"] else "", row["name"], row["url"], row["project"]) for row in rows],
        empty="Signed in nowhere. Sign in with: stratal login URL",
    )


@context.command("use")
@click.argument("name")
@json_option
def use(name: str, as_json: bool) -> None:
    """Let commands go to NAME; 'none': to the instance running on this machine."""
    contexts.use(None if name == "none" else name)
    if as_json:
        print_json({"current": None if name == "none" else name})
    else:
        click.echo(
            "Commands go to this machine's own instance." if name == "none" else f"Commands go to {name}."
        )


@context.command("rm")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Forget NAME, and end its key there."""
    kept = contexts.remove(name)
    ended = True
    try:
        Client(kept.url, kept.key).delete(f"/keys/{kept.key.partition('.')[0]}")
    except ApiError:
        ended = False
    if as_json:
        print_json({"name": name, "removed": True, "key_ended": ended})
    else:
        click.echo(f"Forgot {name}." + ("" if ended else " Its key could not be ended there: an owner can."))


@click.group(epilog="Example: stratal account totp")
def account() -> None:
    """Your own account: password and one-time codes."""


@account.command("show")
@json_option
def show(as_json: bool) -> None:
    """Show your account and the projects you are in."""
    found = Client().get("/account")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['name']}{' (admin)' if found['admin'] else ''}")
    click.echo(f"  password   {'set' if found['has_password'] else 'none'}")
    click.echo(f"  codes      {'asked for at sign-in' if found['has_totp'] else 'not asked for'}")
    for place in found["projects"]:
        click.echo(f"  project    {place['name']} ({place['role']})")


@account.command("password")
def password() -> None:
    """Set your password; everywhere you are signed in, you are signed out."""
    client = Client()
    old = ""
    if client.get("/account")["has_password"]:
        old = click.prompt("Old password", hide_input=True)
    new = click.prompt("New password", hide_input=True, confirmation_prompt=True)
    client.post("/account/password", {"old": old, "new": new})
    click.echo("Set.")


@account.command("totp")
@click.option("--off", is_flag=True, help="Ask for no code any more.")
def totp(off: bool) -> None:
    """Ask for a code of an authenticator app at sign-in."""
    client = Client()
    if off:
        client.post("/account/totp/drop", {"code": click.prompt("Code")})
        click.echo("No code is asked for any more.")
        return
    begun = client.post("/account/totp")
    click.echo("Give this address to your authenticator app:")
    click.echo(begun["uri"])
    client.request(
        "PUT", "/account/totp", json={"code": click.prompt("The code it shows"), "sealed": begun["sealed"]}
    )
    click.echo("From now on a code is asked for.")
