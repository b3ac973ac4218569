"""The server's end of the keeper's socket: requests, answers, news; and a keeper where there is none."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratal.engines.local.keeper import BUSY, PROTOCOL
from stratal.engines.local.sandbox import program
from stratal.kernel.errors import Conflict, Denied, Internal, Invalid, StratalError, Unavailable

_log = logging.getLogger(__name__)
_LINE_LIMIT = 64 << 20
_PATIENCE = 20.0
_PERSISTENCE = 60.0
_BACKOFF = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_START_SECONDS = 15.0
_KINDS: dict[str, type[StratalError]] = {
    "invalid": Invalid,
    "conflict": Conflict,
    "denied": Denied,
    "unavailable": Unavailable,
}

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Companion:
    """Who is at the other end: the name of its files in the run directory, and how one is started there.

    The command returns once one listens, with `BUSY` when there is one already; ``--dir`` and the run
    directory are added to it.
    """

    name: str
    protocol: int
    command: Sequence[str]


KEEPER = Companion("keeper", PROTOCOL, (sys.executable, *program("keeper")))


class Link:
    """One connection to the keeper of `run_dir`, made again whenever it breaks, with a new keeper if need be.

    `on_all` is called with every status after each connection, `on_one` with each that changed since.
    A `companion` other than a keeper speaks the same protocol.
    """

    def __init__(
        self,
        run_dir: Path,
        on_all: Callable[[list[Status]], None],
        on_one: Callable[[Status], None],
        companion: Companion = KEEPER,
    ) -> None:
        self._run_dir = run_dir
        self._companion = companion
        self._on_all = on_all
        self._on_one = on_one
        self._connected = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: str = ""
        self._last: int | None = None
        """The request after whose answer the keeper leaves, and nobody is to look for another."""
        self._over = False
        self.keeper_pid: int | None = None

    async def open(self) -> None:
        """Connect, and stay connected until `close`. Raises `Unavailable` when there is no way."""
        if self._task is None:
            self._over = False
            self._task = asyncio.create_task(self._stay_connected(), name="keeper-link")
        await self._wait_connected()

    async def close(self) -> None:
        """Let go of the keeper, which goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def shutdown(self, *, kill: bool, grace_seconds: float) -> None:
        """Ask the keeper to leave, until it did; then start no other one."""
        await self.ask("shutdown", kill=kill, grace_seconds=grace_seconds)
        await self.close()

    async def ask(self, operation: str, **arguments: object) -> Any:
        """Send a request and return its answer; repeats it when the keeper died meanwhile (all are idempotent).

        Raises the error the keeper answered with, `Unavailable` when none answers in time.
        """
        deadline = time.monotonic() + _PERSISTENCE
        while time.monotonic() < deadline:
            await self._wait_connected()
            with contextlib.suppress(ConnectionError):
                return await self._ask(operation, arguments, last=operation == "shutdown")
        raise Unavailable(f"The {self._companion.name} dies at each request.", hint=self._hint)

    @property
    def _hint(self) -> str:
        return f"See {self._run_dir / self._companion.name}.log."

    async def _wait_connected(self) -> None:
        if self._task is None:
            raise Unavailable("The engine is not connected.")
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._connected.wait()
        except TimeoutError:
            raise Unavailable(
                f"The {self._companion.name} of {self._run_dir} cannot be reached: "
                f"{self._trouble or 'it does not answer'}.",
                hint=self._hint,
            ) from None

    async def _ask(self, operation: str, arguments: dict[str, object], *, last: bool = False) -> Any:
        writer = self._writer
        if writer is None:
            raise ConnectionError("not connected")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        if last:
            self._last = number
        try:
            writer.write(json.dumps({"id": number, "op": operation, **arguments}).encode() + b"\n")
            await writer.drain()
            return await answer
        except ConnectionError:
            self._disconnect(writer)  # else the next attempt would find us connected still
            raise
        finally:
            self._answers.pop(number, None)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen, also when writing failed first

    # -- the connection ------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        failures = 0
        while not self._over:
            await asyncio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
            reading: asyncio.Task[None] | None = None
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await self._dial()
                self._writer = writer
                reading = asyncio.create_task(self._read(reader, writer), name="keeper-read")
                await self._greet()
                failures, self._trouble = 0, ""
                self._connected.set()
                await reading
            except (OSError, ValueError, StratalError, subprocess.SubprocessError) as error:
                failures += 1
                self._trouble = str(error) or type(error).__name__
                _log.warning("%s: %s", self._companion.name, self._trouble)
            finally:
                if reading is not None:
                    reading.cancel()
                self._disconnect(writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        dialling = asyncio.ensure_future(asyncio.to_thread(self._channel))
        try:
            channel = await asyncio.shield(dialling)
        except asyncio.CancelledError:  # the thread goes on: what it finds is not wanted any more
            dialling.add_done_callback(_hang_up)
            raise
        return await asyncio.open_unix_connection(sock=channel, limit=_LINE_LIMIT)

    async def _greet(self) -> None:
        path = self._run_dir / f"{self._companion.name}.token"
        token = json.loads(await asyncio.to_thread(path.read_bytes))["token"]
        hello = await self._ask("hello", {"token": token})
        if (
            hello["protocol"] != self._companion.protocol
        ):  # left by another version: its workloads will be taken over
            await self._ask("shutdown", {"kill": False, "grace_seconds": 0})
            raise ConnectionError("a keeper of another version was asked to leave")
        self.keeper_pid = hello["pid"]
        self._on_all(await self._ask("watch", {}))

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take answers and news in until the connection ends; then nobody waits for an answer any more."""
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self._on_one(message["event"])
                    continue
                answer = self._answers.get(message["id"])
                if answer is None or answer.done():
                    continue
                if "error" in message:
                    kind, text = message["error"]
                    answer.set_exception(_KINDS.get(kind, Internal)(text))
                else:
                    self._over = self._over or message["id"] == self._last
                    answer.set_result(message["ok"])
        finally:
            self._disconnect(writer)

    def _disconnect(self, writer: asyncio.StreamWriter | None) -> None:
        """Give `writer`'s connection up, unless there is a newer one already."""
        if writer is None or writer is not self._writer:
            return
        self._connected.clear()
        self.keeper_pid = None
        self._writer = None
        writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the keeper went away"))

    # -- finding or starting a keeper (in a thread) ------------------------------------------------

    def _channel(self) -> socket.socket:
        try:
            return self._try()
        except (FileNotFoundError, ConnectionRefusedError):
            self._start_keeper()
            return self._try()

    def _try(self) -> socket.socket:
        folder = os.open(self._run_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                channel.connect(f"/proc/self/fd/{folder}/{self._companion.name}.sock")
                peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if struct.unpack("3i", peer)[1] != os.getuid():
                    raise PermissionError(f"what listens in {self._run_dir} belongs to somebody else")
            except BaseException:
                channel.close()
                raise
            channel.setblocking(False)
            return channel
        finally:
            os.close(folder)

    def _start_keeper(self) -> None:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = [*self._companion.command, "--dir", str(self._run_dir)]
        done = subprocess.run(
            argv,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode not in (0, BUSY):
            said = done.stderr.decode(errors="replace")[-500:]
            raise Unavailable(f"no {self._companion.name} could be started: {said}")


def _hang_up(dialling: "asyncio.Future[socket.socket]") -> None:
    if dialling.exception() is None:
        dialling.result().close()


def keeper_lives(run_dir: Path, name: str = KEEPER.name) -> bool:
    """True when a keeper (or another companion, `name`) holds the lock of `run_dir`."""
    try:
        with (run_dir / f"{name}.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
