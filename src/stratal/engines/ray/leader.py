"""The actor that watches over a gang that spans machines: a supervisor on each, and all of them as if they were one.

It is to the bridge what a supervisor is: `start`, `news` until the end, `release`. It runs in the gang's first place.
Every supervisor is asked whether its machine is ready before any of them starts a member. When one part fails or its
machine is lost, the others are ended. The log is put together from theirs, in whole lines, as they come.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.engines.local.linked import read_log, status_of
from stratal.engines.ray import wire
from stratal.engines.ray.supervisor import CHUNK, NEWS_SECONDS, ready_node

_LOOK_SECONDS = 0.1
_SILENT_SECONDS = 60.0
_AGAIN_SECONDS = 1.0


class Part:
    """What of a gang is on one machine: `nodes` of it, the first of which is number `first`."""

    def __init__(self, actor: Any, machine: str, first: int, nodes: int) -> None:
        self.actor = actor
        self.machine = machine
        self.first = first
        self.nodes = nodes
        self.status: WorkloadStatus | None = None
        self.read = 0
        self.partial = b""

    @property
    def ended(self) -> bool:
        return self.status is not None and self.status.state != "running"


class Leader:
    """`parts`: for each machine its supervisor, its name, and how many of the gang's nodes are there."""

    def __init__(self, parts: Sequence[tuple[Any, str, int]]) -> None:
        self._parts: list[Part] = []
        for actor, machine, nodes in parts:
            self._parts.append(Part(actor, machine, sum(part.nodes for part in self._parts), nodes))
        self._node = ready_node()
        self._folder = Path(self._node.folder) / "gangs"
        self._spec: WorkloadSpec | None = None
        self._log = Path()
        self._asked = False
        self._started = False
        self._failed: Part | None = None
        self._starting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, plain: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
        """As a supervisor's."""
        async with self._starting:
            if self._started:
                return {"ok": self._told()}
            spec = self._spec = wire.spec_from(plain)
            ready = await asyncio.gather(*(part.actor.prepare.remote(plain, place) for part in self._parts))
            for answer in ready:
                if "error" in answer:
                    await self._release_all()
                    return dict(answer)
            assert spec.gang is not None
            master = ready[0]["ok"]
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._log = self._folder / spec.attempt_id
            self._log.touch(mode=0o600)
            starts = [part.actor.start.remote(self._plain(part, master), place) for part in self._parts]
            answers = await asyncio.gather(*starts, return_exceptions=True)
            self._started = True
            for part, answer in zip(self._parts, answers, strict=True):
                if isinstance(answer, BaseException):
                    self._end(part, f"was lost: {type(answer).__name__}")
                elif "error" in answer:  # what it was ready for a moment ago
                    self._end(part, f"could not start its part: {answer['error'][1]}")
                else:
                    part.status = status_of(answer["ok"])
                    self._tasks.append(asyncio.create_task(self._follow(part)))
            return {"ok": self._told()}

    async def news(self, offset: int) -> dict[str, Any]:
        """As a supervisor's."""
        if not self._started:
            return {"status": None, "log": b""}
        deadline = asyncio.get_running_loop().time() + NEWS_SECONDS
        while True:
            ended = all(part.ended for part in self._parts)  # looked at first: the log is whole then
            log = await asyncio.to_thread(read_log, self._log, offset, CHUNK)
            if log or ended or asyncio.get_running_loop().time() > deadline:
                return {"status": self._told(whole=ended and len(log) < CHUNK), "log": log}
            await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self, grace_seconds: float) -> None:
        self._asked = True
        await self._stop_all(grace_seconds)

    async def release(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._log.unlink(missing_ok=True)
        await self._release_all()

    # -- its parts -------------------------------------------------------------------------------

    def _plain(self, part: Part, master: dict[str, Any]) -> dict[str, Any]:
        """The specification of one part: its share of what the gang was given."""
        spec = self._spec
        assert spec is not None
        assert spec.gang is not None
        share = part.nodes / spec.gang.nodes
        gang = replace(
            spec.gang,
            nodes=part.nodes,
            part=(part.first, spec.gang.nodes, str(master["address"]), int(master["port"])),
        )
        return wire.spec_to(
            replace(
                spec,
                gang=gang,
                cpus=None if spec.cpus is None else spec.cpus * share,
                memory_bytes=None if spec.memory_bytes is None else int(spec.memory_bytes * share),
            )
        )

    async def _follow(self, part: Part) -> None:
        silent_since: float | None = None
        while not part.ended:
            try:
                async with asyncio.timeout(_SILENT_SECONDS):
                    news = await part.actor.news.remote(part.read)
            except (TimeoutError, ray.exceptions.ActorUnavailableError):
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _SILENT_SECONDS:
                    self._end(part, "cannot be reached")
                await asyncio.sleep(_AGAIN_SECONDS)
            except ray.exceptions.RayError as error:
                self._end(part, f"was lost: {type(error).__name__}")
            else:
                silent_since = None
                part.read += len(news["log"])
                self._write(part, news["log"])
                if news["status"] is not None:
                    self._hear(part, status_of(news["status"]))

    def _hear(self, part: Part, status: WorkloadStatus) -> None:
        if status.state != "running":
            self._write(part, b"", last=True)
        part.status = status
        bad = status.state == "unknown" or (part.ended and status.exit_code != 0)
        if bad and self._failed is None:
            self._failed = part
            others = [other for other in self._parts if not other.ended]
            if others and not self._asked:
                self._say(f"{part.machine}: {self._how(status)}: the rest of its gang is ended")
                assert self._spec is not None
                self._tasks.append(asyncio.create_task(self._stop_all(self._spec.grace_seconds)))

    def _end(self, part: Part, what: str) -> None:
        """Nothing more is heard of this part."""
        before = part.status or WorkloadStatus(
            attempt_id=self._spec.attempt_id if self._spec else "", state="running"
        )
        gone = replace(
            before,
            state="unknown",
            ended_at=time.time_ns() // 1_000_000,
            exit_code=None,
            reason=f"{part.machine} {what}",
            lost=True,
        )
        self._hear(part, gone)

    async def _stop_all(self, grace_seconds: float) -> None:
        for part in self._parts:
            if part.status is None or not part.ended:
                with contextlib.suppress(ray.exceptions.RayError):
                    await part.actor.stop.remote(grace_seconds)

    async def _release_all(self) -> None:
        for part in self._parts:
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                async with asyncio.timeout(_SILENT_SECONDS):
                    await part.actor.release.remote()

    # -- what is told ------------------------------------------------------------------------------

    def _told(self, *, whole: bool = False) -> dict[str, Any]:
        assert self._spec is not None
        statuses = [part.status for part in self._parts if part.status is not None]
        told = wire.together(
            self._spec.attempt_id, statuses, None if self._failed is None else self._failed.status
        )
        if told.state != "running" and not whole:
            told = replace(told, state="running", ended_at=None, exit_code=None)
        return wire.status_to(told)

    @staticmethod
    def _how(status: WorkloadStatus) -> str:
        if status.state == "unknown":
            return status.reason or "nobody saw its end"
        return status.reason or f"ended with exit code {status.exit_code}"

    def _write(self, part: Part, data: bytes, *, last: bool = False) -> None:
        """Append whole lines: those of others may come between."""
        *lines, part.partial = (part.partial + data).split(b"\n")
        if part.partial and (last or len(part.partial) > CHUNK):
            lines, part.partial = [*lines, part.partial], b""
        if lines:
            with self._log.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))

    def _say(self, text: str) -> None:
        with self._log.open("ab") as file:
            file.write(f"stratal: {text}\n".encode())
