"""What a durable step costs beside what it does, here and with named peers, in one run on one machine.

A step returns a number, and that it did is on the disk, synced, before the next one begins: here in the journal of the
run's worker and then of the platform, with Dagster and DBOS in SQLite with ``synchronous=FULL``, their default. Dagster's
in-process executor and a workflow of DBOS do steps in the process that runs them all; so do workers here, in a process
beside their own, each step under a credential of its own.

Measured are chains (each step waits for the one before) of two lengths, and the difference is divided by that of the
lengths: so what a run costs as a whole is left out, for all three. Ours are longer, for a difference that can be seen. Then
fan-outs, whole: new, and again with nothing to do. By the clock, and as processor time: of the server and of the worker
with all of its processes, from its start.

Peers, when ``--peers PYTHON`` names an interpreter that has them (``pip install dagster dbos`` into one of its own).
Prints milliseconds and seconds; never passes or fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from platform_server import PlatformServer

STEPS = """
import atexit, os
import stratal

atexit.register(lambda: print("worker used", sum(os.times()[:4]), flush=True))

@stratal.step
def one(i: int) -> int:
    return i

@stratal.pipeline
def chain(n: int, first: int = 0):
    last = first
    for _ in range(n):
        last = one(last)

@stratal.pipeline
def asking(n: int, first: int = 0):
    last = first
    for _ in range(n):
        last = one(last).result()

@stratal.pipeline
def fan(n: int):
    one.map(range(n))
"""

DAGSTER = """
import sys, tempfile, time
from dagster import DagsterInstance, job, op

@op
def first():
    return 0

@op
def one(i):
    return i

def chain_of(count):
    @job(name=f"chain_{count}")
    def chain():
        last = first()
        for number in range(count):
            last = one.alias(f"one_{number}")(last)
    return chain

with tempfile.TemporaryDirectory() as folder:
    with DagsterInstance.local_temp(folder) as instance:
        assert chain_of(5).execute_in_process(instance=instance).success
        for count in map(int, sys.argv[1:]):
            chain = chain_of(count)
            began = time.perf_counter(), time.process_time()
            assert chain.execute_in_process(instance=instance).success
            print("took", time.perf_counter() - began[0], time.process_time() - began[1])
"""

DBOS = """
import sys, tempfile, time
from dbos import DBOS

folder = tempfile.mkdtemp()
DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "log_level": "ERROR"})

@DBOS.step()
def one(i):
    return i

@DBOS.workflow()
def chain(n):
    last = 0
    for _ in range(n):
        last = one(last)
    return last

DBOS.launch()
chain(5)
for count in map(int, sys.argv[1:]):
    began = time.perf_counter(), time.process_time()
    chain(count)
    print("took", time.perf_counter() - began[0], time.process_time() - began[1])
DBOS.destroy()
"""


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of processors: the server's (0 for peers) and the worker's."""

    clock: float
    server: float
    worker: float

    @property
    def cpu(self) -> float:
        return self.server + self.worker

    def each(self, other: "Spent", steps: int) -> "Spent":
        """What one step more costs, in milliseconds, when `other` took so many `steps` more."""
        pairs = (
            (self.clock, other.clock),
            (self.server, other.server),
            (self.worker, other.worker),
        )
        return Spent(*(1000 * (after - before) / steps for before, after in pairs))


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--peers", help="an interpreter that has dagster and dbos")
    asked.add_argument("--chain", type=int, nargs=2, default=(100, 2100), metavar=("SHORT", "LONG"))
    asked.add_argument("--peer-chain", type=int, nargs=2, default=(50, 350), metavar=("SHORT", "LONG"))
    asked.add_argument("--fan", type=int, default=1000)
    asked.add_argument("--cached", type=int, default=500)
    given = asked.parse_args()
    short, long = given.chain
    with tempfile.TemporaryDirectory() as folder:
        server = PlatformServer(Path(folder) / "home")
        code = Path(folder) / "code"
        code.mkdir()
        (code / "steps.py").write_text(STEPS)
        server.up()
        try:
            _run(server, code, "fan", 5, "--no-cache")  # its environment is made, and a zygote
            own: dict[str, Spent] = {}
            for name in ("chain", "asking"):
                some, more = (_run(server, code, name, count, "--no-cache") for count in (short, long))
                own[name] = some.each(more, long - short)
                what = "chain" if name == "chain" else "chain, each value asked for"
                print(f"stratal  {what:28}: {_shown(own[name])}")
            some, more = (
                _run(server, code, "chain", count, "--set", f"first={count}") for count in (short, long)
            )
            print(f"stratal  {'chain, done before otherwise':28}: {_shown(some.each(more, long - short))}")
            for what, count in (("fan-out", given.fan), ("cached", given.fan), ("cached", given.cached)):
                spent = _run(server, code, "fan", count)
                print(
                    f"stratal  {f'{what} of {count}, whole':28}: {spent.clock:.2f} s, {spent.cpu:.2f} s of CPU "
                    f"(server {spent.server:.2f}, worker {spent.worker:.2f})"
                )
        finally:
            server.down()
        if given.peers:
            for peer, program in (("dagster", DAGSTER), ("dbos", DBOS)):
                theirs = _peer(given.peers, program, Path(folder), *given.peer_chain)
                ours = own["chain"]
                print(
                    f"{peer:8} {'chain':28}: {_shown(theirs)}; stratal takes {ours.cpu / theirs.cpu:.2f} of its CPU, "
                    f"{ours.clock / theirs.clock:.2f} of its time"
                )


def _shown(each: Spent) -> str:
    parts = f" (server {each.server:.2f}, worker {each.worker:.2f})" if each.server else ""
    return f"{each.clock:.2f} ms a step, {each.cpu:.2f} ms of CPU{parts}"


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peer(python: str, program: str, folder: Path, short: int, long: int) -> Spent:
    path = folder / "peer.py"
    path.write_text(program)
    done = subprocess.run(
        [python, str(path), str(short), str(long)],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
        cwd=folder,
    )
    took = re.findall(r"^took (\S+) (\S+)$", done.stdout, re.MULTILINE)
    some, more = (Spent(float(clock), 0.0, float(cpu)) for clock, cpu in took)
    return some.each(more, long - short)


def _run(server: PlatformServer, code: Path, name: str, count: int, *more: str) -> Spent:
    """By the clock from the worker's first word to its last."""
    before = _cpu(server.pid())
    run = json.loads(
        _cli(server, code, "pipeline", "run", f"steps.py:{name}", "--set", f"n={count}", *more, "--json")
    )
    used = _cpu(server.pid()) - before
    begun, ended = (datetime.fromisoformat(run[key]) for key in ("started_at", "ended_at"))
    worker = re.search(r"worker used (\S+)", _cli(server, code, "job", "logs", str(run["job"])))
    assert run["state"] == "succeeded", run
    assert worker is not None
    return Spent((ended - begun).total_seconds(), used, float(worker[1]))


def _cli(server: PlatformServer, code: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "stratal.cli.main", *words],
        cwd=code,
        env=server.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
