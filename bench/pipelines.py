"""What a durable step costs beside what it does, here and with named peers, in one run on one machine.

A step returns a number. Here it is two entries of a journal that is fsynced, a process and a credential of its own. Measured
are a chain of steps (each waits for the one before), a fan-out, and that fan-out again with nothing to do.

Peers, when ``--peers PYTHON`` names an interpreter that has them (``pip install dagster dbos`` into one of its own):
Dagster's in-process executor with a SQLite instance in a folder, and DBOS with a SQLite system database, a workflow of
steps. Both do the step in the worker's own process: neither gives it a process or a credential of its own.

Prints milliseconds and seconds of CPU; never passes or fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from platform_server import PlatformServer

STEPS = """
import stratal

@stratal.step
def one(i: int) -> int:
    return i

@stratal.pipeline
def chain(n: int):
    last = 0
    for _ in range(n):
        last = one(last)

@stratal.pipeline
def fan(n: int):
    one.map(range(n))
"""

DAGSTER = """
import tempfile, time
from dagster import DagsterInstance, job, op

@op
def first():
    return 0

@op
def one(i):
    return i

@job
def chain():
    last = first()
    for number in range(%d):
        last = one.alias(f"one_{number}")(last)

with tempfile.TemporaryDirectory() as folder:
    with DagsterInstance.local_temp(folder) as instance:
        began = time.perf_counter()
        assert chain.execute_in_process(instance=instance).success
        print(time.perf_counter() - began)
"""

DBOS = """
import tempfile, time
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
began = time.perf_counter()
chain(%d)
print(time.perf_counter() - began)
DBOS.destroy()
"""


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--peers", help="an interpreter that has dagster and dbos")
    asked.add_argument("--chain", type=int, default=100)
    asked.add_argument("--fan", type=int, default=1000)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = PlatformServer(Path(folder) / "home")
        code = Path(folder) / "code"
        code.mkdir()
        (code / "steps.py").write_text(STEPS)
        server.up()
        try:
            own = 0.0
            for name, count in (("chain", given.chain), ("fan", given.fan), ("fan", given.fan), ("fan", 500)):
                before = _cpu(server.pid())
                run = _run(server, code, name, count)
                cpu = _cpu(server.pid()) - before
                states = ", ".join(f"{n} {state}" for state, n in run["states"].items())
                took = run["seconds"]
                own = own or 1000 * took / count
                print(
                    f"stratal  {name:6} {count:5} steps ({states}): {took:7.2f} s, {1000 * took / count:6.2f} ms a step; "
                    f"server {cpu:.2f} s of CPU"
                )
        finally:
            server.down()
        if given.peers:
            for peer, program in (("dagster", DAGSTER), ("dbos", DBOS)):
                seconds = _peer(given.peers, program % given.chain, Path(folder))
                each = 1000 * seconds / given.chain
                print(
                    f"{peer:8} chain  {given.chain:5} steps: {seconds:7.2f} s, {each:6.2f} ms a step; "
                    f"stratal takes {own / each:.2f} of that"
                )


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peer(python: str, program: str, folder: Path) -> float:
    path = folder / "peer.py"
    path.write_text(program)
    done = subprocess.run(
        [python, str(path)], capture_output=True, text=True, check=True, timeout=900, cwd=folder
    )
    return float(done.stdout.strip().splitlines()[-1])


def _run(server: PlatformServer, code: Path, name: str, count: int) -> dict:
    """The run, with the seconds from its worker's first word to its last."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stratal.cli.main", "pipeline", "run", f"steps.py:{name}"),
            *("--set", f"n={count}", "--json"),
        ],
        cwd=code,
        env=server.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    run = json.loads(done.stdout)
    begun, ended = (datetime.fromisoformat(run[key]) for key in ("started_at", "ended_at"))
    run["seconds"] = (ended - begun).total_seconds()
    return run


if __name__ == "__main__":
    main()
