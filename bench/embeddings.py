"""Sentence embeddings: an endpoint through OpenAI's protocol beside its own runtime called directly, in one thread each.

Needs a running platform and its variables (``eval "$(stratal env)"``); its home is STRATAL_HOME, whose environment and
model files the direct calls use. Prints texts per second of

- 10,000 texts in full batches: the runtime in a loop, and the endpoint asked by two clients, and
- one text a request: the runtime in a loop, and the endpoint asked by 64 callers at once, and by one.

Authentication, metering, recording and JSON are in the endpoint's numbers. Run it on a machine that does nothing else.
"""

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

NAME = "bench-embeddings"
TEXTS = 10_000
BATCH = 250
SINGLE_SECONDS = 10.0
WORDS = """the a patient invoice river engine doctor yellow travels slowly under because report seven house music measured
against window garden question answer when every market paper bridge winter"""

DIRECT = """
import importlib, importlib.util, json, sys, time
folder, model, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
spec = importlib.util.spec_from_file_location("replica", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["replica"] = importlib.util.module_from_spec(spec)
task = importlib.import_module("replica.task_embedding")
answer = task.load(lambda path: open(model + "/" + path, "rb").read(), {})
texts = json.load(sys.stdin)
answer(texts[:batch])
started = time.perf_counter()
for at in range(0, len(texts), batch):
    answer(texts[at:at + batch])
full = len(texts) / (time.perf_counter() - started)
started, count = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    answer([texts[count % len(texts)]])
    count += 1
print(json.dumps({"full": full, "one": count / (time.perf_counter() - started)}))
"""


def main() -> None:
    texts = made()
    ready()
    direct = directly(texts)
    batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
    ask(texts[:BATCH])
    full = len(texts) / spread(batches, 2)
    one = single(texts, 1)
    many = single(texts, 64)
    print(f"{'texts per second':34}{'direct':>10}{'endpoint':>10}{'ratio':>8}")
    print(
        f"{f'{TEXTS:,} texts, batches of {BATCH}':34}{direct['full']:10.0f}{full:10.0f}{full / direct['full']:8.2f}"
    )
    print(f"{'one text, 64 callers':34}{direct['one']:10.0f}{many:10.0f}{many / direct['one']:8.2f}")
    print(f"{'one text, one caller':34}{direct['one']:10.0f}{one:10.0f}{one / direct['one']:8.2f}")


def made() -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS.split(), k=chance.randint(5, 40))) for _ in range(TEXTS)]


def ready() -> None:
    """The endpoint, with one replica of one thread."""
    subprocess.run(
        [sys.executable, "-m", "stratal.cli.main", "models", "deploy", "embed", "--name", NAME], check=True
    )


def directly(texts: Sequence[str]) -> dict[str, float]:
    """The replica's own module in the endpoint's own environment, with one thread as a replica has."""
    import stratal.engines.runtimes

    home = Path(os.environ.get("STRATAL_HOME") or Path.home() / ".stratal")
    python = next(
        path.parents[3] / "bin" / "python" for path in home.glob("envs/**/site-packages/tokenizers")
    )
    model = next(path.parent for path in home.glob("models/*/model.safetensors"))
    program = Path(stratal.engines.runtimes.__file__).parent / "replica"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [str(python), "-c", DIRECT, str(program), str(model), str(BATCH), str(SINGLE_SECONDS)],
        input=json.dumps(texts),
        env={"PATH": os.environ["PATH"], **threads},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def ask(texts: Sequence[str]) -> None:
    body = json.dumps({"model": NAME, "input": texts, "encoding_format": "base64"}).encode()
    request = urllib.request.Request(os.environ["STRATAL_URL"] + "/v1/embeddings", body)
    request.add_header("Authorization", "Bearer " + os.environ["STRATAL_API_KEY"])
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=120) as answer:
        found = json.load(answer)["data"]
    assert len(found) == len(texts)
    assert len(base64.b64decode(found[0]["embedding"])) == 384 * 4


def spread(batches: Sequence[Sequence[str]], callers: int) -> float:
    """Seconds until all batches are answered."""
    waiting = list(batches)
    lock = threading.Lock()

    def call() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                mine = waiting.pop()
            ask(mine)

    started = time.perf_counter()
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def single(texts: Sequence[str], callers: int) -> float:
    """Texts per second when each caller asks one text after the other."""
    end = time.perf_counter() + SINGLE_SECONDS
    counts = [0] * callers

    def call(number: int) -> None:
        while time.perf_counter() < end:
            ask([texts[(number * 157 + counts[number]) % len(texts)]])
            counts[number] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
