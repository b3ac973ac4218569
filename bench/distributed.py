"""Two processes to the first gradient: a Stratal gang beside ``torchrun``, with the same script and the same torch.

    .venv/bin/python bench/distributed.py [--repeat 5] [--torch torch==2.13.0]

Needs a running platform (`stratal up --detach`). The script joins a process group (gloo), wraps a small
model in DistributedDataParallel, and says when its first backward pass is over. Timed from the start of
the command (``torchrun``), and from asking for the job over HTTP (Stratal), to that moment; both by the
environment that Stratal builds first. The two take turns. Prints medians and the ratio (Stratal's over torchrun's),
of the processor time of all processes too, which holds up better on a machine that does something else.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from stratal.sdk import Client, jobs

SCRIPT = """
import os
import time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(64, 8))
model(torch.randn(16, 64)).sum().backward()
os.write(1, f"backward at {time.time()}\\n".encode())  # in one piece: both write to the same place
dist.destroy_process_group()
"""


def last_moment(text: str) -> float:
    """When the slower of the two had its gradient."""
    found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "backward at" in line]
    if len(found) != 2:
        raise SystemExit(f"not both processes got to their gradient:\n{text}")
    return max(found)


@dataclass(frozen=True)
class Result:
    seconds: float
    cpu_seconds: float


def ours(client: Client, requirement: str) -> Result:
    start = time.time()
    job = jobs.run(
        client,
        ["python", "-c", SCRIPT],
        cpus=min(2.0, os.cpu_count() or 1),
        memory_bytes=2 << 30,
        procs_per_node=2,
        requirements=requirement,
    )
    job = jobs.wait(client, job["id"])
    moment = last_moment(jobs.logs(client, job["id"]).decode())
    return Result(moment - start, job["usage"]["cpu_seconds"])


def theirs(python: str, script: Path) -> Result:
    start, before = time.time(), os.times()
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Result(last_moment(done.stdout) - start, used)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument(
        "--torch", default="torch==2.13.0", help="the requirement to build an environment of"
    )
    given = options.parse_args()
    client = Client()
    print("building the environment and running each once …", file=sys.stderr)
    probe = jobs.run(client, ["python", "-c", "import sys; print(sys.prefix)"], requirements=given.torch)
    if jobs.wait(client, probe["id"])["state"] != "succeeded":
        raise SystemExit(jobs.logs(client, probe["id"]).decode())
    python = jobs.logs(client, probe["id"]).decode().split()[-1] + "/bin/python"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "train.py")
        script.write_text(SCRIPT)
        here, there = [], []
        for turn in range(given.repeat + 1):
            mine, other = ours(client, given.torch), theirs(python, script)
            if turn:  # the first fills the page cache
                here.append(mine)
                there.append(other)
    print(f"{'':<28} {'Stratal s':>10} {'torchrun s':>11} {'ratio':>6}")
    for label, of in (("two processes to backward", "seconds"), ("their processor time", "cpu_seconds")):
        a, b = (statistics.median(getattr(one, of) for one in side) for side in (here, there))
        print(f"{label:<28} {a:>10.2f} {b:>11.2f} {a / b:>6.2f}")


if __name__ == "__main__":
    main()
