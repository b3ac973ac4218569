"""Processes of this machine, told apart by pid *and* start time: a pid alone is reused."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid, its command line, its proportional set size in bytes."""

    pid: int
    command: str
    pss_bytes: int


def start_time(pid: int) -> int | None:
    """The process's start in clock ticks since boot (field 22 of /proc/PID/stat); None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(pid: int, started: int | None) -> bool:
    """Is that very process still there?"""
    return started is not None and start_time(pid) == started


def end(pid: int, started: int | None, *, grace_seconds: float) -> bool:
    """SIGTERM, then SIGKILL after the grace. True when the process is gone (or never was)."""
    if not is_alive(pid, started):
        return True
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while is_alive(pid, started) and time.monotonic() < deadline:
        time.sleep(0.02)
    if is_alive(pid, started):
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while is_alive(pid, started) and time.monotonic() < deadline:
            time.sleep(0.02)
    return not is_alive(pid, started)


def describe(pid: int) -> Process | None:
    """Command line and memory of a process of ours; None when it is gone."""
    try:
        command = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    pss = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return Process(pid, command, int(pss.split()[1]) * 1024)


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found
