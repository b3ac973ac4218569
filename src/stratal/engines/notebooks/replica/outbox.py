"""Saves on their way to the platform: each lies on the disk, whole, until the platform says that it has it.

So a save is never waited for by whoever saves, and none is lost when the platform is away, or this process ends:
what is left is brought by the next start. Standard library only.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import sys
import threading
import time
from contextlib import suppress
from urllib.parse import quote, urlencode, urlsplit

MOST_BYTES = 256 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_TIMEOUT_SECONDS = 60.0


class Outbox:
    _mine: Outbox | None = None

    def __init__(self, folder: str, root: str) -> None:
        self._folder = folder
        self._root = os.path.realpath(root)
        self._last: dict[str, str] = {}
        self._news = threading.Event()
        self._empty = threading.Event()
        self._lock = threading.Lock()
        self._number = time.time_ns()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            if name.startswith("."):
                os.unlink(os.path.join(folder, name))

    @classmethod
    def begin(cls, folder: str, root: str) -> Outbox:
        """This process's outbox; what lies in it is sent from now on."""
        cls._mine = outbox = cls(folder, root)
        threading.Thread(target=outbox._run, name="outbox", daemon=True).start()
        return outbox

    @classmethod
    def of_this_process(cls) -> Outbox:
        assert cls._mine is not None
        return cls._mine

    def put(self, os_path: str) -> None:
        """Keep the file as it is now."""
        path = os.path.relpath(os.path.realpath(os_path), self._root)
        if path.startswith("../"):
            return  # a link to somewhere else
        with open(os_path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            print(f"{path} is too large for its saves to be kept", file=sys.stderr)
            return
        digest = hashlib.sha256(content).hexdigest()
        if self._last.get(path) == digest:
            return
        head = json.dumps({"path": path, "saved_at": time.time_ns() // 1_000_000})
        self._store(head.encode() + b"\n" + content)
        self._last[path] = digest
        self._news.set()

    def drain(self, seconds: float) -> None:
        """Wait until everything is with the platform, so long at most."""
        self._news.set()
        deadline = time.monotonic() + seconds
        while self._waiting() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _store(self, entry: bytes) -> None:
        with self._lock:
            self._number = max(self._number + 1, time.time_ns())
            name = f"{self._number:020d}-{secrets.token_hex(4)}"
        scratch = os.path.join(self._folder, f".{name}")
        with open(scratch, "xb") as file:
            file.write(entry)
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, os.path.join(self._folder, name))
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _waiting(self) -> list[str]:
        """Names of what is to be sent, oldest first."""
        return sorted(name for name in os.listdir(self._folder) if not name.startswith(("refused-", ".")))

    # -- sending -------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._news.clear()
            try:
                for name in self._waiting():
                    self._send(os.path.join(self._folder, name))
                    pause = _FIRST_PAUSE
            except Exception as error:
                print(f"a save could not be brought to the platform yet: {error}", file=sys.stderr)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._news.wait(_LONGEST_PAUSE)

    def _send(self, entry: str) -> None:
        with open(entry, "rb") as file:
            told = json.loads(file.readline())
            content = file.read()
        project, workspace = os.environ["STRATAL_PROJECT"], os.environ["STRATAL_WORKSPACE"]
        where = f"/api/v1/projects/{quote(project, safe='')}/workspaces/{quote(workspace, safe='')}/saves"
        address = urlsplit(os.environ["STRATAL_URL"])
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
        try:
            headers = {
                "Authorization": f"Bearer {os.environ['STRATAL_API_KEY']}",
                "Content-Type": "application/octet-stream",
                "Content-Length": str(len(content)),
            }
            connection.request("PUT", f"{where}?{urlencode(told)}", content, headers)
            answer = connection.getresponse()
            said = answer.read(2000).decode(errors="replace")
        finally:
            connection.close()
        if answer.status < 300:
            os.unlink(entry)
        elif answer.status in {400, 404, 413, 422}:
            print(f"the platform refuses a save of {told['path']}: {said}", file=sys.stderr)
            folder, name = os.path.split(entry)
            with suppress(OSError):
                os.rename(entry, os.path.join(folder, f"refused-{name}"))
        else:
            raise RuntimeError(f"{answer.status} {said[:200]}")
