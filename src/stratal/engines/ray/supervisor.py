"""The actor that watches over one workload, on the machine where it runs; of a gang that spans machines, over its
part there (see `leader`). One for each; runs inside of Ray.

It has the node's keeper start the workload and tells the bridge how it goes. It holds the workload's leash
(see `node`) for as long as it lives: Ray ends this actor when it gives the machine up, and with the leash
the node ends the workload. Answers are plain values: an exception would come back wrapped by Ray.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.engines.local import process
from stratal.engines.local.adapter import LocalEngine, Zygotes
from stratal.engines.local.linked import read_log
from stratal.engines.ray import channel, wire
from stratal.engines.ray.settings import NodeSettings
from stratal.kernel.errors import Invalid, StratalError, Unavailable

CHUNK = 1 << 20
_LOOK_SECONDS = 0.1
NEWS_SECONDS = 10.0
_LOST_GRACE_SECONDS = 5.0


_SIOCGIFADDR = 0x8915


def ready_node() -> NodeSettings:
    """This machine's node, by whose raylet the actor was started."""
    folder = os.environ.get("STRATAL_NODE", "")
    if not folder:
        raise RuntimeError("this machine's Ray was not started by `stratal pool join`")
    return NodeSettings.read(Path(folder) / "node.json")


class Supervisor:
    """`start`, then `news` until it says that the workload has ended, then `release`."""

    def __init__(self) -> None:
        self._node = ready_node()
        self._engine: LocalEngine | None = None
        self._attempt_id = ""
        self._status: WorkloadStatus | None = None
        self._given_up = ""
        self._asked = False
        self._starting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._leash: asyncio.StreamWriter | None = None

    async def start(self, plain: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
        """``{"ok": status}`` or ``{"error": [kind, message]}``; the same attempt is started once."""
        async with self._starting:
            if self._status is not None:
                return {"ok": self._told()}
            try:
                self._status = await self._start(wire.spec_from(plain), place)
            except (StratalError, OSError) as error:
                return _refused(error)
            return {"ok": self._told()}

    async def prepare(self, plain: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
        """Be ready to `start` it: ``{"ok": {"address", "port"}}``, where its rank 0 could be met here, or an error."""
        async with self._starting:
            try:
                await self._ready(wire.spec_from(plain), place)
                return {"ok": {"address": self._node.interface, "port": free_port(self._node.interface)}}
            except (StratalError, OSError) as error:
                return _refused(error)

    async def news(self, offset: int) -> dict[str, Any]:
        """The log from `offset` and the status, once there is something new, or as it is after a while."""
        if self._status is None:
            return {"status": None, "log": b""}
        deadline = asyncio.get_running_loop().time() + NEWS_SECONDS
        while True:
            ended = self._status.state != "running"  # looked at first: its log is whole then
            log = await asyncio.to_thread(read_log, self._log, offset, CHUNK)
            if log or ended or asyncio.get_running_loop().time() > deadline:
                return {"status": self._told(whole=len(log) < CHUNK), "log": log}
            await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self, grace_seconds: float) -> None:
        """As the server asked."""
        self._asked = True
        await self._end(grace_seconds)

    async def _end(self, grace_seconds: float) -> None:
        if self._engine is not None:
            with contextlib.suppress(StratalError):
                await self._engine.stop(self._attempt_id, grace_seconds)

    async def release(self) -> None:
        """Everything about it is known elsewhere: forget it, and let go of the leash."""
        for task in self._tasks:
            task.cancel()
        if self._engine is not None:
            with contextlib.suppress(StratalError):
                await self._engine.release(self._attempt_id)
            await self._engine.close()
        if self._leash is not None:
            with contextlib.suppress(OSError):
                await self._tell("unleash")
                self._leash.close()

    # -- starting --------------------------------------------------------------------------------

    async def _start(self, spec: WorkloadSpec, place: dict[str, Any]) -> WorkloadStatus:
        engine = await self._ready(spec, place)
        if spec.gang is not None and spec.gang.part is not None:
            spec = replace(spec, env=_meeting(self._node.interface) | dict(spec.env))
        status = await engine.start(spec)
        self._tasks.append(asyncio.create_task(self._watch(engine)))
        return status

    async def _ready(self, spec: WorkloadSpec, place: dict[str, Any]) -> LocalEngine:
        if self._engine is not None:
            return self._engine
        self._attempt_id = spec.attempt_id
        if not self._shares(place):
            raise Invalid(f"{self._node.name} does not see the platform's disk.")
        node = self._node
        hidden = [Path(node.folder), node.temporary]
        socket = place["platform_socket"]
        engine = LocalEngine(
            node.keeper,
            Path(place["home"]),
            None if socket is None or node.url else Path(socket),
            platform_address=node.url or None,
            also_hidden=hidden,
            zygotes=Zygotes(memory_bytes=0),  # a node's memory is Ray's to give away
        )
        await self._take_leash()
        await engine.connect()
        self._engine = engine
        return engine

    def _shares(self, place: dict[str, Any]) -> bool:
        """Is the platform's disk this machine's, too? Then its paths are good here as they are."""
        if self._node.separate:
            return False
        path, text = place["mark"]
        try:
            return bool(Path(path).read_text() == text)
        except OSError:
            return False

    async def _watch(self, engine: LocalEngine) -> None:
        async for status in engine.watch():
            if status.attempt_id == self._attempt_id:
                self._status = status

    def _told(self, *, whole: bool = True) -> dict[str, Any]:
        """The status as the bridge is to know it: an end that is not told before the `whole` log was."""
        assert self._status is not None
        status = replace(self._status, node=self._node.name)
        if status.state != "running" and not whole:
            status = replace(status, state="running", ended_at=None, exit_code=None)
        elif status.state != "running" and not self._asked and status.reason.startswith("stopped"):
            why = self._given_up or f"{self._node.name} was lost"  # its node ended it, before it let us know
            status = replace(status, state="unknown", exit_code=None, lost=True, reason=why)
        return wire.status_to(status)

    @property
    def _log(self) -> Path:
        return self._node.keeper / "attempts" / self._attempt_id / "log"

    # -- the leash ---------------------------------------------------------------------------------

    async def _take_leash(self) -> None:
        if self._leash is not None:
            return
        try:
            channel_ = await asyncio.to_thread(channel.dial, self._node.folder, "node")
            reader, writer = await asyncio.open_unix_connection(sock=channel_)
        except OSError as error:
            raise Unavailable(f"nobody looks after {self._node.name}: {error}") from error
        self._leash = writer
        token = process.read_json(f"{self._node.folder}/node.token") or {}
        await self._tell("hello", token=token.get("token"))
        await self._tell("leash")
        for _ in range(2):
            answer = json.loads(await reader.readline() or b'{"error": ["", "it hung up"]}')
            if "error" in answer:
                writer.close()
                self._leash = None
                raise Unavailable(f"{self._node.name}: {answer['error'][1]}")
        self._tasks.append(asyncio.create_task(self._hold(reader)))

    async def _tell(self, operation: str, **more: object) -> None:
        assert self._leash is not None
        request = {"id": 1, "op": operation, "attempt_id": self._attempt_id, **more}
        self._leash.write(json.dumps(request).encode() + b"\n")
        await self._leash.drain()

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Until the node lets go of the leash, which ends the workload."""
        grace = _LOST_GRACE_SECONDS
        self_given_up = f"{self._node.name} lost what looked after it"
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                said = json.loads(line)
                if said.get("event") == "leaving":
                    grace, self_given_up = float(said["grace_seconds"]), f"{self._node.name} left the pool"
                    self._given_up = self_given_up
                    await self._end(grace)
        self._given_up = self._given_up or self_given_up
        await self._end(grace)


def _refused(error: Exception) -> dict[str, Any]:
    if isinstance(error, Invalid):
        return {"error": ["invalid", error.message]}
    return {"error": ["unavailable", str(error)]}


def free_port(interface: str) -> int:
    """A port of that address that nobody listens on right now."""
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((interface, 0))
        return int(probe.getsockname()[1])


def _meeting(interface: str) -> dict[str, str]:
    """What tells gloo, NCCL and torch's RPC to meet on this address's device, not where the host's name leads."""
    device = device_of(interface)
    return (
        dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"), device)
        if device
        else {}
    )


def device_of(interface: str) -> str:
    """The network device with that IPv4 address; "" when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                asked = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, asked)
            except OSError:  # it has no such address
                continue
            if socket.inet_ntoa(answer[20:24]) == interface:
                return name
    return ""
