"""Attempts as their folders record them. Read by the keeper; written by keeper and launchers in turn.

    no pid.json                          nothing was started, power cut or not: whoever claims it says so
    pid.json, its process lives          starting (no started.json yet) or running
    exit.json                            ended, as it says
    pid.json, dead, no exit.json         unknown, for ever: nobody saw how it ended

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from stratal.engines.local import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class Attempt:
    """One attempt: its folder, its launcher, and what is known of it."""

    def __init__(self, folder: str, name: str) -> None:
        self.id = name
        self.path = f"{folder}/{name}"
        self.nonce = ""
        self.processors: list[int] = []
        self.pid = 0
        self.started = 0
        self.pidfd = -1
        self.news = -1
        self.starting = True
        self.ended = False
        self.lost = False
        self.refusal: tuple[str, str] | None = None
        self.dozing = False
        """It only waits to be needed, and counts as a part of its zygote."""
        self.seed: dict[str, Any] | None = None
        """What a zygote for workloads like it would be made from."""
        self.standing: dict[str, Any] | None = None
        """What a box for the next workload like it would be made from, where one is worth keeping."""
        self.spare = ""
        """The folder of the launcher that waited and was given it; that may have ended just then."""
        self._start: dict[str, Any] = {}
        self._end: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        return not self.ended

    def status(self) -> dict[str, Any]:
        """The `WorkloadStatus` as JSON."""
        record: dict[str, Any] = self._end if self.ended else self._start
        usage = record.get("usage")
        if usage is None:
            usage = (self._read("usage.json") or {}).get("usage", {})
        return {
            "attempt_id": self.id,
            "state": ("unknown" if self.lost else "exited") if self.ended else "running",
            "pid": self.pid or None,
            "started_at": record.get("started_at", self._start.get("started_at")),
            "ended_at": record.get("ended_at"),
            "exit_code": record.get("exit_code"),
            "reason": record.get("reason", ""),
            "usage": usage,
            "isolation": record.get("isolation", self._start.get("isolation", {})),
        }

    def refresh(self, *, dead: bool) -> bool:
        """Read the record again; `dead` says that the launcher lives no more. True when there is news."""
        if self.starting:
            self._start = self._read("started.json") or {}
        end = self._read("exit.json")
        if end is not None:
            self._conclude(end)
            return True
        if dead:
            self._died()
            return True
        if self.starting and self._start:
            self.starting = False
            return True
        return False

    def _conclude(self, end: dict[str, Any]) -> None:
        self.ended, self.starting, self._end = True, False, end
        self.lost = bool(end.get("lost"))
        if "refused" in end:
            self.refusal = (end["refused"], end["message"])

    def was_never_taken(self) -> bool:
        """The launcher that waited for it, and lives no more, did not come to take it on."""
        return bool(self.spare) and self._read("pid.json") is None

    def _died(self) -> None:
        """Its launcher is gone without a word."""
        here = {"pid": 0, "started": 0, "boot": process.boot_id()}
        if self._read("pid.json") is None and process.claim_json(f"{self.path}/pid.json", here):
            said = ""
            with contextlib.suppress(OSError), open(f"{self.path}/launcher.log", errors="replace") as file:
                said = file.read()[-500:].strip()
            self._conclude({"refused": "unavailable", "message": f"the launcher failed: {said}"})
            return
        self.forget_end("its launcher was killed: nobody saw how it ended")

    def forget_end(self, reason: str) -> None:
        """Record that nobody knows how it ended."""
        end = {"lost": True, "ended_at": time.time_ns() // 1_000_000, "reason": reason}
        process.write_json(f"{self.path}/exit.json", end)
        self._conclude(end)

    def ask_to_stop(self, grace: float, reason: str) -> None:
        order = {"grace_seconds": grace, "reason": reason}
        process.write_json(f"{self.path}/stop.json", order, durable=False)
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            elif process.lives(self.pid, self.started):
                os.kill(self.pid, signal.SIGTERM)

    def wake(self) -> None:
        """It dozes no more: have its launcher count anew what it uses."""
        self.dozing = False
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGUSR1)
            elif process.lives(self.pid, self.started):
                os.kill(self.pid, signal.SIGUSR1)

    def strays(self) -> list[int]:
        """Processes of its tree that still live although their launcher does not."""
        started = self._read("started.json") or {}
        known = (self._read("usage.json") or {}).get("members", [])
        found = [pid for pid, since in known if since is not None and process.lives(pid, since)]
        leader = started.get("workload", 0)
        if leader and process.start_time(leader) in (None, started.get("workload_started")):
            found += process.in_session(leader)  # its number is not used again while the session lives
        shepherd, since = started.get("shepherd", (0, None))
        if shepherd and process.lives(shepherd, since):
            found.append(shepherd)
        if "cgroup" in started:
            with contextlib.suppress(OSError), open(f"{started['cgroup']}/cgroup.procs") as file:
                found += [int(line) for line in file]
        return found + [below for pid in found for below in process.descendants(pid)]

    def shepherd(self) -> int:
        """The process that waits for a workload which a zygote forked; 0 where there is none."""
        return int(self._start.get("shepherd", (0, 0))[0])

    def imports(self) -> dict[str, Any]:
        """What its launcher tells of its program's imports and of a fork."""
        return self._read("imports.json") or {}

    def remove_group(self) -> None:
        """Remove the control group that a killed launcher left behind, if it is empty by now."""
        path = (self._read("started.json") or {}).get("cgroup")
        if path:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def _read(self, name: str) -> dict[str, Any] | None:
        return process.read_json(f"{self.path}/{name}")


def secure(folder: str) -> None:
    """Have the attempt survive a power cut as one that was taken on. Before its workload's program runs, never after.

    That it was is `pid.json`'s to say; nobody needs the intent of one that can only be lost.
    """
    process.sync_file(f"{folder}/pid.json")
    process.sync_folder(folder)
    process.sync_folder(os.path.dirname(folder))


class Folder:
    """``<run dir>/attempts``, one folder each, and ``<run dir>/trash`` on its way out."""

    def __init__(self, run_dir: str) -> None:
        self._attempts = f"{run_dir}/attempts"
        self._trash = f"{run_dir}/trash"
        os.makedirs(self._attempts, mode=0o700, exist_ok=True)
        os.makedirs(self._trash, mode=0o700, exist_ok=True)

    def check(self, name: object) -> str:
        """Return `name` when it can name an attempt's folder, else raise `ValueError`."""
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= 100
            or not set(name) <= _LETTERS
            or name[0] in ".-"
        ):
            raise ValueError("an attempt id is 1 to 100 letters, digits, '_', '-' or '.'")
        return name

    def intend(self, spec: dict[str, Any], processors: list[int]) -> Attempt:
        """Make a new attempt's folder with its intent."""
        attempt = Attempt(self._attempts, spec["attempt_id"])
        attempt.nonce = os.urandom(12).hex()
        attempt.processors = processors
        part = f"{self._trash}/{attempt.id}.{attempt.nonce}"
        os.mkdir(part, 0o700)
        intent = {**spec, "nonce": attempt.nonce, "processors": processors}
        process.write_json(f"{part}/spec.json", intent, durable=False)
        os.close(
            os.open(f"{part}/log", os.O_WRONLY | os.O_CREAT, 0o600)
        )  # for who follows it from the first moment
        os.rename(part, attempt.path)
        return attempt

    def discard(self, attempt: Attempt) -> str:
        """Take the folder away at once; returns where it lies now, to be removed."""
        if attempt.lost:
            attempt.remove_group()
        gone = f"{self._trash}/{attempt.id}.{os.urandom(6).hex()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(attempt.path, gone)
        return gone

    def load(self) -> list[Attempt]:
        """Every attempt on record, by the rules at the top of this module."""
        for name in os.listdir(self._trash):
            with contextlib.suppress(OSError, RecursionError):
                process.remove_tree(f"{self._trash}/{name}")
        found = []
        for name in sorted(os.listdir(self._attempts)):
            attempt = Attempt(self._attempts, name)
            if self._load(attempt):
                found.append(attempt)
            else:
                process.remove_tree(self.discard(attempt))
        return found

    def _load(self, attempt: Attempt) -> bool:
        """Fill `attempt` from its folder. False: nothing was ever started."""
        here = {"pid": 0, "started": 0, "boot": process.boot_id()}
        spec = process.read_json(f"{attempt.path}/spec.json")
        launcher = process.read_json(f"{attempt.path}/pid.json")
        if spec is None and launcher is None:
            return False  # no intent was finished, so no launcher was spawned
        attempt.processors = (spec or {}).get("processors", [])
        if launcher is None and process.claim_json(f"{attempt.path}/pid.json", here):
            return False  # its launcher, if there ever was one, can no longer take it on
        launcher = launcher or process.read_json(f"{attempt.path}/pid.json")
        launcher = launcher or {**here, "boot": ""}
        if launcher["pid"] == 0 and launcher["boot"] == here["boot"]:
            return False  # an earlier keeper declared so
        attempt.pid, attempt.started = launcher["pid"], launcher["started"]
        same_boot = launcher["boot"] == here["boot"]
        attempt.refresh(dead=not same_boot or not process.lives(attempt.pid, attempt.started))
        if attempt.lost and same_boot:
            process.signal_all(attempt.strays(), signal.SIGKILL)
        return attempt.refusal is None
