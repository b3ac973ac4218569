"""A job that would never end, stopped by a budget of 0.01: on a platform of its own, which is removed afterwards.

A price holds for a whole instance, and this needs a high one; so nothing of it happens on the instance in use.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from stratal.cli import starting
from stratal.cli.demo.story import Say, Step
from stratal.kernel.errors import Unavailable
from stratal.sdk import ApiError, Client

PROJECT = "runaway"
BUDGET = "0.01"
CPU_HOUR = "3.60"
GRACE_SECONDS = 10
_PATIENCE_SECONDS = 900
_GOODBYE_SECONDS = 60
_LOOK_SECONDS = 0.2
_STRATAL = (sys.executable, "-m", "stratal.cli.main")

RUNAWAY = """
import os, pathlib, signal, sys

count = 0

def save(*_):
    pathlib.Path(os.environ["STRATAL_CHECKPOINT_DIR"], "count").write_text(str(count))
    print("saved a checkpoint at", count, flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
print("runs for ever", flush=True)
while True:
    count += 1
"""


class Overspend:
    """The steps in order; what they found is in `result`. `close` removes the platform, whatever happened."""

    def __init__(self, cpu_hour: str = CPU_HOUR) -> None:
        """`cpu_hour`: what an hour of a processor costs there; the higher, the sooner the budget is used up."""
        self.result: dict[str, Any] = {}
        self.home = Path(tempfile.mkdtemp(prefix="stratal-overspend-"))
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("STRATAL_") or name == "STRATAL_LOG_LEVEL"
        }
        self._environ["STRATAL_HOME"] = str(self.home)
        self._cpu_hour = cpu_hour
        self._job = 0
        self._connected: Client | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def steps(self) -> Iterator[tuple[str, str, Step]]:
        yield "start", "Platform of its own", self._start
        yield "budget", "Budget", self._set
        yield "run", "Job that never ends", self._run
        yield "stop", "Stopped", self._stopped
        yield "refuse", "New work", self._refused
        yield "ledger", "Ledger", self._ledger

    def close(self) -> None:
        if self._connected is not None:
            self._connected.http.close()
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(_GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._stratal("down")  # the keeper, which outlives a server
        shutil.rmtree(self.home, ignore_errors=True)

    # -- steps -------------------------------------------------------------------------------

    def _start(self, say: Say) -> str:
        say("starting")
        port = starting.free_port()
        said = self.home / "said"
        with said.open("wb") as stream:
            self._server = subprocess.Popen(
                [*_STRATAL, "up", "--port", str(port)],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self._until(
            lambda: self._answers(f"http://127.0.0.1:{port}", said), "The demo's platform did not start"
        )
        self._client.post("/projects", {"name": PROJECT})
        self._client.post("/prices", {"name": "cpu_hour", "price": self._cpu_hour})
        return f"at {self._client.url}, a processor hour costs {self._cpu_hour}"

    def _set(self, say: Say) -> str:
        made = self._client.request(
            "PUT", f"/projects/{PROJECT}/budget", json={"amount": BUDGET, "stop": True}
        )
        self.result |= {"budget": made["amount"], "currency": made["currency"]}
        return f"{made['amount']} {made['currency']} a month; then what runs is stopped"

    def _run(self, say: Say) -> str:
        body = {
            "name": "runaway",
            "argv": ["python", "-c", RUNAWAY],
            "memory_bytes": 256 << 20,
            "grace_seconds": GRACE_SECONDS,
        }
        self._job = int(self._client.post(f"/projects/{PROJECT}/jobs", body)["id"])
        self.result["job_id"] = self._job
        self._until(lambda: self._job_now()["state"] not in {"queued", "starting"})
        return f"job {self._job} runs"

    def _stopped(self, say: Say) -> str:
        def ended() -> dict[str, Any] | None:
            budget = self._client.get(f"/projects/{PROJECT}/budget")
            if budget["state"] == "warned":
                self.result.setdefault("warned_at", budget["spent"])
            say(f"{budget['spent']} of {budget['amount']} spent, {budget['state']}")
            job = self._job_now()
            return job if job["ended_at"] else None

        job = self._until(ended)
        log = self._client.http.get(f"/api/v1/projects/{PROJECT}/jobs/{self._job}/logs").text
        self.result |= {"state": job["state"], "reason": job["reason"], "log": log.strip().splitlines()}
        saved = next((line for line in self.result["log"] if line.startswith("saved")), "saved no checkpoint")
        return f"{job['state']}: {job['reason']} It {saved}."

    def _refused(self, say: Say) -> str:
        try:
            self._client.post(f"/projects/{PROJECT}/jobs", {"argv": ["true"]})
        except ApiError as error:
            self.result |= {"refused_status": error.status, "refused": error.message}
            return f"refused with {error.status}"
        self.result |= {"refused_status": 201, "refused": ""}
        return "was not refused"

    def _ledger(self, say: Say) -> str:
        """Add up the rows by hand, and hold the sum against every report and against the budget."""
        rows, after = [], None
        while True:
            page = self._client.get(f"/projects/{PROJECT}/usage", after=after, limit=1000)
            rows += page["usage"]
            after = page["next"]
            if after is None:
                break
        total = sum((Decimal(row["cost"]) for row in rows), Decimal(0))
        reports = {
            by: self._client.get(f"/projects/{PROJECT}/cost", by=by)
            for by in ("project", "user", "job", "endpoint")
        }
        told = {by: Decimal(report["total"]) for by, report in reports.items()}
        lines = {
            by: sum((Decimal(line["cost"]) for line in report["costs"]), Decimal(0))
            for by, report in reports.items()
        }
        agree = {*told.values(), *lines.values()} == {total}
        self.result |= {"rows": len(rows), "cost": str(total), "sums_agree": agree}
        return f"{len(rows)} rows add up to {total}, " + (
            "which is what stratal cost shows, however it is told apart"
            if agree
            else f"but stratal cost shows {', '.join(f'{by} {cost}' for by, cost in told.items())}"
        )

    def _answers(self, url: str, said: Path) -> bool:
        """Is the platform there? Raises `Unavailable` when it ended instead."""
        assert self._server is not None
        if self._server.poll() is not None:
            raise Unavailable(
                "The demo's platform did not start.", hint=said.read_text(errors="replace").strip()
            )
        key = self.home / "keys" / "admin.key"
        if not key.exists():
            return False
        client = Client(url, key.read_text().strip())
        try:
            client.get("/whoami")
        except ApiError as error:
            client.http.close()
            if error.status:
                raise
            return False
        self._connected = client
        return True

    # -- asking ------------------------------------------------------------------------------

    @property
    def _client(self) -> Client:
        assert self._connected is not None
        return self._connected

    def _job_now(self) -> dict[str, Any]:
        return self._client.get(f"/projects/{PROJECT}/jobs/{self._job}")

    def _until(self, condition: Callable[[], Any], otherwise: str = "") -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (value := condition()):
            if time.monotonic() > deadline:
                otherwise = otherwise or f"Job {self._job} did not get there"
                raise Unavailable(f"{otherwise} within {_PATIENCE_SECONDS} s.")
            time.sleep(_LOOK_SECONDS)
        return value

    def _stratal(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*_STRATAL, *words],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
