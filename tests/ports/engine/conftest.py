"""The adapters that the suite runs over, and a bench that runs workloads on each and cleans up by pid."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stratal.compute.engine import Engine, WorkloadSpec, WorkloadStatus
from stratal.engines.local import landlock
from stratal.engines.local.adapter import Fences, LocalEngine
from stratal.engines.local.probe import try_bubblewrap

PYTHON = os.path.realpath(sys.executable)
BOUND = 30.0
"""Seconds that anything may take before a test says that it does not happen."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Bench:
    """An engine on a home of its own, with a second workload's folder lying beside ours."""

    kind: str
    home: Path
    run_dir: Path
    fences: Fences
    platform_socket: Path
    engine: LocalEngine = field(init=False)
    keepers: set[int] = field(default_factory=set)
    count: int = 0

    @property
    def boxed(self) -> bool:
        return self.kind == "bubblewrap"

    @property
    def isolate(self) -> bool:
        return self.kind != "plain"

    def new_engine(self) -> LocalEngine:
        return LocalEngine(self.run_dir, self.home, self.platform_socket, fences=self.fences)

    async def connect(self) -> None:
        self.engine = self.new_engine()
        await self.engine.connect()

    def folder(self, name: str = "work") -> Path:
        path = self.home / "jobs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def spec(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **more: Any) -> WorkloadSpec:
        self.count += 1
        more.setdefault("attempt_id", f"att_{self.count}")
        more.setdefault("cwd", self.folder())
        more.setdefault("isolate", self.isolate)
        return WorkloadSpec(argv=argv, env={"PATH": "/usr/bin:/bin", **(env or {})}, **more)

    def sh(self, script: str, **more: Any) -> WorkloadSpec:
        return self.spec(["/bin/sh", "-c", script], **more)

    def python(self, code: str, *arguments: str, **more: Any) -> WorkloadSpec:
        return self.spec([PYTHON, "-I", "-S", "-c", code, *arguments], **more)

    async def run(self, spec: WorkloadSpec) -> WorkloadStatus:
        """Start it and wait for its end."""
        await self.engine.start(spec)
        return await self.ended(spec.attempt_id)

    async def ended(self, attempt_id: str, engine: Engine | None = None) -> WorkloadStatus:
        async with asyncio.timeout(BOUND), contextlib.aclosing(_watch(engine or self.engine)) as statuses:
            async for status in statuses:
                if status.attempt_id == attempt_id and status.state != "running":
                    return status
        raise AssertionError(f"{attempt_id} never ended")

    async def log(self, attempt_id: str) -> str:
        return (await self.engine.logs(attempt_id, 0)).decode(errors="backslashreplace")

    async def said(self, attempt_id: str, text: str) -> str:
        """Wait until the log holds `text`; returns the log."""
        async with asyncio.timeout(BOUND):
            while text not in (log := await self.log(attempt_id)):
                await asyncio.sleep(0.01)
        return log

    def kill_keeper(self) -> int:
        pid = self.engine.keeper_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    async def close(self) -> None:
        with contextlib.suppress(AttributeError):
            await self.engine.close()
        last = self.new_engine()
        await last.connect()
        await last.shutdown(kill=True, grace_seconds=0)


async def _watch(engine: Engine) -> AsyncIterator[WorkloadStatus]:
    async for status in engine.watch():
        yield status


async def until(condition: Callable[[], object]) -> None:
    """Wait, with a generous bound, for `condition`."""
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.02)


def processes(marker: str) -> list[int]:
    """Processes of this machine that name `marker` in their arguments, sandboxed ones included."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def fences_of(kind: str) -> Fences:
    """What the engine may use; skips the test where this machine has it not."""
    if kind == "bubblewrap":
        box = try_bubblewrap()
        if not (box.usable and box.network):
            pytest.skip(f"bubblewrap cannot be used here: {box.why_not}")
        return Fences()
    if kind == "landlock":
        if not landlock.abi():
            pytest.skip("this kernel has no landlock")
        return Fences(bubblewrap=False)
    return Fences(bubblewrap=False, landlock=False)


@pytest.fixture(params=["plain", "landlock", "bubblewrap"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """The local engine: with nothing but processes, with landlock alone, and with bubblewrap."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "admin.key").write_text("the platform's secret")
    bench = Bench(request.param, home, home / "run", fences_of(request.param), home / "server.sock")
    await bench.connect()
    yield bench
    await bench.close()
