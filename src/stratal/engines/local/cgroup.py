"""A control group for one attempt: the kernel holds its memory and processor limits.

Only below a folder that was really handed over (`probe` decides that). Standard library only.
Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html, …/cgroup-v1/memory.html.
"""

from __future__ import annotations

import contextlib
import os
import time

_PERIOD_US = 100_000


class Group:
    """The control group ``<parent>/stratal-<attempt>``, of version 1 (memory only) or 2."""

    def __init__(self, version: int, parent: str, attempt: str) -> None:
        self.version = version
        self.path = f"{parent}/stratal-{attempt}"

    def create(self, memory: int | None, cpus: float | None) -> None:
        """Make it with these limits (bytes; processors). Raises `OSError` when the kernel refuses."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o755)
        if self.version == 1:
            if memory:
                self._write("memory.limit_in_bytes", str(memory))
                with contextlib.suppress(OSError):  # without swap accounting there is no such file
                    self._write("memory.memsw.limit_in_bytes", str(memory))
            return
        if memory:
            self._write("memory.max", str(memory))
            for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with contextlib.suppress(OSError):
                    self._write(name, value)
        if cpus:
            with contextlib.suppress(OSError):  # the cpu controller may not have been handed over
                self._write("cpu.max", f"{max(1000, int(cpus * _PERIOD_US))} {_PERIOD_US}")

    def enter(self) -> None:
        """Move the calling process into it."""
        self._write("cgroup.procs", "0")

    def take(self, pid: int) -> None:
        """Move another process into it."""
        self._write("cgroup.procs", str(pid))

    def ran_out(self) -> bool:
        """True when the kernel killed something in it for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            with open(f"{self.path}/{name}") as file:
                return any(line.split() > ["oom_kill", "0"] for line in file if line.startswith("oom_kill "))
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to all in it at once, where the kernel can (version 2 since Linux 5.14)."""
        with contextlib.suppress(OSError):
            self._write("cgroup.kill", "1")

    def remove(self) -> None:
        """Remove it once it is empty; the last process may take a moment to be gone."""
        for _ in range(20):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return

    def _write(self, name: str, value: str) -> None:
        with open(f"{self.path}/{name}", "w") as file:
            file.write(value)
