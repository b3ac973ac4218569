"""The pool of one home: its files, its head on this machine, and how another machine's node is to join.

Whoever may read the home may join: the token that opens the pool's Ray lies in it, and a machine that joins
must see the home's disk anyway.
"""

import importlib.util
import os
import secrets
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path

from stratal.engines.local import process
from stratal.engines.local.link import keeper_lives
from stratal.engines.local.probe import machine
from stratal.engines.ray.settings import BridgeSettings, NodeSettings
from stratal.kernel.errors import Conflict, NotFound, Unavailable

_MARK = "disk.mark"
_JOIN_SECONDS = 180.0


def require_ray() -> None:
    """Raises `Unavailable`, with what to install, where Ray is not."""
    if importlib.util.find_spec("ray") is None:
        raise Unavailable(
            "The engine ray needs Ray, which is not installed beside the platform.",
            hint="Install it where Stratal is, on every machine: pip install 'stratal[ray]'",
            reason="no_ray",
        )


def prepare(folder: Path, home: Path, platform_socket: Path, interface: str, port: int) -> BridgeSettings:
    """The pool below `folder` of the platform at `home`, with its head on this machine at ``interface:port``."""
    require_ray()
    node_folder = folder / "node"
    node_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = _secret(node_folder / "ray.token")
    mark = folder / _MARK
    _secret(mark)
    cpus, memory = machine()
    address = f"{interface}:{port}"
    head = NodeSettings(
        pool="default",
        name=socket.gethostname(),
        folder=str(node_folder),
        interface=interface,
        address=address,
        head=True,
        cpus=cpus,
        memory_bytes=memory,
    )
    return BridgeSettings(
        pool="default",
        home=str(home),
        platform_socket=str(platform_socket),
        mark=[str(mark), mark.read_text()],
        address=address,
        interface=interface,
        token=str(token),
        head=asdict(head),
    )


def join(
    pool: Path,
    folder: Path,
    *,
    name: str,
    interface: str,
    cpus: float | None = None,
    memory_bytes: int | None = None,
    platform: str = "",
    idle_seconds: float | None = None,
) -> NodeSettings:
    """What a machine whose files lie in `folder` joins the pool at `pool` with. Raises `NotFound`, `Conflict`.

    `platform` is the ``host:port`` at which its workloads reach the platform; "" where that is this machine.
    With `idle_seconds` it leaves after so long without work.
    """
    require_ray()
    try:
        settings = BridgeSettings.read(pool / "pool.json")
    except FileNotFoundError:
        raise NotFound(
            f"There is no pool in {pool.parent.parent}.", hint="Start one with: stratal up --engine ray"
        ) from None
    if keeper_lives(folder, "node"):
        raise Conflict(
            f"{folder} is a node already.",
            hint="Another on this machine: --name NAME. Leave: stratal pool leave",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = folder / "ray.token"
    token.unlink(missing_ok=True)
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(Path(settings.token).read_text())
    own_cpus, own_memory = machine()
    return NodeSettings(
        pool=settings.pool,
        name=name,
        folder=str(folder),
        interface=interface,
        address=settings.address,
        head=False,
        cpus=own_cpus if cpus is None else cpus,
        memory_bytes=own_memory if memory_bytes is None else memory_bytes,
        url=platform,
        idle_seconds=idle_seconds,
    )


def wait_until_up(folder: Path, seconds: float = _JOIN_SECONDS) -> None:
    """Until the node in `folder` is in the pool. Raises `Unavailable` with its trouble."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = process.read_json(f"{folder}/state.json") or {}
        if state.get("state") == "up":
            return
        if not keeper_lives(folder, "node"):
            break
        time.sleep(0.1)
    state = process.read_json(f"{folder}/state.json") or {}
    raise Unavailable(
        f"The node did not get into the pool: {state.get('trouble') or 'it ended, or takes too long'}",
        hint=f"See {folder / 'node.log'} and {folder / 'ray.log'}.",
    )


def without_head(settings: BridgeSettings) -> BridgeSettings:
    """The same pool for whoever only looks: no head is started."""
    return replace(settings, head=None)


def _secret(path: Path) -> Path:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path
