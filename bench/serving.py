"""One logistic regression, one row per request: Stratal's endpoint beside ``mlflow models serve``, FastAPI and BentoML.

Needs a running platform and its variables (``eval "$(stratal env)"``). Prints, for 1 and 64 connections,
the median latency, requests per second, and processor time per request of everything that serves
(server and replica; the others' whole process trees), and the ratios to MLflow. Stratal authenticates,
meters and records each request; the others do none of that. Run it on a machine that does nothing else;
processor time per request holds up better than the rest where something does.

BentoML wants an environment of its own: name its Python in ``BENTOML_PYTHON`` (with bentoml and this
scikit-learn installed), else it is left out.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

NAME = "bench-serving"
SECONDS = 6.0
CONNECTIONS = (1, 64)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    label: str
    port: int
    request: bytes
    pids: Sequence[int]


@dataclass(frozen=True)
class Result:
    p50_ms: float
    per_second: float
    cpu_ms: float


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of the processes and all below them."""
    children: dict[int, list[int]] = {}
    times: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            times[int(entry.name)] = int(fields[11]) + int(fields[12])
    found, waiting = set(), list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return sum(times.get(pid, 0) for pid in found) / _TICKS


async def drive(target: Target, connections: int, seconds: float) -> list[float]:
    """Send the request over and over on each connection; returns the latencies in ms."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.write(target.request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:20]:
                raise SystemExit(f"{target.label}: {head!r}")
            length = int(
                next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")).split(b":")[
                    1
                ]
            )
            await reader.readexactly(length)
            latencies.append((time.perf_counter() - started) * 1000)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return latencies


def measure(target: Target, connections: int) -> Result:
    asyncio.run(drive(target, connections, 1.0))
    before, started = cpu_seconds(target.pids), time.perf_counter()
    latencies = asyncio.run(drive(target, connections, SECONDS))
    spent, took = cpu_seconds(target.pids) - before, time.perf_counter() - started
    return Result(statistics.median(latencies), len(latencies) / took, spent * 1000 / len(latencies))


def http(path: str, body: bytes, *, key: str = "", extra: str = "") -> bytes:
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{auth}{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def prepare(folder: Path) -> tuple[bytes, bytes, int]:
    """Train, save, register and deploy; returns the two request bodies and the JSON header's length of the second."""
    import mlflow
    import mlflow.sklearn
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target)
    signature = infer_signature(data.data, model.predict(data.data))
    # Cloudpickle: what `mlflow models serve` loads without being told to trust types.
    options = {"signature": signature, "serialization_format": "cloudpickle"}
    mlflow.sklearn.save_model(model, folder / "model", **options)
    with mlflow.start_run():
        made = mlflow.sklearn.log_model(model, name="model", registered_model_name=NAME, **options)
    uri = f"models:/{NAME}/{made.registered_model_version}"
    subprocess.run(
        [sys.executable, "-m", "stratal.cli.main", "deploy", uri, "--name", NAME, "--idle", "0"], check=True
    )
    row = data.data.iloc[:1]
    split = {"dataframe_split": {"columns": list(row.columns), "data": row.values.tolist()}}
    raw = np.ascontiguousarray(row.values, np.float64).tobytes()
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [1, 30]}
    header = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "predict"}],
        }
    ).encode()
    return json.dumps(split).encode(), header + raw, len(header)


def serve(
    label: str, command: Sequence[str], port: int, folder: Path, **env: str
) -> "subprocess.Popen[bytes]":
    """Start a server in a process group of its own and wait until it listens."""
    bin = Path(command[0]).parent
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", **env},  # they look for uvicorn there
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            asyncio.run(asyncio.open_connection("127.0.0.1", port))
            return process
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{label} does not start")


FASTAPI = """
import cloudpickle, numpy
from fastapi import FastAPI
from pydantic import BaseModel

class Body(BaseModel):
    instances: list[list[float]]

app = FastAPI()
model = cloudpickle.load(open("model/model.pkl", "rb"))

@app.post("/invocations")
def invocations(body: Body) -> dict[str, list[int]]:
    return {"predictions": model.predict(numpy.array(body.instances)).tolist()}
"""

BENTOML = """
import bentoml, cloudpickle, numpy

@bentoml.service(workers=1, traffic={"concurrency": 256})
class Served:
    def __init__(self) -> None:
        self.model = cloudpickle.load(open("model/model.pkl", "rb"))

    @bentoml.api
    def predict(self, instances: list[list[float]]) -> list[int]:
        return self.model.predict(numpy.array(instances)).tolist()
"""


def bare(split: bytes) -> bytes:
    """The same rows without their columns' names, as frameworks without a signature take them."""
    return json.dumps({"instances": json.loads(split)["dataframe_split"]["data"]}).encode()


def peers(folder: Path, port: int, split: bytes) -> list[tuple[Target, "subprocess.Popen[bytes]"]]:
    """The others, serving the same model from `port` on, each with the request that it takes."""
    rows = bare(split)
    (folder / "peer_fastapi.py").write_text(FASTAPI)
    (folder / "peer_bentoml.py").write_text(BENTOML)
    python = sys.executable
    mlflow = [python, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    uvicorn = [python, "-m", "uvicorn", "peer_fastapi:app", "--log-level", "warning", "--port", str(port + 1)]
    wanted = [
        (
            "mlflow models serve",
            [*mlflow, "-m", str(folder / "model"), "-p", str(port)],
            "/invocations",
            split,
            {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"},
        ),
        ("FastAPI, one process", uvicorn, "/invocations", rows, {}),
    ]
    bento = os.environ.get("BENTOML_PYTHON")
    if bento:
        command = [bento, "-m", "bentoml", "serve", "peer_bentoml:Served", "--port", str(port + 2)]
        wanted.append(("BentoML, one worker", command, "/predict", rows, {"BENTOML_DO_NOT_TRACK": "1"}))
    found = []
    for at, (label, command, path, body, env) in enumerate(wanted):
        process = serve(label, command, port + at, folder, **env)
        found.append((Target(label, port + at, http(path, body), [process.pid]), process))
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    url, key = os.environ["STRATAL_URL"], os.environ["STRATAL_API_KEY"]
    project, port = os.environ["STRATAL_PROJECT"], urlsplit(url).port or 80
    with tempfile.TemporaryDirectory() as scratch:
        split, binary, length = prepare(Path(scratch))
        status = subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", "status", "--json"], capture_output=True, check=True
        )
        ours = [process["pid"] for process in json.loads(status.stdout)["processes"]]
        others = peers(Path(scratch), port + 1, split)
        try:
            v2 = f"Inference-Header-Content-Length: {length}\r\n"
            invocations = f"/api/v1/projects/{project}/endpoints/{NAME}/invocations"
            binary_v2 = http(f"/v2/models/{NAME}/infer", binary, key=key, extra=v2)
            targets = [
                *(target for target, _ in others),
                Target("stratal invocations", port, http(invocations, split, key=key), ours),
                Target("stratal, bare rows", port, http(invocations, bare(split), key=key), ours),
                Target("stratal v2 binary", port, binary_v2, ours),
            ]
            print(
                f"{'':<22}{'conns':>6}{'p50 ms':>10}{'req/s':>10}{'cpu ms/req':>12}{'p50 ×':>8}{'cpu ×':>8}"
            )
            for connections in CONNECTIONS:
                base: Result | None = None
                for target in targets:
                    result = measure(target, connections)
                    base = base or result
                    print(
                        f"{target.label:<22}{connections:>6}{result.p50_ms:>10.2f}{result.per_second:>10.0f}"
                        f"{result.cpu_ms:>12.2f}{base.p50_ms / result.p50_ms:>8.1f}{base.cpu_ms / result.cpu_ms:>8.1f}"
                    )
        finally:
            for _, process in others:
                os.killpg(process.pid, 15)
                process.wait()


if __name__ == "__main__":
    main()
