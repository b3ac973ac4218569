"""``stratal pool``: the machines of a platform that runs with ``--engine ray``."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from stratal.app.processes import is_alive
from stratal.app.settings import Home
from stratal.cli.output import home_option, human_bytes, json_option, print_json, print_table
from stratal.cli.shown import Duration, Size
from stratal.kernel.errors import NotFound, Unavailable

_LEAVE_SECONDS = 90.0


@click.group(
    epilog="Examples: stratal pool ls · stratal pool join --home /shared/stratal --interface 10.0.0.7 · stratal pool leave"
)
def pool() -> None:
    """The machines that jobs run on with `stratal up --engine ray`."""


def _folder(name: str, folder: Path | None) -> Path:
    """A node's own files: on this machine's disk, apart for each name."""
    return (folder or Path(f"/var/tmp/stratal-node-{os.getuid()}-{name}")).absolute()  # noqa: S108


name_option = click.option(
    "--name", default=socket.gethostname, show_default="this machine's", help="What the node is called."
)
folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Its own files, on a disk of this machine (default: in /var/tmp).",
)


@pool.command("join")
@home_option
@name_option
@folder_option
@click.option(
    "--interface",
    default="127.0.0.1",
    show_default=True,
    help="The one address of this machine it listens on.",
)
@click.option("--cpus", type=click.FloatRange(1), help="Processors it offers (default: all).")
@click.option("--memory", type=Size(), help="Memory it offers, e.g. 32GiB (default: all).")
@click.option(
    "--platform", default="", metavar="HOST:PORT", help="Where jobs reach the platform, from another machine."
)
@click.option("--idle", type=Duration(), help="Leave after so long without a job, e.g. 10m (default: stay).")
@json_option
def join_pool(
    home: Path,
    name: str,
    folder: Path | None,
    interface: str,
    cpus: float | None,
    memory: int | None,
    platform: str,
    idle: float | None,
    as_json: bool,
) -> None:
    """Join this machine to the pool of the platform at --home, whose disk it must share."""
    from stratal.engines.ray import pool as ray_pool

    place = Home(home.expanduser().absolute())
    own = _folder(name, folder)
    node = ray_pool.join(
        place.ray,
        own,
        name=name,
        interface=interface,
        cpus=cpus,
        memory_bytes=memory,
        platform=platform,
        idle_seconds=idle,
    )
    node.write(own / "node.json")
    command = [sys.executable, "-I", "-m", "stratal.engines.ray.node", "--dir", str(own), "--detach"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"The node could not be started: {done.stderr.strip()[-300:]}")
    ray_pool.wait_until_up(own)
    if as_json:
        print_json({"name": name, "folder": str(own), "cpus": node.cpus, "memory_bytes": node.memory_bytes})
    else:
        click.echo(f"{name} is in the pool with {node.cpus:g} cpus and {human_bytes(node.memory_bytes)}.")


@pool.command("leave")
@name_option
@folder_option
@json_option
def leave_pool(name: str, folder: Path | None, as_json: bool) -> None:
    """Take this machine out of the pool: its jobs are asked to end, and tried again elsewhere (--retries)."""
    from stratal.engines.local import process

    own = _folder(name, folder)
    state = process.read_json(f"{own}/state.json")
    if state is None or not is_alive(int(state["pid"]), int(state["started"])):
        raise NotFound(f"There is no node in {own}.", hint="Name it: --name NAME or --folder DIR.")
    os.kill(int(state["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + _LEAVE_SECONDS
    while is_alive(int(state["pid"]), int(state["started"])):
        if time.monotonic() > deadline:
            raise Unavailable(f"{name} does not leave.", hint=f"See {own / 'node.log'}.")
        time.sleep(0.05)
    if as_json:
        print_json({"name": name, "left": True})
    else:
        click.echo(f"{name} has left the pool.")


@pool.command("ls")
@home_option
@json_option
def list_pool(home: Path, as_json: bool) -> None:
    """List the machines of the pool, and what waits for more of them."""
    from stratal.engines.local.link import keeper_lives
    from stratal.engines.ray.adapter import RayEngine, RayNode
    from stratal.engines.ray.settings import BridgeSettings

    place = Home(home.expanduser().absolute())
    if not keeper_lives(place.ray, "bridge"):
        raise NotFound(
            f"No pool runs on {place.root}.", hint="Start one with: stratal up --engine ray --detach"
        )
    engine = RayEngine(place.ray, BridgeSettings.read(place.ray / "pool.json"))

    async def ask() -> tuple[list[RayNode], list[tuple[float, int]]]:
        await engine.connect()
        try:
            return list(await engine.nodes()), list(await engine.demand())
        finally:
            await engine.close()

    found, waiting = asyncio.run(ask())
    if as_json:
        nodes = [
            {
                "name": node.name,
                "state": "up" if node.alive else "gone",
                "address": node.address,
                "cpus": node.cpus,
                "memory_bytes": node.memory_bytes,
                "jobs": node.workloads,
            }
            for node in found
        ]
        wanted = [{"cpus": cpus, "memory_bytes": memory} for cpus, memory in waiting]
        print_json({"nodes": nodes, "waiting": wanted})
        return
    rows = [
        (
            node.name,
            "up" if node.alive else "gone",
            node.address,
            f"{node.cpus:g}",
            human_bytes(node.memory_bytes),
            node.workloads,
        )
        for node in found
    ]
    print_table(
        ["Node", "State", "Address", "Cpus", "Memory", "Jobs"], rows, empty="No machine.", right=(3, 4, 5)
    )
    if waiting:
        wants = " · ".join(f"{cpus:g} cpus, {human_bytes(memory)}" for cpus, memory in waiting[:5])
        more = f" · {len(waiting) - 5} more" if len(waiting) > 5 else ""
        click.echo(f"No machine has room for: {wants}{more}")
