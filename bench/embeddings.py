"""Sentence embeddings: an endpoint through OpenAI's protocol beside its own runtime called directly, in one thread each.

Needs a running platform and its variables (``eval "$(stratal env)"``); its home is STRATAL_HOME, whose environment and
model files the direct calls use. Prints texts per second of

- 10,000 texts in full batches: the runtime in a loop, and the endpoint asked by two clients, and
- one text a request: the runtime in a loop, and the endpoint asked by one caller and by 64 at once.

Both take turns, two thousand texts or a few seconds each, so that what else the machine does falls on both. Beside
wall-clock time stands the processor time of the process that computes: what the endpoint's own path takes from it.
Authentication, metering, recording and JSON are in the endpoint's numbers.
"""

import base64
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

NAME = "bench-embeddings"
TEXTS = int(os.environ.get("BENCH_TEXTS", "10000"))
TURN = 2_000
BATCH = 250
TURN_SECONDS = 5.0
WORDS = """the a patient invoice river engine doctor yellow travels slowly under because report seven house music measured
against window garden question answer when every market paper bridge winter"""

DIRECT = """
import importlib, importlib.util, json, sys, time
folder, model, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location("replica", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["replica"] = importlib.util.module_from_spec(spec)
task = importlib.import_module("replica.task_embedding")
answer = task.load(lambda path: open(model + "/" + path, "rb").read(), {})
for line in sys.stdin:
    asked = json.loads(line)
    texts, seconds = asked["texts"], asked["seconds"]
    started, cpu, count = time.perf_counter(), time.process_time(), 0
    if seconds is None:
        for at in range(0, len(texts), batch):
            answer(texts[at:at + batch])
        count = len(texts)
    while seconds is not None and time.perf_counter() - started < seconds:
        answer([texts[count % len(texts)]])
        count += 1
    print(json.dumps([count, time.perf_counter() - started, time.process_time() - cpu]), flush=True)
"""


class Sum:
    """Texts, seconds, and processor seconds of the process that computes."""

    def __init__(self) -> None:
        self.count, self.seconds, self.cpu = 0, 0.0, 0.0

    def add(self, count: int, seconds: float, cpu: float) -> None:
        self.count, self.seconds, self.cpu = self.count + count, self.seconds + seconds, self.cpu + cpu

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def per_cpu(self) -> float:
        return self.count / self.cpu


def main() -> None:
    texts = made()
    ready()
    direct, process = Direct(), replica()
    full, one, many = (Sum(), Sum()), (Sum(), Sum()), Sum()
    direct.ask(texts[:BATCH], None)
    ask(connection(), texts[:BATCH])
    for at in range(0, TEXTS, TURN):
        turn = texts[at : at + TURN]
        full[0].add(*direct.ask(turn, None))
        batches = [turn[start : start + BATCH] for start in range(0, len(turn), BATCH)]
        full[1].add(*watched(process, lambda batches=batches: spread(batches, 2)))  # type: ignore[misc]
        one[0].add(*direct.ask(turn, TURN_SECONDS))
        one[1].add(*watched(process, lambda turn=turn: single(turn, 1)))  # type: ignore[misc]
        many.add(*watched(process, lambda turn=turn: single(turn, 64)))  # type: ignore[misc]
    direct.close()
    print(f"{'texts per second':40}{'direct':>9}{'endpoint':>10}{'ratio':>7}{'of processor time':>20}")
    row(f"{TEXTS:,} texts, batches of {BATCH}", full[0], full[1])
    row("one text, 64 callers beside one, direct", one[0], many)
    row("one text, 64 callers beside one, asked", one[1], many)
    row("one text, one caller", one[0], one[1])


def row(what: str, base: Sum, other: Sum) -> None:
    of_cpu = f"{other.per_cpu / base.per_cpu:20.2f}"
    print(f"{what:40}{base.rate:9.0f}{other.rate:10.0f}{other.rate / base.rate:7.2f}{of_cpu}")


def made() -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS.split(), k=chance.randint(5, 40))) for _ in range(TEXTS)]


def ready() -> None:
    """The endpoint, with one replica of one thread."""
    subprocess.run(
        [sys.executable, "-m", "stratal.cli.main", "models", "deploy", "embed", "--name", NAME], check=True
    )


def home() -> Path:
    return Path(os.environ.get("STRATAL_HOME") or Path.home() / ".stratal")


def replica() -> int:
    """The process that answers: it has read the model's folder last of those that run the replica's program."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "cmdline").read_bytes()
            if b"runtimes/replica/__main__.py" in told and str(home()).encode() in told:
                found.append((place.stat().st_ctime, int(place.name)))
        except OSError:
            continue
    return max(found)[1]


def cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(process: int, work: Callable[[], int]) -> tuple[int, float, float]:
    started, cpu = time.perf_counter(), cpu_of(process)
    count = work()
    return count, time.perf_counter() - started, cpu_of(process) - cpu


class Direct:
    """The replica's own module in the endpoint's own environment, with one thread as a replica has."""

    def __init__(self) -> None:
        import stratal.engines.runtimes

        python = next(
            path.parents[3] / "bin" / "python" for path in home().glob("envs/**/site-packages/tokenizers")
        )
        model = next(path.parent for path in home().glob("models/*/model.safetensors"))
        program = Path(stratal.engines.runtimes.__file__).parent / "replica"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [str(python), "-c", DIRECT, str(program), str(model), str(BATCH)],
            env={"PATH": os.environ["PATH"], **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, texts: Sequence[str], seconds: float | None) -> tuple[int, float, float]:
        said: IO[str] = self._process.stdin  # type: ignore[assignment]
        told: IO[str] = self._process.stdout  # type: ignore[assignment]
        said.write(json.dumps({"texts": texts, "seconds": seconds}) + "\n")
        said.flush()
        count, took, cpu = json.loads(told.readline())
        return count, took, cpu

    def close(self) -> None:
        self._process.communicate()


def connection() -> http.client.HTTPConnection:
    """Kept open from one request to the next, as OpenAI's client does."""
    at = urlsplit(os.environ["STRATAL_URL"])
    return http.client.HTTPConnection(at.hostname or "127.0.0.1", at.port, timeout=120)


def ask(at: http.client.HTTPConnection, texts: Sequence[str]) -> None:
    body = json.dumps({"model": NAME, "input": texts, "encoding_format": "base64"}).encode()
    headers = {
        "Authorization": "Bearer " + os.environ["STRATAL_API_KEY"],
        "Content-Type": "application/json",
    }
    at.request("POST", "/v1/embeddings", body, headers)
    answer = at.getresponse()
    told: dict[str, Any] = json.loads(answer.read())
    assert answer.status == 200, told
    assert len(told["data"]) == len(texts)
    assert len(base64.b64decode(told["data"][0]["embedding"])) == 384 * 4


def spread(batches: Sequence[Sequence[str]], callers: int) -> int:
    """Texts answered when all batches are."""
    waiting = list(batches)
    lock = threading.Lock()

    def call(_number: int) -> None:
        at = connection()
        while True:
            with lock:
                if not waiting:
                    return
                mine = waiting.pop()
            ask(at, mine)

    together(call, callers)
    return sum(map(len, batches))


def single(texts: Sequence[str], callers: int) -> int:
    """Texts answered in a turn when each caller asks one text after the other."""
    end = time.perf_counter() + TURN_SECONDS
    counts = [0] * callers

    def call(number: int) -> None:
        at = connection()
        while time.perf_counter() < end:
            ask(at, [texts[(number * 157 + counts[number]) % len(texts)]])
            counts[number] += 1

    together(call, callers)
    return sum(counts)


def together(call: Callable[[int], None], callers: int) -> None:
    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
