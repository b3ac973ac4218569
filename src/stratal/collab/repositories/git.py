"""Running git: its own processes, a fixed environment, configuration by us alone, an end to time and output.

Nothing that somebody pushed is ever configuration or a hook here: the system's and the user's own
configuration are shut out, a repository's is what `init` wrote, hooks come from one folder of ours.

Sixteen kilobytes can say "this file, a thousand times over", and ten trees can hold ten thousand million files. So
every process has a bound of memory, and a read an end of time: the machine outlives what somebody pushed.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio.to_thread

from stratal.kernel.errors import NotFound, TooLarge, Unavailable

MOST_MEMORY = 1 << 30
"""Bytes for one git process of ours, and for each that it starts."""
_MOST_AT_ONCE = "513m"
"""What git may ask for in one go. Its clients send files over 512 MiB as they are, never as a change of another."""
_LIMIT = 1 << 20
_BOUNDED = f'ulimit -d {MOST_MEMORY >> 10}; exec "$0" "$@"'

CONFIG: Mapping[str, str] = {
    "core.fsync": "committed,reference",  # a push that was answered survives a power cut, refs included
    "core.fsyncMethod": "batch",
    "core.alternateRefsCommand": "true",  # a push looks at the repository as at another's: its refs are known already
    "core.attributesFile": "/dev/null",
    "core.packedGitLimit": "256m",
    "core.bigFileThreshold": "32m",
    "core.logAllRefUpdates": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.getanyfile": "false",
    "http.receivepack": "true",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "pack.writeBitmapHashCache": "true",
    "protocol.allow": "never",
    "receive.autogc": "false",
    "receive.fsckObjects": "true",
    "receive.unpackLimit": "10",  # each loose object is synced by itself, a pack as one
    "receive.advertisePushOptions": "false",
    # These hurt nobody and stand in the history of many old repositories.
    "receive.fsck.zeroPaddedFilemode": "warn",
    "receive.fsck.badTimezone": "warn",
    "receive.fsck.missingSpaceBeforeDate": "warn",
    "safe.directory": "*",  # the folders are ours, whoever started the server
    "transfer.fsckObjects": "true",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.hideRefs": "refs/stratal",
    "uploadpackfilter.sparse:oid.allow": "false",  # patterns of a client's own, held against every path
    "receive.hideRefs": "refs/stratal",
}


class Failed(Exception):
    """git ended with another code than 0; `said` is what it wrote to stderr, cut."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


def environment(
    path: str, hooks: Path, config: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a git process. `path` is where programs are, `hooks` the one folder of hooks."""
    told = {**CONFIG, "core.hooksPath": str(hooks), **(config or {})}
    numbered = {}
    for number, (name, value) in enumerate(told.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = name
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "PATH": path,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOC_LIMIT": _MOST_AT_ONCE,
        "GIT_CONFIG_COUNT": str(len(told)),
        **numbered,
        **(more or {}),
    }


async def own_program(name: str, env: Mapping[str, str], *, cwd: Path) -> str | None:
    """Where git's own program ``git-<name>`` lies: started as such it spares a process that only starts it."""
    try:
        data, _ = await run(["--exec-path"], env, cwd=cwd, most=1 << 12)
    except (Failed, Unavailable):
        return None
    found = Path(data.decode("utf-8", "surrogateescape").strip()) / f"git-{name}"
    return str(found) if os.access(found, os.X_OK) else None


class Process:
    """A process that `start` has started, with its streams. `close` it when its streams are wanted no more.

    It is made by `subprocess`, whose child shares the server's memory until it runs git. An event loop's own way copies the
    page tables of the whole server first, which took longer than a small fetch.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid = process.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout = asyncio.StreamReader(limit=_LIMIT)
        self.stderr = asyncio.StreamReader(limit=_LIMIT)
        self._process = process
        self._transports: list[asyncio.BaseTransport] = []

    @property
    def returncode(self) -> int | None:
        """The exit code; None: it has not ended."""
        return self._process.poll()

    async def wait(self) -> int:
        """The exit code, when it has ended."""
        if self._process.poll() is None:
            try:
                watched = os.pidfd_open(self.pid)
            except OSError:  # a kernel before 5.3
                return await anyio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(watched, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        return self._process.wait()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()

    async def join(self) -> None:
        """Have the event loop carry its streams."""
        loop = asyncio.get_running_loop()
        for reader, pipe in ((self.stdout, self._process.stdout), (self.stderr, self._process.stderr)):
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            transport, _ = await loop.connect_read_pipe(lambda p=protocol: p, _Handed(pipe, loop))  # type: ignore[misc]
            self._transports.append(transport)
        if self._process.stdin is not None:
            heard = asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop)
            out, _ = await loop.connect_write_pipe(lambda: heard, _Handed(self._process.stdin, loop))
            self._transports.append(out)
            self.stdin = asyncio.StreamWriter(out, heard, None, loop)


class _Handed:
    """A pipe's descriptor, handed to an event loop, to be closed once.

    uvloop closes the descriptor itself and the object that it was given afterwards, when its number may be another
    thread's file already: the database's, say. asyncio's own loops close the object alone.
    """

    def __init__(self, pipe: IO[bytes] | None, loop: asyncio.AbstractEventLoop) -> None:
        assert pipe is not None
        with pipe:
            self._descriptor = os.dup(pipe.fileno())
        self._is_mine = isinstance(loop, asyncio.BaseEventLoop)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._is_mine:
            os.close(self._descriptor)


async def start(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path,
    stdin: int = subprocess.DEVNULL,
    program: str = "git",
    bounded: bool = True,
) -> Process:
    """Start ``git <arguments>`` in a process group of its own. Raises `Unavailable` where there is no git, `NotFound`
    where `cwd` is not there any more.

    `bounded` False spares the shell that says what memory it may have, for what reads nothing that somebody pushed.
    """
    found = shutil.which(program, path=env["PATH"])
    if found is None:
        raise Unavailable(
            "git is not installed on the platform's machine.",
            hint="Install it there (Debian: apt-get install git), then try again.",
            reason="no_git",
        )
    argv = ["/bin/sh", "-c", _BOUNDED, found, *arguments] if bounded else [found, *arguments]
    try:
        # Here and not in a thread: it takes a millisecond, in which no other thread could do anything either.
        process = subprocess.Popen(  # noqa: ASYNC220
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            bufsize=0,
        )
    except FileNotFoundError as error:
        raise NotFound("The repository was removed a moment ago.", reason="no_such_repository") from error
    made = Process(process)
    joining = asyncio.create_task(
        made.join()
    )  # whole or not at all: half-joined pipes would be nobody's to close
    try:
        await asyncio.shield(joining)
    except BaseException:
        end(made)
        await asyncio.wait({joining})
        await made.wait()
        made.close()
        raise
    return made


async def run(
    arguments: Sequence[str], env: Mapping[str, str], *, cwd: Path, most: int, seconds: float = 20.0
) -> tuple[bytes, bool]:
    """What ``git <arguments>`` printed, and whether it was cut at `most` bytes.

    Raises `Failed` for another exit code than 0, `Unavailable` when it takes longer than `seconds`, `TooLarge` when it
    needs more memory than it is given.
    """
    process = await start(arguments, env, cwd=cwd)
    try:
        async with asyncio.timeout(seconds):
            data, cut, said = await _read(process, most)
            if cut:
                end(process)
            code = await process.wait()
    except TimeoutError as error:
        raise Unavailable(
            f"git took longer than {seconds:.0f} s over this.",
            hint="Ask for less: a folder, a file, fewer commits; or clone it.",
            reason="git_timeout",
        ) from error
    finally:
        end(process)
        await process.wait()
        process.close()
    if code != 0 and not cut:
        raise failure(code, said)
    return data, cut


def failure(code: int, said: str) -> Failed | TooLarge:
    """What an exit code means, by what git `said`."""
    if any(words in said.lower() for words in ("out of memory", "attempting to allocate", "mmap failed")):
        return TooLarge(
            f"git needs more memory for this than the {MOST_MEMORY >> 20} MiB that it is given here.",
            hint="Ask for less: a folder, a file, fewer commits; or clone it.",
            reason="git_memory",
        )
    return Failed(code, said)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process printed to both, cut, and its exit code."""

    code: int
    out: bytes
    err: str


async def ended(process: Process, *, seconds: float, most: int = 1 << 20) -> Ended:
    """Let it come to its end; for commands whose exit code is an answer. Raises `Unavailable` after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            out, _, err = await _read(process, most)
            return Ended(await process.wait(), out, err)
    except TimeoutError as error:
        raise Unavailable(f"git took longer than {seconds:.0f} s over this.", reason="git_timeout") from error
    finally:
        end(process)
        await process.wait()
        process.close()


async def _read(process: Process, most: int) -> tuple[bytes, bool, str]:
    said = asyncio.create_task(drained(process.stderr))
    chunks: list[bytes] = []
    size = 0
    while size <= most and (chunk := await process.stdout.read(1 << 16)):
        chunks.append(chunk)
        size += len(chunk)
    if size > most:
        said.cancel()
        return b"".join(chunks)[:most], True, ""
    return b"".join(chunks), False, await said


async def drained(stream: asyncio.StreamReader, most: int = 4000) -> str:
    """Everything from a stream, of which the first `most` bytes are kept."""
    kept = bytearray()
    while chunk := await stream.read(1 << 14):
        kept += chunk[: max(most - len(kept), 0)]
    return kept.decode(errors="replace").strip()


def end(process: Process) -> None:
    """Kill a process and those it started, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
