"""A PostgreSQL server of the tests' own, when its programs are on this machine.

It lies in a temporary folder, listens on a free port of loopback (with a password) and on a socket in its
folder (without), and ends with the process that started it, however that ends. Durability is off: the
tests ask what is right, not what survives a power cut.
"""

import ctypes
import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from platform_server import free_port

_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
)
_PR_SET_PDEATHSIG = 1


def programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs; None when there is none."""
    found = [path.parent for folder in _FOLDERS for path in Path("/").glob(f"{folder[1:]}/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    whole = [folder for folder in found if (folder / "postgres").exists()]
    return max(whole, key=lambda f: [int(n) for n in re.findall(r"\d+", str(f))], default=None)


class PostgresServer:
    """`url(name)` of a database in it; `create` makes one. `stop` when done."""

    password = "open:sesame/%20"  # what must be quoted in a URL

    def __init__(self) -> None:
        bin_ = programs()
        assert bin_ is not None
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="stratal-pg-", dir=memory if memory.is_dir() else None))
        self.port = free_port()
        self._user = None
        if os.geteuid() == 0:  # it refuses to run as root
            self._user = next(u for u in pwd.getpwall() if u.pw_name in {"postgres", "nobody"})
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        data = self.folder / "data"
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self._run(
            [
                *(bin_ / "initdb", "-D", data, "-U", "stratal", "--pwfile", secret, "-E", "UTF8"),
                *("--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"),
                *("--no-sync", "--no-instructions"),
            ]
        )
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "log_min_messages": "fatal",
        }
        self._log = (self.folder / "log").open("wb")
        self.process = self._start(
            [bin_ / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())]
        )
        self._numbers = itertools.count(1)
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def url(self, name: str) -> str:
        """Of a database, by the socket."""
        return f"postgresql://stratal@/{name}?host={self.folder}&port={self.port}"

    def tcp_url(self, name: str) -> str:
        """Of a database, by the network, with its password."""
        from urllib.parse import quote

        return f"postgresql://stratal:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{name}"

    def create(self, template: str = "template0") -> str:
        """Make a database, a copy of another, and return its name."""
        name = f"t{next(self._numbers)}_{secrets.token_hex(3)}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def administer(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, argv: list[object]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
            preexec_fn=_end_with_parent,
            **self._identity(),
        )

    def _run(self, argv: list[object]) -> None:
        subprocess.run(
            [str(word) for word in argv],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            **self._identity(),
        )

    def _identity(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
