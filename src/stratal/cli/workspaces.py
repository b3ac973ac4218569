"""``stratal workspace``: create, ls, show, open, start, stop, logs, saves, restore, rm."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import human_bytes, json_option, print_error, print_json, print_table, project_option
from stratal.cli.run import requirements_of
from stratal.cli.shown import Duration, Gpus, Size, ago, lasted, note
from stratal.sdk import Client


@click.group(epilog="Example: stratal workspace create eda --with pandas && stratal workspace open eda")
def workspace() -> None:
    """Notebooks and terminals that the project's people share: JupyterLab or marimo, kept and saved by the platform."""


def _path(client: Client, name: str, more: str = "") -> str:
    return client.path(f"/workspaces/{quote(name, safe='')}{more}")


@workspace.command(
    "create", epilog="Example: stratal workspace create eda --with pandas --with 'boto3>=1.44' --memory 4GiB"
)
@click.argument("name")
@click.option(
    "--program",
    type=click.Choice(["jupyter", "marimo", "terminal"]),
    default="jupyter",
    show_default=True,
    help="JupyterLab, marimo, or a shell in the browser; all of them shared live.",
)
@click.option("--memory", type=Size(), default="2GiB", help="What all in it may use together (default 2GiB).")
@click.option("--cpus", type=float, default=0.0, help="Processors kept for it (default: whatever is free).")
@click.option(
    "--gpus", type=Gpus(), metavar="[TYPE:]N", help="Whole GPUs, its own for as long as it runs: 1 or h100:2."
)
@click.option(
    "--idle",
    type=Duration(),
    default="1h",
    help="Stop it when nobody did anything in it for so long (default 1h; 0: never).",
)
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install.",
)
@click.option(
    "--with", "packages", multiple=True, metavar="PKG", help="A package to install, e.g. 'pandas>=2'."
)
@click.option(
    "--network",
    type=click.Choice(["platform", "open"]),
    default="platform",
    show_default=True,
    help="What it reaches: the platform alone, or everything.",
)
@project_option
@json_option
def create(
    name: str,
    program: str,
    memory: int,
    cpus: float,
    gpus: tuple[int, str | None] | None,
    idle: float,
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    network: str,
    project: str | None,
    as_json: bool,
) -> None:
    """Make the workspace NAME and start it. The first start builds its environment."""
    wanted = "".join(requirements_of(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    client = Client(project=project)
    asked = {
        "name": name,
        "program": program,
        "requirements": wanted,
        "memory_bytes": memory,
        "cpus": cpus,
        "gpus": gpus[0] if gpus else 0,
        "gpu_type": gpus[1] if gpus else None,
        "idle_seconds": idle,
        "network": network,
    }
    made = client.post(client.path("/workspaces"), asked)
    if as_json:
        print_json(made)
        return
    click.echo(f"Workspace {made['name']} is {made['state']}.")
    note(f"Open it: stratal workspace open {name}")


@workspace.command("ls")
@project_option
@json_option
def list_(project: str | None, as_json: bool) -> None:
    """List the project's workspaces."""
    client = Client(project=project)
    found = client.get(client.path("/workspaces"))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Name", "Program", "State", "Open by", "Memory", "Used", "Made by"],
        [
            (
                one["name"],
                one["program"],
                one["state"],
                ", ".join(one["visitors"]) or "nobody",
                human_bytes(one["memory_bytes"]),
                ago(one["used_at"]) if one["used_at"] else "",
                one["created_by"],
            )
            for one in found["workspaces"]
        ],
        empty="No workspaces. Make one with: stratal workspace create NAME",
        right=(4,),
    )


@workspace.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show how workspace NAME does, and what it is made of."""
    client = Client(project=project)
    seen = client.get(_path(client, name))
    if as_json:
        print_json(seen)
        return
    state = seen["state"] + (f": {seen['stopped_why']}" if seen["stopped_why"] else "")
    idle = f"stopped after {lasted(seen['idle_seconds'])} unused" if seen["idle_seconds"] else "never stopped"
    lines = [
        ("Workspace", f"{seen['name']} in project {seen['project']}"),
        ("Program", seen["program"]),
        ("State", state),
        ("Open by", ", ".join(seen["visitors"]) or "nobody"),
        ("Address", f"{seen['url']} (come in with: stratal workspace open {name})"),
        ("Packages", ", ".join(seen["requirements"]) or "the notebook server's"),
        ("Memory", human_bytes(seen["memory_bytes"])),
        ("Processors", f"{seen['cpus']:g}" if seen["cpus"] else "whatever is free"),
        ("GPUs", f"{seen['gpus']} {seen['gpu_type'] or ''}".strip() if seen["gpus"] else "none"),
        ("Network", "the platform alone" if seen["network"] == "platform" else "open"),
        ("Idle", idle),
        ("Acts as", seen["workload"]),
    ]
    if seen["failure"]:
        lines.append(("Trouble", seen["failure"]))
    for label, text in lines:
        click.echo(f"{label + ':':<12}{text}")


@workspace.command("open")
@click.argument("name")
@project_option
@json_option
def open_(name: str, project: str | None, as_json: bool) -> None:
    """Start workspace NAME if need be, and print a link that opens it, once, within a minute."""
    client = Client(project=project)
    made = client.post(_path(client, name, "/visits"), {})
    if as_json:
        print_json(made)
        return
    click.echo(made["url"])
    note("The link is yours, works once, and for a minute.")


@workspace.command("start")
@click.argument("name")
@project_option
@json_option
def start(name: str, project: str | None, as_json: bool) -> None:
    """Start workspace NAME."""
    client = Client(project=project)
    _said(client.post(_path(client, name, "/start"), {}), as_json)


@workspace.command("stop")
@click.argument("name")
@project_option
@json_option
def stop(name: str, project: str | None, as_json: bool) -> None:
    """Save what is open in workspace NAME, and stop it. Its files stay; its kernels end."""
    client = Client(project=project)
    _said(client.post(_path(client, name, "/stop"), {}), as_json)


def _said(seen: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(seen)
    else:
        click.echo(f"Workspace {seen['name']} is {seen['state']}.")


@workspace.command("logs")
@click.argument("name")
@project_option
def logs(name: str, project: str | None) -> None:
    """Print what the newest server of workspace NAME wrote."""
    client = Client(project=project)
    with client.stream("GET", _path(client, name, "/logs")) as answer:
        for chunk in answer.iter_bytes():
            sys.stdout.buffer.write(chunk)


@workspace.command("saves", epilog="Example: stratal workspace saves eda --path study.ipynb")
@click.argument("name")
@click.option("--path", help="Of this file only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many.")
@project_option
@json_option
def saves(name: str, path: str | None, limit: int, project: str | None, as_json: bool) -> None:
    """List the saves of the files of workspace NAME, newest first."""
    client = Client(project=project)
    asked = {"path": path, "limit": limit} if path is not None else {"limit": limit}
    found = client.request("GET", _path(client, name, "/saves"), params=asked)
    if as_json:
        print_json(found)
        return
    print_table(
        ["Save", "File", "Saved", "Size", "Content"],
        [
            (one["id"], one["path"], ago(one["saved_at"]), human_bytes(one["size"]), one["sha256"][:12])
            for one in found["saves"]
        ],
        empty="Nothing was saved yet.",
        right=(0, 3),
    )


@workspace.command(
    "restore",
    epilog="Examples: stratal workspace restore eda 41 · … 41 --to old.ipynb · … 41 --print > old.ipynb",
)
@click.argument("name")
@click.argument("save", type=click.IntRange(1))
@click.option("--to", help="Restore it as this file of the workspace instead of its own.")
@click.option("--print", "printed", is_flag=True, help="Write its bytes to standard output, change nothing.")
@project_option
@json_option
def restore(name: str, save: int, to: str | None, printed: bool, project: str | None, as_json: bool) -> None:
    """Put SAVE of workspace NAME back as the file. What the file is now is kept as a save first."""
    client = Client(project=project)
    if printed:
        if to is not None:
            raise click.UsageError("--print and --to exclude each other.")
        with client.stream("GET", _path(client, name, f"/saves/{save}/content")) as answer:
            if answer.is_error:
                answer.read()
                print_error(f"There is no save {save}.", f"List them with: stratal workspace saves {name}")
                raise SystemExit(6)
            for chunk in answer.iter_bytes():
                sys.stdout.buffer.write(chunk)
        return
    made = client.post(_path(client, name, f"/saves/{save}/restore"), {"path": to})
    if as_json:
        print_json(made)
    else:
        click.echo(f"Restored save {save} as {made['path']} (now save {made['id']}).")


@workspace.command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@project_option
@json_option
def remove(name: str, yes: bool, project: str | None, as_json: bool) -> None:
    """Remove workspace NAME with its files and all their saves. This cannot be undone."""
    if not yes:
        click.confirm(f"Remove workspace {name!r} with its files and all their saves?", abort=True)
    client = Client(project=project)
    client.delete(_path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed workspace {name}.")
