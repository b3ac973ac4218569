"""The actor that watches over one workload, on the machine where it runs. One for each; runs inside of Ray.

It has the node's keeper start the workload and tells the bridge how it goes. It holds the workload's leash
(see `node`) for as long as it lives: Ray ends this actor when it gives the machine up, and with the leash
the node ends the workload. Answers are plain values: an exception would come back wrapped by Ray.
"""

import asyncio
import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.engines.local import process
from stratal.engines.local.adapter import LocalEngine
from stratal.engines.local.linked import read_log
from stratal.engines.ray import channel, wire
from stratal.engines.ray.settings import NodeSettings
from stratal.kernel.errors import Invalid, StratalError, Unavailable

CHUNK = 1 << 20
_LOOK_SECONDS = 0.1
_NEWS_SECONDS = 10.0
_LOST_GRACE_SECONDS = 5.0


class Supervisor:
    """`start`, then `news` until it says that the workload has ended, then `release`."""

    def __init__(self) -> None:
        folder = os.environ.get("STRATAL_NODE", "")
        if not folder:
            raise RuntimeError("this machine's Ray was not started by `stratal pool join`")
        self._node = NodeSettings.read(Path(folder) / "node.json")
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
            except Invalid as error:
                return {"error": ["invalid", error.message]}
            except (StratalError, OSError) as error:
                return {"error": ["unavailable", str(error)]}
            return {"ok": self._told()}

    async def news(self, offset: int) -> dict[str, Any]:
        """The log from `offset` and the status, once there is something new, or as it is after a while."""
        if self._status is None:
            return {"status": None, "log": b""}
        deadline = asyncio.get_running_loop().time() + _NEWS_SECONDS
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
        )
        await self._take_leash()
        await engine.connect()
        self._engine = engine
        status = await engine.start(spec)
        self._tasks.append(asyncio.create_task(self._watch(engine)))
        return status

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
