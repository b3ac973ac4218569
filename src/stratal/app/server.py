"""The server process: from a locked home directory to answering requests, and out again."""

import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import IO

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from stratal import __version__
from stratal.app.database import open_database
from stratal.app.processes import start_time
from stratal.app.record import check_binding, read_record, write_private
from stratal.app.settings import Home, Settings
from stratal.app.wiring import Platform, wire
from stratal.kernel.errors import Conflict, StratalError, Unavailable

log = logging.getLogger("stratal")
_GRACE_SECONDS = 5


@asynccontextmanager
async def _running(platform: Platform) -> AsyncIterator[None]:
    await platform.start()
    try:
        yield
    finally:
        await platform.close()


def serve(settings: Settings, *, on_ready: Callable[[Platform], None]) -> None:
    """Run the server until SIGTERM or SIGINT.

    Holds an exclusive lock on the home directory for as long as it lives; the kernel lets go of it
    when the process dies in whatever way, so a lock is never stale. Raises `Conflict` when another
    server holds it or the port is taken, `Invalid` for an unsafe binding.
    """
    check_binding(settings)
    home = settings.home
    home.make()
    lock = _take_lock(home)
    try:
        _log_to(home.log, settings.log_level)
        tcp = _listen(settings)
        unix = _listen_unix(home.platform_socket)
        with closing(open_database(settings)) as database:
            try:
                platform = wire(settings, database)
            except StratalError:
                raise
            except Exception:
                log.exception("the platform could not be put together")
                raise _could_not_start(home) from None
            write_private(home.admin_key, platform.founded.credential.token)
            _run(settings, platform, [tcp, unix], on_ready)
    finally:
        with suppress(FileNotFoundError):
            home.server_record.unlink()
        lock.close()


def _run(
    settings: Settings, platform: Platform, sockets: list[socket.socket], on_ready: Callable[[Platform], None]
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await platform.chain(scope, receive, send)

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        async with _running(platform):
            started: Message = {"type": "lifespan.startup.complete"}
            await send(started)
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=256 << 20,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _write_record(settings, platform)
                on_ready(platform)

    # uvicorn raises the signal that ended it once more when all is closed; by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner, suppress(SystemExit):
        runner.run(server.serve(sockets=sockets))
    if not server.started:
        raise _could_not_start(settings.home)


def _could_not_start(home: Home) -> Unavailable:
    return Unavailable("The platform could not start.", hint=f"The reason is at the end of {home.log}.")


def _take_lock(home: Home) -> IO[str]:
    file = home.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        record = read_record(home)
        where = f" at {record['url']} (pid {record['pid']})" if record else ""
        raise Conflict(
            f"Stratal is already running on {home.root}{where}.",
            hint="See it with: stratal status. Stop it with: stratal down",
            reason="already_running",
        ) from error
    return file


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Linux hands the listener's TCP_NODELAY to every accepted socket, so no answer waits for an ACK.
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        tcp.bind((settings.host, settings.port))
    except OSError as error:
        tcp.close()
        raise Conflict(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.",
            hint="Choose another port: stratal up --port PORT",
            reason="port_taken",
        ) from error
    tcp.listen(1024)
    return tcp


def _listen_unix(path: Path) -> socket.socket:
    """Listen on a unix socket whatever the path's length (the kernel takes 107 bytes): bind relative to its folder."""
    with suppress(FileNotFoundError):
        path.unlink()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unix.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    path.chmod(0o600)
    unix.listen(1024)
    return unix


def _write_record(settings: Settings, platform: Platform) -> None:
    pid = os.getpid()
    record = {
        "pid": pid,
        "started": start_time(pid),
        "url": settings.url,
        "version": __version__,
        "database": platform.database.name,
        "first": platform.founded.first,
    }
    write_private(settings.home.server_record, json.dumps(record))


def _log_to(path: Path, level: str) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=20 * 1024 * 1024, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("stratal").setLevel(level.upper())
