"""A machine of the pool: runs its raylet, holds its workloads' leashes, and clears up when either is gone.

    python -m stratal.engines.ray.node --dir <node's folder> [--detach]

A supervisor keeps a connection open for its workload, the *leash*. When the leash goes without a word
(the supervisor was killed, Ray gave it up, the raylet died with all it ran) the workload is stopped: what
Ray lost may be running again elsewhere. A raylet that died is started again, as a new node of Ray's.

On SIGTERM, and after `idle_seconds` without a leash, the machine leaves: Ray places nothing here any
more, what runs is asked to end and counts as lost, so that it goes on elsewhere from its checkpoint.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stratal.engines.local import process
from stratal.engines.local.adapter import LocalEngine
from stratal.engines.local.keeper import BUSY
from stratal.engines.ray import bindguard, channel
from stratal.engines.ray.settings import NodeSettings, environment, start_command
from stratal.kernel.errors import StratalError, Unavailable

PROTOCOL = 1
NAME = "node"
LEAVE_GRACE_SECONDS = 30.0
_LOST_GRACE_SECONDS = 5.0
_START_SECONDS = 90.0
_STOP_SECONDS = 5.0
_AGAIN_SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)
_STEADY_SECONDS = 120.0
_log = logging.getLogger(__name__)


class Node:
    """`run` until the machine is to leave."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self._folder = Path(settings.folder)
        self._engine = LocalEngine(settings.keeper, self._folder, None)
        operations = {"leash": self._leash, "unleash": self._unleash}
        self._channel = channel.Channel(settings.folder, NAME, PROTOCOL, operations, self._let_go)
        self._leashes: dict[str, channel.Client] = {}
        self._idle_since = time.monotonic()
        self._starter = 0
        self._down = asyncio.Event()
        self._leaving = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        process.become_subreaper()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._leaving.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        await self._engine.connect()
        self._end_ray(signal.SIGKILL)  # of one before us that was killed
        await self._end_workloads("its machine was started again", 0)
        await asyncio.to_thread(process.remove_tree, str(self._folder / "gangs"))
        async with await self._channel.open(listener):
            try:
                await self._stay_up()
                await self._leave()
            finally:
                await self._stop_ray()
                await self._engine.shutdown(kill=True, grace_seconds=_LOST_GRACE_SECONDS)
                self._record("left")
        await asyncio.to_thread(process.remove_tree, str(self.settings.temporary))

    # -- Ray -----------------------------------------------------------------------------------

    async def _stay_up(self) -> None:
        failures = 0
        while not self._leaving.is_set():
            begun = time.monotonic()
            try:
                await self._start_ray()
                await self._until_down()
                failures = 0 if time.monotonic() - begun > _STEADY_SECONDS else failures
            except StratalError as error:
                _log.warning("%s", error)
                self._record("trouble", trouble=str(error))
                if error.reason == "not_confined" or error.status == 400:
                    raise
            await self._end_workloads("its machine lost Ray", _LOST_GRACE_SECONDS)
            await self._stop_ray()
            if not self._leaving.is_set():
                pause = _AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)]
                failures += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._leaving.wait()

    async def _start_ray(self) -> None:
        """Raises `Unavailable` when it does not come up, or would listen where it must not."""
        settings = self.settings
        self._record("starting")
        every = settings.every_interface
        guard = await asyncio.to_thread(
            bindguard.guard, self._folder, settings.interface, every_interface=every
        )
        _make_private(settings.temporary)
        environ = environment(settings, guard, os.environ)
        out = self._folder / "ray.log"
        with out.open("ab") as log:
            starter = subprocess.Popen(  # noqa: ASYNC220  # it forks; waiting is what takes long
                start_command(settings),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._starter = starter.pid
        try:
            code = await self._wait_for(starter)
        finally:
            self._starter = 0
        raylet = self._named("raylet")
        if code or raylet is None:
            lines = out.read_text(errors="replace").strip().splitlines()[-50:]
            said = [line for line in lines if "Error: " in line][-1:] or lines[-1:]
            raise Unavailable(
                f"Ray did not start on {settings.name}: {' '.join(said)[-300:]}", hint=f"See {out}."
            )
        if not every and (wide := bindguard.open_to_all(self._ray())):
            raise Unavailable(
                f"Ray listens on every interface ({', '.join(wide)}), not on {settings.interface} alone.",
                hint="Nothing was left running. --every-interface allows it.",
                reason="not_confined",
            )
        self._down.clear()
        for pid in (raylet, self._named("gcs_server") if settings.head else None):
            if pid is not None:
                self._watch(pid)
        self._idle_since = time.monotonic()
        self._record("up", raylet=raylet, node_id=_node_id(raylet))
        _log.info("%s is up: raylet %d", settings.name, raylet)

    async def _wait_for(self, starter: "subprocess.Popen[bytes]") -> int:
        """The starter's exit code; it is ended when it takes too long, or when the machine is to leave."""
        waiting = asyncio.ensure_future(asyncio.to_thread(starter.wait))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait(
                {waiting, leaving}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not waiting.done():
                starter.kill()
            return await waiting
        finally:
            leaving.cancel()

    def _watch(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._down.set()
            return

        def ended() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._down.set()

        loop.add_reader(fd, ended)

    async def _until_down(self) -> None:
        down = asyncio.ensure_future(self._down.wait())
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            while not (down.done() or leaving.done()):
                patience = self._patience()
                await asyncio.wait({down, leaving}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if self._patience() == 0.0 and await self._drain("IDLE_TERMINATION", "it was idle"):
                    _log.info("%s was idle: it leaves", self.settings.name)
                    self._leaving.set()
        finally:
            down.cancel()
            leaving.cancel()
        if self._down.is_set():
            _log.warning("Ray on %s died", self.settings.name)

    def _patience(self) -> float | None:
        """How many seconds more this machine may be idle."""
        if self.settings.idle_seconds is None:
            return None
        if self._leashes:
            return self.settings.idle_seconds
        return max(0.0, self._idle_since + self.settings.idle_seconds - time.monotonic())

    async def _drain(self, reason: str, message: str) -> bool:
        """Ask Ray to place nothing here any more; False when it does not agree (it has just placed something)."""
        node = process.read_json(f"{self._folder}/state.json") or {}
        command = [*start_command(self.settings)[:4], "drain-node", "--address", self.settings.address]
        command += ["--node-id", str(node.get("node_id", "")), "--reason", f"DRAIN_NODE_REASON_{reason}"]
        command += ["--reason-message", message]
        command += ["--deadline-remaining-seconds", f"{LEAVE_GRACE_SECONDS:.0f}"]
        environ = environment(self.settings, None, os.environ)
        done = await asyncio.to_thread(
            subprocess.run, command, env=environ, capture_output=True, check=False, timeout=_START_SECONDS
        )
        if done.returncode:
            self._idle_since = time.monotonic()
        return done.returncode == 0

    async def _stop_ray(self) -> None:
        """Politely, the raylet first, so that the cluster hears of it; then what is left."""
        raylet = self._named("raylet")
        if raylet is not None:
            process.signal_all([raylet], signal.SIGTERM)
            await self._gone({"raylet"})
        self._end_ray(signal.SIGTERM)
        await self._gone(None)
        while self._ray():
            self._end_ray(signal.SIGKILL)
            await asyncio.sleep(0.05)

    async def _gone(self, names: set[str] | None) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if not any(names is None or process.program_name(pid) in names for pid in self._ray()):
                return
            await asyncio.sleep(0.05)

    def _ray(self) -> list[int]:
        """Ray's processes on this node, those included that lost their raylet."""
        return ray_processes(self.settings)

    def _end_ray(self, signum: int) -> None:
        process.signal_all(self._ray(), signum)

    def _named(self, name: str) -> int | None:
        return next((pid for pid in self._ray() if process.program_name(pid) == name), None)

    def _reap(self) -> None:
        for child in process.children(os.getpid()):
            if child != self._starter:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)

    # -- leashes ---------------------------------------------------------------------------------

    async def _leash(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        if self._leaving.is_set():
            raise Unavailable("this machine is leaving the pool")
        name = str(request["attempt_id"])
        self._leashes[name] = client
        client.held.add(name)
        return {"node": self.settings.name}

    async def _unleash(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        """The workload has ended, and its supervisor has told all about it."""
        client.held.discard(str(request["attempt_id"]))
        self._leashes.pop(str(request["attempt_id"]), None)
        self._idle_since = time.monotonic()
        return {}

    def _let_go(self, client: channel.Client) -> None:
        for name in client.held:
            if self._leashes.get(name) is client:
                del self._leashes[name]
                _log.warning("%s lost its supervisor: it is stopped", name)
                self._later(self._end_workload(name, "its supervisor is gone", _LOST_GRACE_SECONDS))
        self._idle_since = time.monotonic()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _end_workload(self, attempt_id: str, why: str, grace: float) -> None:
        try:
            for status in await self._engine.adopt():
                if status.attempt_id == attempt_id:
                    if status.state == "running":
                        await self._engine.stop(attempt_id, grace)
                        await self._ended(attempt_id)
                    await self._engine.release(attempt_id)
        except StratalError as error:
            _log.warning("%s (%s) cannot be ended: %s", attempt_id, why, error)

    async def _ended(self, attempt_id: str) -> None:
        async with contextlib.aclosing(self._engine.watch()) as statuses:  # type: ignore[type-var]
            async for status in statuses:
                if status.attempt_id == attempt_id and status.state != "running":
                    return

    async def _end_workloads(self, why: str, grace: float) -> None:
        self._leashes.clear()
        statuses = await self._engine.adopt()
        await asyncio.gather(*(self._end_workload(status.attempt_id, why, grace) for status in statuses))

    # -- leaving ---------------------------------------------------------------------------------

    async def _leave(self) -> None:
        self._record("leaving")
        if self._named("raylet") is not None and self._leashes:
            await self._drain("PREEMPTION", "its machine leaves the pool")
        for client in {*self._leashes.values()}:
            client.send({"event": "leaving", "grace_seconds": LEAVE_GRACE_SECONDS})
        deadline = time.monotonic() + LEAVE_GRACE_SECONDS + _STOP_SECONDS
        while self._leashes and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await self._end_workloads("its machine left", 0)

    def _record(self, state: str, **more: object) -> None:
        now = {"pid": os.getpid(), "started": process.start_time(os.getpid()), "boot": process.boot_id()}
        said = {**now, "state": state, "at": int(time.time() * 1000), **more}
        process.write_json(f"{self._folder}/state.json", said, durable=False)


def ray_processes(settings: NodeSettings) -> list[int]:
    """Every process of this node's Ray: they name its temporary folder, or were started by one that does."""
    marker = str(settings.temporary).encode()
    variable = f"STRATAL_NODE={settings.folder}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes()
                if words and (marker in words or words.startswith(b"ray::")) and _of(entry.path, variable):
                    found.append(int(entry.name))
    return found


def _of(folder: str, variable: bytes) -> bool:
    return variable in Path(folder, "environ").read_bytes().split(b"\0")


def _node_id(raylet: int) -> str:
    for word in Path(f"/proc/{raylet}/cmdline").read_bytes().split(b"\0"):
        if word.startswith(b"--node_id="):
            return word.removeprefix(b"--node_id=").decode()
    return ""


def _make_private(folder: Path) -> None:
    """Make Ray's folder anew, refusing one that somebody else could have prepared for us."""
    with contextlib.suppress(OSError):
        process.remove_tree(str(folder))
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise Unavailable(
                f"{folder} is not this user's alone.", hint="Remove it, then start again."
            ) from None


def main(arguments: Sequence[str]) -> None:
    """Run in the foreground, or with ``--detach`` return once the node answers on its socket."""
    folder = os.path.abspath(arguments[arguments.index("--dir") + 1])
    os.umask(0o077)
    lock = channel.take(folder, NAME)
    if lock is None:
        print(f"a node runs in {folder} already", file=sys.stderr)
        sys.exit(BUSY)
    settings = NodeSettings.read(Path(folder) / "node.json")
    listener = channel.listen(folder, NAME)
    if "--detach" in arguments:
        channel.detach(f"{folder}/node.log")
    channel.sign(lock)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(Node(settings).run(listener))
    except StratalError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
