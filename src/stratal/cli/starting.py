"""Starting the platform for a command that needs one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from stratal.kernel.errors import Unavailable
from stratal.sdk import ApiError, Client


def is_running(home: Path) -> bool:
    """Does the platform of this home (or at STRATAL_URL) answer? Raises `ApiError` for any other trouble."""
    try:
        Client(home=home).get("/whoami")
    except ApiError as error:
        if error.status == 0:
            return False
        raise
    return True


def start(home: Path) -> None:
    """On the usual port, or on any free one when something else listens there. Raises `Unavailable`."""
    for port in ("8484", str(free_port())):
        started = subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", "up", "--detach", "--port", port],
            env={**os.environ, "STRATAL_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        # On a busy machine it may come up after the command has given up waiting for it.
        if started.returncode == 0 or is_running(home):
            return
    raise Unavailable("The platform did not start.", hint=started.stderr.strip())


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
