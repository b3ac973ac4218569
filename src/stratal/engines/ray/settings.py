"""How a pool's Ray and one of its nodes are to run: values, and the command and environment that follow.

Pure but for reading a machine's size. The values travel as JSON: the server writes them for the bridge,
the bridge or ``stratal pool join`` for a node.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from stratal.engines.local import process

OBJECT_STORE_BYTES = 80_000_000
"""Ray's least: supervisors exchange a workload's description and its log's lines, no data."""
MOST_TEMPORARY = 38
"""The longest path below which Ray's own ``session_…/sockets/plasma_store`` still fits a socket's 107 bytes."""
_LEAST_CPUS = 0.001
"""What a workload that asked for no processors takes: a place has to take something."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A refused connection counts at once, so a killed raylet is noticed after three seconds; one that is only
# slow to answer has three times ten.
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class _Stored:
    """Kept as a file of JSON that only its owner may read."""

    def write(self, path: Path) -> None:
        process.write_json(str(path), asdict(self))  # type: ignore[call-overload]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `FileNotFoundError`, `ValueError`."""
        values: dict[str, Any] = json.loads(path.read_bytes())
        return cls(**values)


@dataclass(frozen=True, slots=True)
class NodeSettings(_Stored):
    """One machine's part: a raylet, on `interface` alone; with `head` also the cluster's own services."""

    pool: str
    name: str
    folder: str
    """Its own files: keeper, attempts, environments; mode 0700."""
    interface: str
    address: str
    """The head's ``host:port``."""
    head: bool
    cpus: float
    memory_bytes: int
    gpus: int = 0
    object_store_bytes: int = OBJECT_STORE_BYTES
    url: str = ""
    """The platform's ``host:port``, where workloads reach it from this machine; "" on the platform's own."""
    separate: bool = False
    """Do as if the platform's disk were not here, even if it is."""
    idle_seconds: float | None = None
    """Leave after so long without work; None: stay."""
    every_interface: bool = False
    dashboard: bool = False
    autoscaling_config: str | None = None

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def token(self) -> Path:
        """The file with the secret that opens this Ray, and no other."""
        return Path(self.folder) / "ray.token"

    @property
    def keeper(self) -> Path:
        return Path(self.folder) / "keeper"

    @property
    def temporary(self) -> Path:
        """Ray's own folder: below the node's where socket paths allow, else in /tmp under a name of its own."""
        own = Path(self.folder) / "ray"
        if len(str(own)) <= MOST_TEMPORARY:
            return own
        return Path("/tmp") / f"stratal-{hashlib.sha256(self.folder.encode()).hexdigest()[:12]}"  # noqa: S108


@dataclass(frozen=True, slots=True)
class BridgeSettings(_Stored):
    """What the bridge needs to know: its pool, whom to connect to, and the head that it keeps up, if any."""

    pool: str
    home: str
    """The platform's home: hidden from workloads of machines that have it on their disk."""
    platform_socket: str | None
    mark: Sequence[str]
    """A file of this home, and what is in it: a machine that can read it there shares the platform's disk."""
    address: str
    interface: str
    token: str
    url: str = ""
    """The platform's address as its workloads are told it: replaced where a machine reaches it by another."""
    head: dict[str, Any] | None = None
    """The `NodeSettings` of the head that runs on this machine; None: somebody else keeps the cluster up."""


# -- what is run -----------------------------------------------------------------------------------


def start_command(node: NodeSettings) -> list[str]:
    """``ray start`` for this node, by way of `start`, which keeps it on its interface."""
    command = [sys.executable, "-I", "-m", "stratal.engines.ray.start", "start"]
    command += ["--node-ip-address", node.interface, "--node-name", node.name]
    command += ["--num-cpus", f"{int(node.cpus)}", "--memory", str(node.memory_bytes)]
    command += ["--num-gpus", str(node.gpus), "--object-store-memory", str(node.object_store_bytes)]
    command += ["--temp-dir", str(node.temporary), "--disable-usage-stats", "--include-log-monitor", "false"]
    # Workers' ports are the system's to choose: Ray's own range could hold the head's, or another node's.
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]
    if not node.head:
        return [*command, "--address", node.address]
    command += ["--head", "--port", str(node.port)]
    command += ["--include-dashboard", str(node.dashboard).lower()]
    command += ["--dashboard-host", node.interface] if node.dashboard else []
    command += ["--autoscaling-config", node.autoscaling_config] if node.autoscaling_config else []
    return command


def environment(node: NodeSettings, guard: Path | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of Ray's processes on this node. `guard` keeps them on the interface.

    Ray's token is a file, never a variable: a variable could be read off the process list.
    """
    kept = {key: inherited[key] for key in ("HOME", "LANG", "TZ", "SSL_CERT_FILE") if key in inherited}
    values = {
        "PATH": f"{os.path.dirname(sys.executable)}:{_PATH}",
        "LANG": "C.UTF-8",
        **kept,
        **access(node.token),
        **_HEALTH,
        "RAY_memory_monitor_refresh_ms": "0",  # workloads have limits of their own, which name the guilty
        "STRATAL_NODE": node.folder,
    }
    if guard is not None:
        values |= {"LD_PRELOAD": str(guard), "STRATAL_BIND_ADDRESS": node.interface}
    return values


def access(token: Path) -> dict[str, str]:
    """The variables with which a process is let into the cluster."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }


def bundle(cpus: float | None, memory_bytes: int | None, gpus: float = 0) -> dict[str, float]:
    """What a workload takes of a machine."""
    wants: dict[str, float] = {"CPU": round(cpus or _LEAST_CPUS, 4)}
    if memory_bytes:
        wants["memory"] = memory_bytes
    if gpus:
        wants["GPU"] = gpus
    return wants


def is_loopback(interface: str) -> bool:
    return interface == "::1" or interface.startswith("127.")
