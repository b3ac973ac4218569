"""Check GPUs end to end on this machine: found, assigned one job each, fenced, measured. Says plainly when there is none.

Usage: .venv/bin/python scripts/gpu_check.py        (make gpu-check)

Starts a platform of its own on a free port and a temporary home. The jobs talk to the driver through
ctypes: nothing but the driver is needed. Exit code 0: all held, or there is no GPU to check; 1: not.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# What a job sees: the UUIDs of its devices through CUDA's driver API. With "busy" it keeps the first one at
# work for a while, taking 256 MiB of its memory.
LOOK = r"""
import ctypes, json, sys, time
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    print(json.dumps({"error": str(error), "uuids": []})); sys.exit(0)
code = cuda.cuInit(0)
count = ctypes.c_int(0)
if code == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
uuids = []
for n in range(count.value):
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    cuda.cuDeviceGet(ctypes.byref(device), n)
    cuda.cuDeviceGetUuid(ctypes.byref(raw), device)
    h = bytes(raw).hex()
    uuids.append(f"GPU-{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}")
print(json.dumps({"cuInit": code, "uuids": uuids}), flush=True)
if "busy" in sys.argv and uuids:
    size = 256 << 20
    context, pointer, device = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    assert cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
    until = time.monotonic() + 12
    while time.monotonic() < until:
        for value in range(64):
            cuda.cuMemsetD8Async(pointer, ctypes.c_ubyte(value), ctypes.c_size_t(size), None)
        assert cuda.cuCtxSynchronize() == 0
"""


class Failed(Exception):
    pass


class Platform:
    def __init__(self, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATAL_")}
        self.environ = {**kept, "STRATAL_HOME": str(home)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "stratal.cli.main", *words]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=180, check=False
        )

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        if done.returncode != 0:
            raise Failed(f"stratal {' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout)

    def job(self, *words: str) -> dict[str, Any]:
        """Run LOOK as a job; what it printed beside its record."""
        asked = words[: words.index("--")]
        done = self(
            "run", "--json", "--no-code", *asked, "--", "python", "-c", LOOK, *words[len(asked) + 1 :]
        )
        if done.returncode != 0:
            raise Failed(f"the job ended with {done.returncode}: {done.stderr}")
        said = next(json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
        return {**json.loads(done.stdout), "said": said}


def check(what: str, held: bool, detail: object = "") -> None:
    print(f"{'ok  ' if held else 'FAIL'} {what}{f': {detail}' if detail != '' else ''}", flush=True)
    if not held:
        raise Failed(what)


def driver_says() -> list[str]:
    """The UUIDs that NVIDIA's own tool lists; [] without it."""
    try:
        asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return []
    return sorted(done.stdout.split()) if done.returncode == 0 else []


def run(platform: Platform) -> bool:
    """All checks; False when there is no GPU. Raises `Failed`."""
    gpus = platform.json("gpus")["gpus"]
    if not gpus:
        print(f"There is no GPU on this machine, so nothing was checked. {platform('gpus').stdout.strip()}")
        return False
    for gpu in gpus:
        print(f"     {gpu['type']}: {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, {gpu['uuid']}")
    check("none of them is made up", not any(gpu["fake"] for gpu in gpus))
    told = driver_says()
    if told:
        check("they are those that nvidia-smi lists", sorted(gpu["uuid"] for gpu in gpus) == told)
    kind = gpus[0]["type"]
    job = platform.job("--gpus", f"{kind}:1", "--", "busy")
    check("a job with one GPU sees that one alone", job["said"]["uuids"] == job["gpu_uuids"], job["said"])
    usage = job["usage"]
    check("it held it", usage["gpu_seconds"] > 10, f"{usage['gpu_seconds']} s")
    check("it was seen to be busy", usage["gpu_busy_seconds"] > 1, f"{usage['gpu_busy_seconds']} s")
    check("its memory was seen", usage["gpu_peak_memory_bytes"] > 200 << 20, usage["gpu_peak_memory_bytes"])
    bare = platform.job("--")
    check("a job without GPUs sees none", bare["said"]["uuids"] == [], bare["said"])
    override = platform.job("--env", "CUDA_VISIBLE_DEVICES=0", "--")
    check("also when it asks for one by itself", override["said"]["uuids"] == [], override["said"])
    waits_its_turn(platform, kind, sum(gpu["type"] == kind for gpu in gpus))
    return True


def waits_its_turn(platform: Platform, kind: str, count: int) -> None:
    """One job more than there are GPUs of this kind: it waits, and says for what."""
    sleep = ["--", "python", "-c", "import time; time.sleep(60)"]
    asked = ["run", "--detach", "--no-code", "--cpus", "0.1", "--memory", "64MiB"]
    ids = [int(platform(*asked, "--gpus", f"{kind}:1", *sleep).stdout) for _ in range(count + 1)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        jobs = [platform.json("job", "show", str(job_id)) for job_id in ids]
        if sum(job["state"] == "running" for job in jobs) == count:
            break
    given = [uuid for job in jobs for uuid in job["gpu_uuids"]]
    check("no GPU is given to two jobs", len(given) == len(set(given)) == count, given)
    waits = platform.json("job", "why", str(ids[-1]))["waits_for"]
    check("the next one waits for a GPU", [wait["what"] for wait in waits] == ["gpus"], waits)
    for job_id in reversed(ids):
        platform("job", "stop", str(job_id))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="stratal-gpu-") as folder:
        platform = Platform(Path(folder) / "home")
        up = platform("up", "--detach", "--port", str(platform.port))
        if up.returncode != 0:
            print(up.stderr, file=sys.stderr)
            return 1
        try:
            if run(platform):
                print("All held.")
        except Failed as error:
            print(f"Not so: {error}", file=sys.stderr)
            return 1
        finally:
            platform("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
