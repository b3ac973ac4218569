"""Lines of JSON over a unix socket, as the keeper speaks them, served in an event loop: for bridge and node.

``{"id": 1, "op": "start", …}`` is answered by ``{"id": 1, "ok": …}`` or ``{"id": 1, "error": [kind, message]}``;
a client may also be sent ``{"event": …}`` lines. Only processes of the same user that know the token in
the run directory are served.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from stratal.engines.local import process
from stratal.kernel.errors import Conflict, Denied, Invalid, StratalError, Unavailable

_log = logging.getLogger(__name__)
_LINE_LIMIT = 32 << 20
_KINDS: Mapping[type[StratalError], str] = {
    Invalid: "invalid",
    Conflict: "conflict",
    Denied: "denied",
    Unavailable: "unavailable",
}

Request = dict[str, Any]
Operation = Callable[["Client", Request], Awaitable[Any]]


def take(run_dir: str, name: str) -> int | None:
    """Lock ``<name>.lock`` of `run_dir` for this process's life; None when another holds it."""
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    lock = os.open(f"{run_dir}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return None
    return lock


def sign(lock: int) -> None:
    """Write this process's id into the lock that it holds."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def listen(run_dir: str, name: str) -> socket.socket:
    """Bind ``<name>.sock`` and write ``<name>.token``, by way of the directory: a path may have 107 bytes at most."""
    folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
    path = f"/proc/self/fd/{folder}/{name}.sock"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    os.close(folder)
    process.write_json(f"{run_dir}/{name}.token", {"token": secrets.token_hex(24)}, durable=False)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def dial(run_dir: str, name: str) -> socket.socket:
    """Connect to what listens there. Raises `OSError`."""
    folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.connect(f"/proc/self/fd/{folder}/{name}.sock")
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(folder)
    channel.setblocking(False)
    return channel


class Client:
    """One connection. `held` is for the server's own notes about it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.trusted = False
        self.watching = False
        self.held: set[str] = set()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a line; one who does not read is cut off, and is told all when it comes again."""
        if self._writer.is_closing():
            return
        self._writer.write(json.dumps(message).encode() + b"\n")
        if self._writer.transport.get_write_buffer_size() > _LINE_LIMIT:
            self._writer.transport.abort()


class Channel:
    """Serves `operations` by name on `listener`. `left` is called when a client is gone."""

    def __init__(
        self,
        run_dir: str,
        name: str,
        protocol: int,
        operations: Mapping[str, Operation],
        left: Callable[[Client], None] = lambda _: None,
    ) -> None:
        self._run_dir = run_dir
        self._name = name
        self._protocol = protocol
        self._operations = operations
        self._left = left
        self._tasks: set[asyncio.Task[None]] = set()
        self._token = ""
        self.clients: set[Client] = set()

    async def open(self, listener: socket.socket) -> asyncio.Server:
        token = process.read_json(f"{self._run_dir}/{self._name}.token")
        assert token is not None
        self._token = token["token"]
        return await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_LIMIT)

    def broadcast(self, message: Mapping[str, Any]) -> None:
        """Send an event to everybody who watches."""
        for client in list(self.clients):
            if client.watching:
                client.send(message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", peer)[1] != os.getuid():
            writer.close()
            return
        client = Client(writer)
        self.clients.add(client)
        try:
            while line := await reader.readline():
                request = json.loads(line)
                number, operation = int(request["id"]), str(request["op"])
                task = asyncio.create_task(self._handle(client, number, operation, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (ValueError, KeyError, TypeError, OSError):
            pass  # no line of ours: it is told nothing
        finally:
            self.clients.discard(client)
            self._left(client)
            writer.close()

    async def _handle(self, client: Client, number: int, operation: str, request: Request) -> None:
        try:
            client.send({"id": number, "ok": await self._answer(client, operation, request)})
        except StratalError as error:
            kind = next((word for meaning, word in _KINDS.items() if isinstance(error, meaning)), "internal")
            client.send({"id": number, "error": [kind, error.message]})
        except (KeyError, TypeError, ValueError) as error:
            client.send({"id": number, "error": ["invalid", f"bad request: {error!r}"]})
        except OSError as error:
            client.send({"id": number, "error": ["unavailable", str(error)]})
        except Exception as error:
            _log.exception("%s failed", operation)
            client.send({"id": number, "error": ["internal", f"{operation} failed: {error!r}"]})

    async def _answer(self, client: Client, operation: str, request: Request) -> Any:
        if operation == "hello":
            if not secrets.compare_digest(str(request.get("token")), self._token):
                raise Denied("this is not the token of this directory")
            client.trusted = True
            return {"pid": os.getpid(), "protocol": self._protocol}
        if not client.trusted:
            raise Denied("say hello with the token of this directory first")
        handler = self._operations.get(operation)
        if handler is None:
            raise Invalid(f"no such operation: {operation}")
        return await handler(client, request)


def detach(log: str) -> None:
    """Leave whoever started this: their call returns, this process goes on in a session of its own."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDWR)
    for fd, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(fd, target)
    os.close(out)
    os.close(null)
