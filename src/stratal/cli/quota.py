"""``stratal quota``."""

from typing import Any

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.cli.shown import Size
from stratal.sdk import Client

_LABELS = {"cpus": "Processors", "memory_bytes": "Memory", "gpus": "GPUs", "jobs": "Jobs at once"}


class _Ceiling(click.ParamType):  # type: ignore[type-arg]
    """A value of another type, or ``none``."""

    def __init__(self, of: click.ParamType) -> None:  # type: ignore[type-arg]
        self.of = of
        self.name = of.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "none" if value == "none" else self.of.convert(value, param, ctx)


@click.group(
    epilog="Examples: stratal quota show -p team · stratal quota set team --cpus 8 --memory 32GiB --jobs none"
)
def quota() -> None:
    """What a project's jobs may hold at the same time."""


@quota.command("show")
@project_option
@json_option
def show_quota(project: str | None, as_json: bool) -> None:
    """Show the project's quota, and what its jobs hold now."""
    client = Client(project=project)
    _print(client.get(client.path("/quota")), as_json)


@quota.command("set")
@click.argument("project")
@click.option("--cpus", type=_Ceiling(click.FloatRange(0)), help="Processors.")
@click.option("--memory", type=_Ceiling(Size()), help="Memory, e.g. 32GiB.")
@click.option("--gpus", type=_Ceiling(click.IntRange(0)), help="GPUs.")
@click.option("--jobs", type=_Ceiling(click.IntRange(0)), help="Jobs at once.")
@json_option
def set_quota(project: str, cpus: Any, memory: Any, gpus: Any, jobs: Any, as_json: bool) -> None:
    """Change PROJECT's ceilings (instance admins only); 'none' lifts one, what is not named stays."""
    client = Client(project=project)
    quota = client.get(client.path("/quota"))["quota"]
    for name, value in (("cpus", cpus), ("memory_bytes", memory), ("gpus", gpus), ("jobs", jobs)):
        if value is not None:
            quota[name] = None if value == "none" else value
    _print(client.request("PUT", client.path("/quota"), json=quota), as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [
        (label, _shown(name, found["used"][name]), _shown(name, found["quota"][name]))
        for name, label in _LABELS.items()
    ]
    print_table([f"Project {found['project']}", "Used now", "At most"], rows, empty="", right=(1, 2))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "no ceiling"
    return human_bytes(value) if name == "memory_bytes" else f"{value:g}"
