"""Tracking through Stratal beside the real `mlflow server` on SQLite, with the same requests.

    .venv/bin/python bench/tracking.py [--repeat 20] [--runs 300] [--workers 1]

Needs a running platform (`stratal up --detach`); starts and ends an `mlflow server` of its own in a
scratch directory. Requests go over one kept-alive connection each, so both sides pay the same for HTTP;
Stratal's times include authentication, which the other side does not do. Prints medians and the ratio
(Stratal's time over mlflow's), and what each server holds in memory at the end.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from stratal.sdk import Client

API = "/api/2.0/mlflow"


@contextmanager
def mlflow_server(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A real server; yields its address and the process group it runs in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", str(workers)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder),
    ]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        else:
            raise SystemExit("mlflow server did not start: " + (folder / "log").read_text()[-2000:])
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its scratch directory goes with it
        process.wait()


def timed(work: Callable[[], object], repeat: int) -> float:
    """The median of `repeat` runs in milliseconds, after three that warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def post(http: httpx.Client, path: str, body: dict[str, object]) -> dict[str, object]:
    answer = http.post(f"{API}/{path}", json=body)
    answer.raise_for_status()
    return dict(answer.json())


def operations(http: httpx.Client, runs: int) -> dict[str, Callable[[], object]]:
    """The same work for whichever server, on an experiment of its own with `runs` runs."""
    experiment = post(http, "experiments/create", {"name": f"bench-{time.time_ns()}"})["experiment_id"]
    steps = iter(range(10**9))

    def new_run(number: int) -> str:
        body = {"experiment_id": experiment, "start_time": 1_700_000_000_000 + number, "tags": []}
        return str(post(http, "runs/create", body)["run"]["info"]["run_id"])  # type: ignore[index]

    def metric(key: str, number: int) -> dict[str, object]:
        return {"key": key, "value": number / 7, "timestamp": 1_700_000_000_000 + number, "step": number}

    for number in range(runs):
        made = new_run(number)
        params = [{"key": f"p{i}", "value": str(number % 7)} for i in range(10)]
        metrics = [metric(f"auc{i}", number) for i in range(10)]
        post(http, "runs/log-batch", {"run_id": made, "metrics": metrics, "params": params})
    run_id = new_run(runs)

    def log_metric() -> object:
        return post(http, "runs/log-metric", {"run_id": run_id, **metric("loss", next(steps))})

    def log_batch(*, distinct: bool) -> object:
        first = next(steps)
        batch = [metric(f"m{i}" if distinct else "batched", first * 1000 + i) for i in range(1000)]
        return post(http, "runs/log-batch", {"run_id": run_id, "metrics": batch})

    found = {
        "experiment_ids": [experiment],
        "filter": "metrics.auc3 > 1 AND params.p1 = '3'",
        "order_by": ["metrics.auc3 DESC"],
        "max_results": 100,
    }
    history = {"run_id": run_id, "metric_key": "batched"}
    return {
        "log_metric": log_metric,
        "log_batch(1000), one metric": lambda: log_batch(distinct=False),
        "log_batch(1000), 1000 metrics": lambda: log_batch(distinct=True),
        f"search {runs} runs": lambda: post(http, "runs/search", found),
        "history of that metric": lambda: http.get(
            f"{API}/metrics/get-history", params=history
        ).raise_for_status(),
    }


def memory(group: int) -> int:
    """MiB (PSS) of the processes of a process group."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getpgid(int(entry.name)) == group:
                    lines = (entry / "smaps_rollup").read_text().splitlines()
                    total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
    return total >> 10


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeat", type=int, default=20)
    options.add_argument("--runs", type=int, default=300)
    options.add_argument("--workers", type=int, default=1, help="of mlflow server; 1 is its best on SQLite")
    given = options.parse_args()
    client = Client()
    ours = httpx.Client(base_url=client.url, headers={"Authorization": f"Bearer {client.key}"}, timeout=120)
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder), given.workers) as (url, group):
        theirs = httpx.Client(base_url=url, timeout=120)
        pairs = zip(
            operations(ours, given.runs).items(), operations(theirs, given.runs).values(), strict=True
        )
        print(f"{'':<30} {'Stratal ms':>11} {'mlflow ms':>10} {'ratio':>6}")
        for (name, mine), other in pairs:
            here, there = timed(mine, given.repeat), timed(other, given.repeat)
            print(f"{name:<30} {here:>11.1f} {there:>10.1f} {here / there:>6.2f}", flush=True)
        held = memory(group)
    print(f"\nmlflow server holds {held} MiB; for Stratal see: stratal status")


if __name__ == "__main__":
    main()
