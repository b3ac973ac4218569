"""How a workspace's program is run and reached: JupyterLab, marimo, or a terminal, each by the same `replica`.

It listens on two sockets in its folder: one answers HTTP, the other (`control.sock`) is held open for as long as it
lives and says when it is ready, what its secret is, and whether it is computing. The folder is the workload's to
write, so what lies there is opened without following links, and only if it is a socket.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from stratal.collab.workspaces.model import Program
from stratal.collab.workspaces.runtime import Command, Runtime
from stratal.compute.services.port import Broken, CannotStart

_PROGRAM = Path(__file__).parent / "replica"
_MOST_WORD = 4096


class NotebookLink:
    """A notebook server that answers (`stratal.collab.workspaces.runtime.Notebook`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http: int) -> None:
        self._reader = reader
        self._writer = writer
        self._http = http
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(), name="a notebook server's control channel")
        self.secret = ""
        self.busy = False
        self.modules: Sequence[str] = ()

    @property
    def socket(self) -> str:
        return f"/proc/self/fd/{self._http}"

    @property
    def busy_since(self) -> float | None:
        """Nobody waits for an answer of its own kind; requests to it end by themselves."""
        return None

    @property
    def closed(self) -> bool:
        return self._lost.done()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._lost)

    def close(self) -> None:
        self._listening.cancel()
        self._gone()

    def hear(self, line: bytes) -> None:
        """Take a word. Raises `ValueError`, `TypeError` or `KeyError` for what makes no sense."""
        said = orjson.loads(line)
        if "failed" in said:
            raise CannotStart(str(said["failed"])[:2000])
        if "secret" in said:
            self.secret = str(said["secret"])
        self.busy = bool(said["busy"])

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self.hear(line)
        except (OSError, ValueError, TypeError, KeyError, CannotStart):
            pass  # whoever speaks otherwise is not listened to any more
        finally:
            self._gone()

    def _gone(self) -> None:
        if self._lost.done():
            return
        self._lost.set_result(None)
        self._writer.close()
        os.close(self._http)


class WorkspaceProgram:
    """One of them (`stratal.collab.workspaces.runtime.Runtime`).

    `requirements` is what was tested together; the rest of the environment is whatever these ask for when it is
    first built.
    """

    def __init__(self, program: Program, requirements: str, front: str) -> None:
        self._program = program
        self.requirements = requirements
        self.front = front

    def command(self, python: Path, folder: Path, place: Path) -> Command:
        argv = [str(python), "-I", "-B", "-u", str(_PROGRAM / "__main__.py"), str(folder), str(place)]
        return Command([*argv, self._program.value], {}, [_PROGRAM])

    async def connect(self, folder: Path) -> NotebookLink:
        reader, writer = await _open(folder)
        http = -1
        try:
            line = await reader.readline()
            if not line:
                raise Broken
            http = _socket_in(folder, "server.sock")
            link = NotebookLink(reader, writer, http)
        except BaseException:
            writer.close()
            if http >= 0:
                os.close(http)
            raise
        try:
            link.hear(line)
        except (ValueError, TypeError, KeyError) as error:
            link.close()
            raise Broken from error
        except CannotStart:
            link.close()
            raise
        return link


async def _open(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    control = _socket_in(folder, "control.sock")
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        channel.connect(f"/proc/self/fd/{control}")
        return await asyncio.open_unix_connection(sock=channel, limit=_MOST_WORD)
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(control)


def _socket_in(folder: Path, name: str) -> int:
    """A descriptor of the socket of this name, whatever the path's length. Raises `OSError` when it is none."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
    if not stat.S_ISSOCK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(f"{name} is no socket")
    return found


RUNTIMES: Mapping[Program, Runtime] = {
    Program.JUPYTER: WorkspaceProgram(
        Program.JUPYTER, "jupyterlab==4.6.6\njupyter-collaboration==5.0.4\nipykernel==7.4.0\n", "/lab"
    ),
    Program.MARIMO: WorkspaceProgram(Program.MARIMO, "marimo==0.25.2\nloro==1.17.1\n", "/"),
    Program.TERMINAL: WorkspaceProgram(Program.TERMINAL, "notebook==7.6.5\n", "/terminals/1"),
}
