"""What a durable step costs beside what it does: steps that return a number, alone, fanned out, and cached.

A step here is two entries of a journal that is fsynced, a process and a credential of its own. Needs nothing but the
platform, which it starts on a home of its own. Prints milliseconds; never passes or fails.
"""

import json
import subprocess
import sys
import tempfile
import time
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = PlatformServer(Path(folder) / "home")
        code = Path(folder) / "code"
        code.mkdir()
        (code / "steps.py").write_text(STEPS)
        server.up()
        try:
            for name, count in (("chain", 100), ("fan", 500), ("fan", 500)):
                run = _run(server, code, name, count)
                states = ", ".join(f"{n} {state}" for state, n in run["states"].items())
                took = run["seconds"]
                print(
                    f"{name:6} {count:5} steps ({states}): {took:7.2f} s, {1000 * took / count:6.2f} ms a step"
                )
        finally:
            server.down()


def _run(server: PlatformServer, code: Path, name: str, count: int) -> dict:
    """The run, with the seconds from its worker's first word to its last."""
    started = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stratal.cli.main",
            "pipeline",
            "run",
            f"steps.py:{name}",
            "--set",
            f"n={count}",
            "--json",
        ],
        cwd=code,
        env=server.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    run = json.loads(done.stdout)
    from datetime import datetime

    begun, ended = (datetime.fromisoformat(run[key]) for key in ("started_at", "ended_at"))
    run["seconds"] = (ended - begun).total_seconds()
    run["whole"] = time.perf_counter() - started
    return run


if __name__ == "__main__":
    main()
