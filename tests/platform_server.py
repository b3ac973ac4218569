"""A platform run as its users run it: ``stratal up --detach`` on a home of its own, on a free port."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

_numbers = itertools.count(1)


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PlatformServer:
    """`url`, `home`, and the ways to use and abuse one running platform; `more` is what its server is told."""

    def __init__(self, home: Path, **more: str) -> None:
        self.home = home
        self.more = more
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_key(self) -> str:
        return (self.home / "keys" / "admin.key").read_text().strip()

    def environ(self, **more: str) -> dict[str, str]:
        """This process's environment without any STRATAL_ or client variables, for a CLI on this home."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STRATAL_", "AWS_", "MLFLOW_", "PYICEBERG_", "HF_", "OPENAI_"))
        }
        # Conversions that nobody asked for would run beside whatever a test does next.
        return {**kept, "STRATAL_HOME": str(self.home), "STRATAL_CONVERT": "asked", **self.more, **more}

    def cli(
        self, *arguments: str, check: bool = True, input: str | None = None, timeout: float = 120, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``stratal <arguments>`` on this home; raises with its output when `check` and it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", *arguments],
            env=self.environ(**env),
            capture_output=True,
            text=True,
            input=input,
            timeout=timeout,
            cwd=env.get("PWD"),
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"stratal {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str, **options: Any) -> dict[str, Any]:
        """Run a command with ``--json`` and return the object it prints."""
        answer = json.loads(self.cli(*arguments, "--json", **options).stdout)
        assert isinstance(answer, dict)
        return answer

    def up(self) -> None:
        self.cli("up", "--detach", "--port", str(self.port))

    def down(self) -> None:
        self.cli("down", check=False)

    def project(self, name: str | None = None) -> str:
        """Make a new project and return its name."""
        name = name or f"p{next(_numbers)}-{os.getpid()}"
        self.json("projects", "create", name)
        return name

    def env(self, project: str = "default") -> dict[str, str]:
        """The variables of ``stratal env`` for the project."""
        return {
            str(k): str(v)
            for k, v in json.loads(self.cli("env", "--project", project, "--format", "json").stdout).items()
        }

    def key(self, project: str = "default", role: str = "editor") -> str:
        """A new key's token."""
        return str(
            self.json("keys", "create", f"k{next(_numbers)}", "--project", project, "--role", role)["token"]
        )

    def http(self, key: str | None = None) -> httpx.Client:
        """An HTTP client with a bearer key (the admin's unless given); use it as a context manager."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key or self.admin_key}"}, timeout=60
        )

    def pid(self) -> int:
        return int(json.loads((self.home / "run" / "server.json").read_text())["pid"])

    def keeper_pid(self) -> int:
        return int((self.home / "run" / "keeper" / "keeper.lock").read_text())

    def kill(self, pid: int | None = None) -> None:
        """``kill -9`` the server (or `pid`) and wait until it is gone."""
        victim = pid or self.pid()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: is_gone(victim))


def is_gone(pid: int) -> bool:
    """Has the process ended (a zombie has)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: Any, *, seconds: float = 60.0) -> Any:
    """Poll until `condition()` is true and return what it gave; fails the test when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)
