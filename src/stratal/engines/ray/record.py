"""Attempts as the bridge records them on the platform's disk: what a killed bridge reads back.

    spec.json     it was asked for
    placed.json   it has a place, and may have been started there from here on
    status.json   how it was when it was last heard of
    log           what it wrote, as far as it was told here
    exit.json     how it ended, or that it is lost; written last, durably

Only what the first line says may be undone: an attempt without `placed.json` was never started.
"""

import contextlib
import os
import time
from typing import Any

from stratal.engines.local import process

Status = dict[str, Any]


def part_name(name: str, number: int) -> str:
    """The supervisor of that part of a gang on several machines."""
    return f"{name}.{number}"


def nodes_apart(spec: dict[str, Any]) -> int:
    """On how many machines the workload may be: the nodes of a gang whose members may reach the network."""
    gang = spec.get("gang")
    return int(gang["nodes"]) if gang and spec["network"] == "open" else 1


class Record:
    """One attempt's folder, and what is in it by now."""

    def __init__(self, folder: str, name: str) -> None:
        self.id = name
        self.path = f"{folder}/{name}"
        self.spec: dict[str, Any] = {}
        self.placed = False
        self.status: Status | None = None
        self.log_size = 0
        self.asked_at = time.monotonic()
        """When somebody last wanted it started."""

    @property
    def started(self) -> bool:
        return self.status is not None

    @property
    def ended(self) -> bool:
        return self.status is not None and self.status["state"] != "running"

    def load(self) -> bool:
        """Read it back; False when nothing of it was ever begun."""
        spec = process.read_json(f"{self.path}/spec.json")
        if spec is None:
            return False
        self.spec = spec
        self.placed = os.path.exists(f"{self.path}/placed.json")
        self.status = process.read_json(f"{self.path}/exit.json")
        self.status = self.status or process.read_json(f"{self.path}/status.json")
        with contextlib.suppress(FileNotFoundError):
            self.log_size = os.path.getsize(f"{self.path}/log")
        return True

    def place(self) -> None:
        process.write_json(f"{self.path}/placed.json", {})
        self.placed = True

    def hear(self, status: Status) -> bool:
        """Take a status in; True when it is news. Nothing follows an end."""
        if self.ended or status == self.status:
            return False
        known = (self.status or {}).get("state")
        ended = status["state"] != "running"
        process.write_json(f"{self.path}/{'exit' if ended else 'status'}.json", status, durable=ended)
        self.status = status
        return ended or known != "running"

    def append(self, log: bytes) -> None:
        with open(f"{self.path}/log", "ab") as file:
            file.write(log)
        self.log_size += len(log)

    def lose(self, reason: str) -> bool:
        """Record that its machine is gone. True when it had not ended before."""
        if self.ended:
            return False
        before = self.status or {}
        self.append(f"{'' if self._at_line_start() else chr(10)}stratal: {reason}\n".encode())
        lost = {
            "attempt_id": self.id,
            "pid": None,
            "started_at": None,
            "usage": {},
            "isolation": {},
            "node": "",
            **before,
            "state": "unknown",
            "ended_at": time.time_ns() // 1_000_000,
            "exit_code": None,
            "reason": reason,
            "lost": True,
        }
        return self.hear(lost)

    def _at_line_start(self) -> bool:
        if not self.log_size:
            return True
        with open(f"{self.path}/log", "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


class Folder:
    """``<run dir>/attempts``, one folder each."""

    def __init__(self, run_dir: str) -> None:
        self._attempts = f"{run_dir}/attempts"
        self._trash = f"{run_dir}/trash"
        os.makedirs(self._attempts, mode=0o700, exist_ok=True)
        os.makedirs(self._trash, mode=0o700, exist_ok=True)

    def intend(self, spec: dict[str, Any]) -> Record:
        """A new attempt, durably asked for."""
        record = Record(self._attempts, spec["attempt_id"])
        record.spec = spec
        part = f"{self._trash}/{record.id}.{os.urandom(6).hex()}"
        os.mkdir(part, 0o700)
        process.write_json(f"{part}/spec.json", spec)
        os.rename(part, record.path)
        process.sync_folder(self._attempts)
        return record

    def discard(self, record: Record) -> None:
        gone = f"{self._trash}/{record.id}.{os.urandom(6).hex()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(record.path, gone)
        process.remove_tree(gone)

    def load(self) -> list[Record]:
        """Every attempt on record."""
        for name in os.listdir(self._trash):
            process.remove_tree(f"{self._trash}/{name}")
        found = []
        for name in sorted(os.listdir(self._attempts)):
            record = Record(self._attempts, name)
            if record.load():
                found.append(record)
            else:
                self.discard(record)
        return found
