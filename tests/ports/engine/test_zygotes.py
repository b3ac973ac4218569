"""Starting by fork: the same workload, the same fences, the same end as a cold start; and zygotes that come and go."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
import time
import venv
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stratal.compute.engine import Gang, WorkloadSpec, WorkloadStatus
from stratal.engines.local.adapter import LocalEngine, Zygotes
from stratal.engines.local.process import descendants
from stratal.engines.local.process import start_time as process_of
from stratal.engines.local.shown import waiting, zygotes

from .conftest import BOUND, Bench, fences_of, processes, until
from .test_gang import MEET

pytestmark = pytest.mark.anyio

MODULES = {
    "heavy": "import random, os\ndrawn = random.Random().random()\nloaded_by = os.getpid()\n",
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
    "nosy": "import os\nkey = os.environ.get('AWS_ACCESS_KEY_ID')\n",
    "tuned": "import os\nlevel = os.environ.get('TUNED_LEVEL', 'none')\n",
}


@dataclasses.dataclass
class Nursery:
    """An environment with a few modules, and a bench to run its Python on, cold or forked."""

    bench: Bench
    python: Path

    def spec(
        self, code: str, *arguments: str, env: Mapping[str, str] | None = None, **more: Any
    ) -> WorkloadSpec:
        """``python job.py …`` in a folder of its own; a variable that only an interpreter reads makes it cold."""
        folder = self.bench.folder(f"work{self.bench.count}")
        (folder / "job.py").write_text(code)
        more.setdefault("argv", ["python", "job.py", *arguments])
        return self.bench.spec(
            more.pop("argv"),
            env={"PATH": f"{self.python.parent}:/usr/bin:/bin", "LANG": "C.UTF-8", **(env or {})},
            cwd=folder,
            python=self.python,
            read_only=[self.python.parent.parent],
            isolate=True,
            network="platform",
            **more,
        )

    def cold(self, spec: WorkloadSpec) -> WorkloadSpec:
        self.bench.count += 1
        return dataclasses.replace(
            spec, attempt_id=f"cold_{self.bench.count}", env={**spec.env, "PYTHONHASHSEED": "random"}
        )

    async def warm(self, spec: WorkloadSpec) -> None:
        async with asyncio.timeout(BOUND):
            while not await self.bench.engine.warm(spec):
                await asyncio.sleep(0.02)

    async def forked(self, spec: WorkloadSpec) -> WorkloadStatus:
        """Start it warm; it runs."""
        await self.warm(spec)
        status = await self.bench.engine.start(spec)
        assert status.isolation.start == "forked", await self.bench.log(spec.attempt_id)
        return status

    async def waited(self, spec: WorkloadSpec) -> WorkloadStatus:
        """Start it as what waited for the next workload of its kind; it runs."""
        before = dataclasses.replace(spec, attempt_id=f"{spec.attempt_id}_before")
        if not self.spares():
            await self.forked(before)
            await until(self.spares)
        status = await self.bench.engine.start(spec)
        assert status.isolation.start == "forked", await self.bench.log(spec.attempt_id)
        return status

    def spares(self) -> set[int]:
        """The launchers that wait for their workload."""
        return set(waiting(self.bench.run_dir))

    async def both(self, spec: WorkloadSpec) -> list[tuple[WorkloadStatus, str]]:
        """The end and the log of a cold start, then of a forked one."""
        cold = self.cold(spec)
        assert (await self.bench.engine.start(cold)).isolation.start == "cold"
        await self.forked(spec)
        names = (cold.attempt_id, spec.attempt_id)
        return [(await self.bench.ended(name), await self.bench.log(name)) for name in names]

    def living(self) -> list[int]:
        return [zygote.pid for zygote in zygotes(self.bench.run_dir)]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds MODULES."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    for name, text in MODULES.items():
        (packages / f"{name}.py").write_text(text)
    return folder / "bin" / "python"


@pytest.fixture
async def nursery(tmp_path: Path, environment: Path) -> AsyncIterator[Nursery]:
    """On a bench with bubblewrap: without boxes there are no zygotes."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "admin.key").write_text("the platform's secret")
    bench = Bench("bubblewrap", home, home / "run", fences_of("bubblewrap"), home / "server.sock")
    await bench.connect()
    yield Nursery(bench, environment)
    await bench.close()


def use(bench: Bench, limits: Zygotes) -> None:
    bench.engine = LocalEngine(
        bench.run_dir, bench.home, bench.platform_socket, fences=bench.fences, zygotes=limits
    )


# -- the same workload -----------------------------------------------------------------------------

PORTRAIT = """
import __main__, builtins, json, os, resource, signal, sys
names = sorted(set(vars(__main__)) - {"names", "portrait", "builtins", "json", "os", "resource", "signal", "sys"})
portrait = {
    "argv": sys.argv, "orig": sys.orig_argv, "path": sys.path, "main": names, "file": globals().get("__file__"),
    "name": __name__, "spec": str(__spec__ and __spec__.name), "package": __package__, "doc": __doc__,
    "loader": type(__loader__).__name__, "is_main": sys.modules["__main__"] is __main__, "exe": sys.executable,
    "prefix": sys.prefix, "flags": [sys.flags.optimize, sys.flags.no_site, sys.flags.utf8_mode, sys.flags.dev_mode],
    "env": {k: v for k, v in os.environ.items() if k not in ("PYTHONHASHSEED", "HOME", "TMPDIR")},
    "cwd": os.getcwd(), "stdin": os.read(0, 10).decode(), "streams": [
        [s.encoding, s.errors, s.line_buffering, s.write_through, s.name, s.fileno(), type(s.buffer).__name__]
        for s in (sys.stdout, sys.stderr)],
    "signals": {int(s): str(signal.getsignal(s)).split(" at ")[0] for s in signal.valid_signals()},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "umask": os.umask(0), "nice": os.nice(0),
    "limits": [resource.getrlimit(n) for n in range(16)], "affinity": len(os.sched_getaffinity(0)),
    "oom": open("/proc/self/oom_score_adj").read(), "ours": [n for n in sys.modules if "stratal" in n],
    "bytecode": sys.dont_write_bytecode, "tasks": len(os.listdir("/proc/self/task")),
    "comm": open("/proc/self/comm").read(), "command": open("/proc/self/cmdline").read().rstrip("\\0")[:60],
}
print(json.dumps(portrait))
"""


async def test_a_fork_looks_like_a_fresh_interpreter(nursery: Nursery) -> None:
    for argv in (
        ["python", "job.py", "a b", "--flag"],
        ["python3", "-u", "-B", "./job.py"],
        ["python", "-m", "job", "x"],
        ["python", "-c", PORTRAIT, "-c", "y"],
    ):
        spec = nursery.spec(PORTRAIT, argv=argv, env={"MINE": "1", "PYTHONPATH": "more"}, cpus=1)
        (cold, told), (forked, said) = await nursery.both(spec)
        assert cold.exit_code == forked.exit_code == 0, told + said
        assert json.loads(said) == json.loads(told), argv


ENDINGS = [
    ("import sys; print('x'); sys.exit(7)", 7),
    ("def f():\n    raise ValueError('no')\nf()", 1),
    ("import atexit, os; atexit.register(print, 'bye'); print('half', end='')", 0),
    ("import os; os.kill(os.getpid(), 9)", 137),
    ("import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)", 130),
    ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()", 0),
    ("import sys\nsys.excepthook = lambda *_: print('mine')\n1 / 0", 1),
    ("import sys, io\nsys.stdout.buffer.write(b'\\xff raw\\n'); print('caf\\u00e9'); input()", 1),
]


async def test_a_fork_ends_as_a_fresh_interpreter_does(nursery: Nursery) -> None:
    for code, ending in ENDINGS:
        (cold, told), (forked, said) = await nursery.both(nursery.spec(code))
        assert (forked.exit_code, said, forked.reason) == (cold.exit_code, told, cold.reason)
        assert cold.exit_code == ending, code


async def test_processes_of_a_fork_work_by_fork_and_by_spawn(nursery: Nursery) -> None:
    code = (
        "import multiprocessing as m, subprocess, sys\ndef square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn', 'forkserver'):\n"
        "        with m.get_context(way).Pool(2) as pool: print(way, pool.map(square, [1, 2, 3]))\n"
        "    print(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout)\n"
    )
    (cold, told), (forked, said) = await nursery.both(nursery.spec(code))
    assert (forked.exit_code, said) == (cold.exit_code, told)
    assert said.startswith("fork [1, 4, 9]\nspawn [1, 4, 9]\n"), said


async def test_forks_share_modules_and_no_randomness(nursery: Nursery) -> None:
    code = "import heavy, random, os, tempfile\nprint(heavy.drawn, heavy.loaded_by == os.getpid(), random.random())"
    said = []
    for _ in range(2):
        spec = nursery.spec(code)
        await nursery.warm(dataclasses.replace(spec, imports=["heavy", "random", "tempfile"]))
        await nursery.forked(spec)
        await nursery.bench.ended(spec.attempt_id)
        said.append((await nursery.bench.log(spec.attempt_id)).split())
    assert said[0][:2] == said[1][:2] == [said[0][0], "False"]
    assert said[0][2] != said[1][2]


async def test_a_gang_of_forks_is_the_same_gang(nursery: Nursery) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "a,b,c,d", "STRATAL_URL": "http://127.0.0.1:8484", "MINE": "1"}
    shape = Gang(2, 2, restart=1, most_restarts=3, run_id="7")
    look = (
        "import heavy, sys; print(os.getpgid(0) == os.getpid(), sys.argv, "
        "sorted(n for n in os.environ if n not in ('HOME', 'PYTHONHASHSEED')))"
    )
    spec = nursery.spec(MEET + look, gang=shape, env=env)
    (cold, told), (forked, said) = await nursery.both(spec)
    assert cold.exit_code == forked.exit_code == 0, told + said
    assert sorted(said.splitlines()) == sorted(told.splitlines())
    for rank in range(4):
        lines = (await nursery.bench.engine.logs(spec.attempt_id, 0, rank=rank)).decode().splitlines()
        assert lines
        assert {f"[{rank}] {line}" for line in lines} <= set(said.splitlines())
    failing = nursery.spec(
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(600)", gang=shape
    )
    await nursery.forked(failing)
    status = await nursery.bench.ended(failing.attempt_id)
    assert status.exit_code == 3
    assert "rank 1 ended with exit code 3" in await nursery.bench.log(failing.attempt_id)


# -- the same fences -------------------------------------------------------------------------------

PROBE = """
import ctypes, json, os, resource, socket, sys
home, theirs, port, keeper, marker = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
for name, outside in zip(("mnt", "user", "uts"), sys.argv[6:], strict=True):
    if os.readlink(f"/proc/self/ns/{name}") == outside:  # what comes would change the machine: root may
        sys.exit(f"this is no box: its namespace '{name}' is the machine's")
libc = ctypes.CDLL(None, use_errno=True)
def tried(action):
    try:
        return ["done", str(action())]
    except BaseException as error:
        return ["refused", type(error).__name__, getattr(error, "errno", None)]
def call(name, *arguments):
    ctypes.set_errno(0)
    return [getattr(libc, name)(*arguments) >= 0, ctypes.get_errno()]
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(3); s.connect(address)
found = {}
for path in (f"{home}/admin.key", f"{home}/run/keeper.token", f"{theirs}/data", "/etc/shadow", "/root/.bashrc"):
    found[f"read {path}"] = tried(lambda: open(path).read())
for path in (home, f"{home}/run", f"{home}/run/zygotes", f"{home}/run/attempts", theirs, os.path.dirname(theirs)):
    found[f"list {path}"] = tried(lambda: len(os.listdir(path)) > 0)
places = [f"{home}/new", f"{theirs}/new", "new", os.environ["HOME"] + "/new"]
places += [sys.prefix + "/new", "/usr/new", "/etc/new", "/new", "/tmp/new"]
for path in places:
    found[f"write {path.replace(os.environ['HOME'], 'HOME')}"] = tried(lambda: open(path, "w").close())
def others():
    seen = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = open(f"/proc/{name}/cmdline").read() + open(f"/proc/{name}/environ").read()
            except OSError:
                continue
            seen += [text] if marker in text or "AWS_" in text else []
    return len(seen)
found["others' processes"] = others()
found["connect"] = tried(lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
found["abstract"] = tried(lambda: connect(socket.AF_UNIX, "\\0" + marker))
found["socket"] = tried(lambda: connect(socket.AF_UNIX, os.path.relpath(f"{home}/run/keeper.sock")))
found["interfaces"] = sorted(n for _, n in socket.if_nameindex())
for name, pid in (("keeper", keeper), ("first", 1)):
    found[f"signal {name}"] = tried(lambda: os.kill(pid, 0))
    found[f"memory of {name}"] = tried(lambda: open(f"/proc/{pid}/mem", "rb").close())
    found[f"root of {name}"] = tried(lambda: len(os.listdir(f"/proc/{pid}/root")) > 0)
    found[f"files of {name}"] = tried(lambda: len(os.listdir(f"/proc/{pid}/fd")) > 0)
found["attach"] = [call("ptrace", 16, pid, 0, 0) for pid in (keeper, 1)]
found["mount"] = call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
found["unmount"] = call("umount2", b"/proc", 2)
found["chroot"] = call("chroot", b"/tmp")
found["namespace"] = call("unshare", 0x20000)
found["hostname"] = [call("sethostname", b"x", 1), socket.gethostname()]
found["setuid"] = tried(lambda: os.setuid(12345))
found["nice"] = tried(lambda: os.nice(-5))
found["limit"] = tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
found["status"] = [l for l in open("/proc/self/status").read().splitlines()
    if l.startswith(("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"))]
found["files"] = sorted(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) for fd in (0, 1, 2))
found["further files"] = sorted(fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2)[1:]
found["mounts"] = sorted(" ".join(l.split()[1:4]) for l in open("/proc/mounts") if "/private/" not in l)
found["namespaces"] = sorted(os.listdir("/proc/self/ns"))
found["ids"] = [open(f"/proc/self/{n}").read().split() for n in ("uid_map", "gid_map")]
found["groups"] = [l.split(":", 1)[1].rsplit("-", 1)[0] for l in open("/proc/self/cgroup")]
print(json.dumps(found))
"""


async def test_a_hostile_workload_meets_the_same_fences_in_every_way_to_start(nursery: Nursery) -> None:
    bench = nursery.bench
    marker = f"marker-{os.getpid()}-{bench.kind}"
    theirs = bench.folder("theirs")
    (theirs / "data").write_text("somebody else's data")
    neighbour = nursery.spec(f"import time; print('up', flush=True); time.sleep(600)  # {marker}", marker)
    await nursery.forked(dataclasses.replace(neighbour, env={**neighbour.env, "AWS_SECRET": marker}))
    await bench.said(neighbour.attempt_id, "up")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind("\0" + marker)
        abstract.listen()
        port, keeper = server.getsockname()[1], bench.engine.keeper_pid
        machine = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "user", "uts")]
        arguments = [str(bench.home), str(theirs), str(port), str(keeper), marker, *machine]
        probe = nursery.spec(PROBE, *arguments, memory_bytes=1 << 30)
        (cold, told), (forked, said) = await nursery.both(probe)
        await until(lambda: len(nursery.spares()) == 2)  # the neighbour's like, and this one's
        spares = nursery.spares()
        again = dataclasses.replace(probe, attempt_id="again", read_write=[bench.folder("more")])
        assert (await bench.engine.start(again)).pid in spares
        waited, heard = await bench.ended(again.attempt_id), await bench.log(again.attempt_id)
        once_more = nursery.cold(again)
        assert (await bench.run(once_more)).isolation.start == "cold"
    assert cold.exit_code == forked.exit_code == waited.exit_code == 0, told + said + heard
    pairs = ((forked, said, told), (waited, heard, await bench.log(once_more.attempt_id)))
    for status, mine, colds in pairs:
        ours, theirs_ = json.loads(mine), json.loads(colds)
        assert {k: (v, ours[k]) for k, v in theirs_.items() if ours[k] != v} == {}
        assert dataclasses.replace(status.isolation, start="cold") == cold.isolation
    for secret in (f"{bench.home}/admin.key", f"{bench.home}/run/keeper.token", f"{theirs}/data"):
        assert ours[f"read {secret}"][0] == "refused"
    assert ours["others' processes"] == 0
    assert ours["attach"][0][0] is ours["mount"][0] is ours["unmount"][0] is False
    assert ours["connect"][0] == ours["abstract"][0] == ours["signal keeper"][0] == "refused"
    assert ours["further files"] == []
    assert "CapEff:\t0000000000000000" in ours["status"]
    assert "CapBnd:\t0000000000000000" in ours["status"]


async def test_where_there_are_no_boxes_there_are_no_forks(bench: Bench, environment: Path) -> None:
    if bench.boxed:
        pytest.skip("here there are")
    nursery = Nursery(bench, environment)
    spec = nursery.spec("print(1)")
    assert not await bench.engine.warm(spec)
    assert (await bench.run(spec)).isolation.start == "cold"
    assert nursery.living() == []


async def test_over_its_memory_a_fork_dies_alone_and_the_log_says_why(nursery: Nursery) -> None:
    neighbour = nursery.spec("import time; print('up', flush=True); time.sleep(600)")
    await nursery.forked(neighbour)
    hog = "import time\nhold = []\nfor _ in range(400):\n hold.append(b'x' * (4 << 20)); time.sleep(0.005)"
    spec = nursery.spec(hog, memory_bytes=192 << 20)
    await nursery.forked(spec)
    status = await nursery.bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (137, "memory limit of 192 MiB exceeded")
    assert await nursery.bench.log(spec.attempt_id) == "stratal: memory limit of 192 MiB exceeded\n"
    assert (192 << 20) * 0.9 < status.usage.peak_memory_bytes < 1 << 30
    states = {s.attempt_id: s.state for s in await nursery.bench.engine.adopt()}
    assert states[neighbour.attempt_id] == "running"
    assert nursery.living()


async def test_a_fork_that_multiplies_is_ended_with_all_its_offspring(nursery: Nursery) -> None:
    marker = f"offspring-{nursery.bench.run_dir}"
    code = (
        "import os, subprocess, sys, time\n"
        "for _ in range(40):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        os.execv('/bin/sh', ['sh', '-c', 'trap \"\" TERM; sleep 600; : ' + sys.argv[1]])\n"
        "print('up', flush=True); time.sleep(0.3 if sys.argv[2] == 'end' else 600)"
    )
    for how in ("end", "stop"):
        spec = nursery.spec(code, marker, how)
        await nursery.forked(spec)
        await nursery.bench.said(spec.attempt_id, "up")
        assert processes(marker)
        if how == "stop":
            await nursery.bench.engine.stop(spec.attempt_id, 0.2)
        status = await nursery.bench.ended(spec.attempt_id)
        assert status.exit_code == (0 if how == "end" else 143)
        assert processes(marker) == []


async def test_a_stopped_fork_may_finish_what_it_does_and_is_metered(nursery: Nursery) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(5)))\n"
        "end = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
        "print('up', flush=True)\nwhile True: time.sleep(0.05)"
    )
    spec = nursery.spec(code)
    await nursery.forked(spec)
    await nursery.bench.said(spec.attempt_id, "up")
    await nursery.bench.engine.stop(spec.attempt_id, 20)
    status = await nursery.bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (5, "stopped")
    assert await nursery.bench.log(spec.attempt_id) == "up\nsaved\nstratal: stopped\n"
    assert 0.4 <= status.usage.cpu_seconds < 2
    assert status.usage.memory_byte_seconds > 0


# -- what waits --------------------------------------------------------------------------------------


async def test_what_waits_holds_nothing_of_any_workload_and_becomes_the_next_one(nursery: Nursery) -> None:
    secret = f"secret-{os.getpid()}"
    look = (
        "import os, sys\nprint(os.getcwd(), sorted(os.listdir()), os.environ.get('MINE'), sys.argv[1:], flush=True)\n"
        "open('kept', 'w').write('x'); open(os.environ['HOME'] + '/seen', 'a').write('x')\n"
        "print(os.listdir(os.environ['HOME']))"
    )
    first = nursery.spec(look, secret, env={"MINE": secret})
    await nursery.forked(first)
    await nursery.bench.ended(first.attempt_id)
    for number in range(3):
        await until(nursery.spares)
        (spare,) = nursery.spares()
        family = [spare, *descendants(spare)]
        told = b"".join(
            Path(f"/proc/{pid}/{name}").read_bytes() for pid in family for name in ("cmdline", "environ")
        )
        assert secret.encode() not in told
        mounts = b"".join(Path(f"/proc/{pid}/mountinfo").read_bytes() for pid in family[1:])
        assert str(first.cwd).encode() not in mounts
        spec = nursery.spec(look, str(number), env={"MINE": str(number)}, cpus=1)
        assert (await nursery.bench.engine.start(spec)).pid == spare
        assert (await nursery.bench.ended(spec.attempt_id)).exit_code == 0
        said = (await nursery.bench.log(spec.attempt_id)).splitlines()
        assert said == [f"{spec.cwd} ['job.py'] {number} ['{number}']", "['seen']"]
        assert (spec.cwd / "kept").read_text() == "x"


async def test_what_waits_takes_on_only_what_would_get_its_box(nursery: Nursery) -> None:
    usual = nursery.spec("print(1)", memory_bytes=1 << 30)
    await nursery.waited(usual)
    await nursery.bench.ended(usual.attempt_id)
    await until(nursery.spares)
    (spare,) = nursery.spares()
    other = nursery.spec(
        "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)", memory_bytes=1 << 28
    )
    status = await nursery.bench.engine.start(other)
    assert (status.isolation.start, status.pid == spare) == ("forked", False)
    await nursery.bench.ended(other.attempt_id)
    assert await nursery.bench.log(other.attempt_id) == f"{1 << 28}\n"
    await until(lambda: len(nursery.spares()) == 2)  # one of each shape
    assert (await nursery.bench.run(nursery.spec("print(2)", memory_bytes=1 << 28))).exit_code == 0
    passing = dataclasses.replace(nursery.spec("print(3)"), durable=False)
    await nursery.bench.run(passing)


async def test_a_gang_and_a_stop_and_a_limit_are_as_ever_for_what_waited(nursery: Nursery) -> None:
    bench = nursery.bench
    gang = nursery.spec("import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])", gang=Gang(1, 2))
    await nursery.waited(gang)
    assert (await bench.ended(gang.attempt_id)).exit_code == 0
    assert sorted((await bench.log(gang.attempt_id)).splitlines()) == ["[0] 0 2", "[1] 1 2"]
    stubborn = nursery.spec("import signal, time\nsignal.signal(15, lambda *_: exit(5))\nprint('up', flush=True)\n"
                            "while True: time.sleep(0.05)")  # fmt: skip
    await nursery.waited(stubborn)
    await bench.said(stubborn.attempt_id, "up")
    await bench.engine.stop(stubborn.attempt_id, 20)
    assert (await bench.ended(stubborn.attempt_id)).exit_code == 5
    hog = nursery.spec("import time\nhold = []\nfor _ in range(400):\n hold.append(b'x' * (4 << 20)); time.sleep(0.005)",
                       memory_bytes=192 << 20)  # fmt: skip
    await nursery.waited(hog)
    assert (await bench.ended(hog.attempt_id)).reason == "memory limit of 192 MiB exceeded"
    endless = nursery.spec("import time; time.sleep(600)", memory_bytes=192 << 20, wall_seconds=0.3)
    await nursery.waited(endless)
    assert "wall time limit" in (await bench.ended(endless.attempt_id)).reason


async def test_what_waits_goes_when_it_is_killed_and_with_its_zygote_and_its_keeper(nursery: Nursery) -> None:
    bench = nursery.bench
    await nursery.waited(nursery.spec("print(1)"))
    await until(nursery.spares)
    (spare,) = nursery.spares()
    family = descendants(spare)
    os.kill(spare, signal.SIGKILL)
    await nursery.forked(nursery.spec("print('without it')"))
    await until(lambda: not any(process_of(pid) for pid in family))
    await until(nursery.spares)
    (spare,) = nursery.spares()
    family = [spare, *descendants(spare)]
    os.kill(spare, signal.SIGSTOP)
    given = nursery.spec("print('given to who is about to be killed')")
    starting = asyncio.ensure_future(bench.engine.start(given))
    await until((bench.run_dir / "attempts" / given.attempt_id).exists)
    await bench.engine.warm(given)  # answered after the start was passed on
    os.kill(spare, signal.SIGKILL)
    assert (await starting).isolation.start in ("cold", "forked")
    assert (await bench.ended(given.attempt_id)).exit_code == 0
    assert await bench.log(given.attempt_id) == "given to who is about to be killed\n"
    await until(lambda: not any(process_of(pid) for pid in family))
    await until(nursery.spares)
    (spare,) = nursery.spares()
    (zygote,) = nursery.living()
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: spare not in nursery.spares())
    await nursery.waited(nursery.spec("print(2)"))
    await until(nursery.spares)
    (spare,) = nursery.spares()
    family = [spare, *descendants(spare)]
    killed = bench.kill_keeper()
    await until(lambda: bench.engine.keeper_pid not in (None, killed))
    await until(lambda: not any(process_of(pid) for pid in family))
    assert not list(bench.run_dir.glob("spares/*"))
    await nursery.waited(nursery.spec("print(3)"))


# -- when there is no fork -------------------------------------------------------------------------


async def test_what_a_fork_could_not_do_alike_is_started_cold(nursery: Nursery) -> None:
    usual = nursery.spec("import heavy")
    await nursery.warm(dataclasses.replace(usual, imports=["heavy", "tuned"]))
    own = nursery.spec("import heavy; print(heavy.__file__)")
    (own.cwd / "heavy.py").write_text("")
    odd = [
        own,
        nursery.spec("import tuned; print(tuned.level)", env={"TUNED_LEVEL": "9"}),
        nursery.spec("", argv=["python", "-X", "dev", "job.py"]),
        nursery.spec("", argv=["/bin/sh", "-c", "python job.py"]),
        nursery.spec("", env={"LC_ALL": "C"}),
        nursery.spec("", argv=["python", "absent.py"]),
    ]
    odd.append(dataclasses.replace(nursery.spec(""), network="open"))
    for spec in odd:
        assert (await nursery.bench.engine.start(spec)).isolation.start == "cold", spec
    assert (await nursery.bench.ended(odd[-2].attempt_id)).exit_code == 2
    await nursery.bench.ended(odd[0].attempt_id)
    await nursery.bench.ended(odd[1].attempt_id)
    assert await nursery.bench.log(odd[0].attempt_id) == f"{own.cwd}/heavy.py\n"
    assert await nursery.bench.log(odd[1].attempt_id) == "9\n"
    await nursery.forked(usual)


async def test_modules_that_no_fork_could_share_are_left_for_later(nursery: Nursery) -> None:
    spec = nursery.spec("import threads, nosy, heavy, threading\nprint(nosy.key, threading.active_count())",
                        env={"AWS_ACCESS_KEY_ID": "mine"})  # fmt: skip
    await nursery.bench.run(spec)
    await nursery.warm(spec)
    await until(lambda: any("heavy" in zygote.imports for zygote in zygotes(nursery.bench.run_dir)))
    (zygote,) = zygotes(nursery.bench.run_dir)
    assert zygote.imports == ("heavy", "threading")
    again = dataclasses.replace(spec, attempt_id="again")
    await nursery.forked(again)
    await nursery.bench.ended("again")
    assert await nursery.bench.log("again") == "mine 2\n"


async def test_the_first_workload_teaches_what_to_load(nursery: Nursery) -> None:
    first = nursery.spec("from mine import x")
    (first.cwd / "mine.py").write_text("import heavy\nx = 1\n")
    assert (await nursery.bench.run(first)).isolation.start == "cold"
    await until(lambda: any(zygote.warm for zygote in zygotes(nursery.bench.run_dir)))
    assert "heavy" in zygotes(nursery.bench.run_dir)[0].imports
    await nursery.forked(nursery.spec("import heavy"))


# -- zygotes come and go ---------------------------------------------------------------------------


async def test_a_killed_zygote_takes_nobody_with_it(nursery: Nursery) -> None:
    wait = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.02)\nos._exit(4)"
    spec = nursery.spec(wait)
    await nursery.forked(spec)
    await nursery.bench.said(spec.attempt_id, "up")
    (zygote,) = nursery.living()
    os.kill(zygote, signal.SIGKILL)
    after = await nursery.bench.run(nursery.spec("print('after')"))
    assert after.exit_code == 0
    await nursery.forked(nursery.spec("print('again')"))
    assert nursery.living() != [zygote]
    (spec.cwd / "gate").touch()
    assert (await nursery.bench.ended(spec.attempt_id)).exit_code == 4


async def test_with_the_keeper_killed_zygotes_go_and_forks_stay(nursery: Nursery) -> None:
    wait = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.02)\nos._exit(4)"
    spec = nursery.spec(wait)
    started = await nursery.forked(spec)
    await nursery.bench.said(spec.attempt_id, "up")
    (zygote,) = nursery.living()
    killed = nursery.bench.kill_keeper()
    await until(lambda: nursery.bench.engine.keeper_pid not in (None, killed))
    await until(lambda: zygote not in nursery.living())
    (adopted,) = [s for s in await nursery.bench.engine.adopt() if s.attempt_id == spec.attempt_id]
    assert (adopted.state, adopted.pid) == ("running", started.pid)
    await nursery.forked(nursery.spec("print('with the new one')"))
    (spec.cwd / "gate").touch()
    assert (await nursery.bench.ended(spec.attempt_id)).exit_code == 4


async def test_with_its_launcher_a_fork_dies_and_its_end_is_unknown(nursery: Nursery) -> None:
    marker = f"bereft-{nursery.bench.run_dir}"
    spec = nursery.spec("import subprocess, sys\nprint('up', flush=True)\n"
                        "subprocess.run(['sh', '-c', 'sleep 600; : ' + sys.argv[1]])", marker)  # fmt: skip
    status = await nursery.forked(spec)
    await nursery.bench.said(spec.attempt_id, "up")
    await until(lambda: processes(marker))
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    end = await nursery.bench.ended(spec.attempt_id)
    assert (end.state, end.exit_code) == ("unknown", None)
    await until(lambda: processes(marker) == [])


async def test_what_dozes_is_metered_from_its_waking_and_goes_with_its_zygote(nursery: Nursery) -> None:
    engine = nursery.bench.engine
    code = (
        "import os, time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass\n"
        "print('up', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.02)\nos._exit(4)"
    )
    woken, left = nursery.spec(code), nursery.spec(code)
    for spec in (woken, left):
        await nursery.forked(spec)
        await engine.doze(spec.attempt_id, dozing=True)
        await nursery.bench.said(spec.attempt_id, "up")
    counted = nursery.bench.run_dir / "attempts" / woken.attempt_id / "usage.json"
    await until(counted.exists)
    before = counted.stat().st_mtime_ns
    await engine.doze(woken.attempt_id, dozing=False)
    await until(
        lambda: (
            counted.stat().st_mtime_ns != before
            and json.loads(counted.read_bytes())["usage"]["wall_seconds"] < 0.25
        )
    )
    (zygote,) = nursery.living()
    os.kill(zygote, signal.SIGKILL)
    assert (await nursery.bench.ended(left.attempt_id)).reason == "let go with what it was forked from"
    (woken.cwd / "gate").touch()
    status = await nursery.bench.ended(woken.attempt_id)
    assert status.exit_code == 4
    assert status.usage.cpu_seconds < 0.2


async def test_a_zygote_that_lacks_modules_is_followed_by_one_that_has_them(nursery: Nursery) -> None:
    spec = nursery.spec("import heavy")
    await nursery.warm(spec)
    (before,) = nursery.living()
    asked = dataclasses.replace(spec, imports=["heavy", "tuned"])
    assert not await nursery.bench.engine.warm(asked), "a better one is on its way"
    await nursery.forked(spec)  # by the first, or the second: nothing starts cold meanwhile
    await nursery.warm(asked)
    await until(lambda: nursery.living() not in ([before], []))
    assert "tuned" in zygotes(nursery.bench.run_dir)[0].imports


async def test_unused_and_oversized_zygotes_go(nursery: Nursery) -> None:
    bench = nursery.bench
    spec = nursery.spec("print(1)")
    await bench.engine.close()
    use(bench, Zygotes(idle_seconds=2))
    await bench.engine.connect()
    await nursery.forked(spec)
    await until(lambda: not nursery.living())
    await until(lambda: not list(bench.run_dir.glob("zygotes/*")))
    await bench.engine.close()
    use(bench, Zygotes(memory_bytes=1 << 20))
    await bench.engine.connect()
    again = nursery.spec("print(1)")
    assert not await bench.engine.warm(again)
    time.sleep(0.5)
    await until(lambda: not nursery.living())
    assert (await bench.run(again)).isolation.start == "cold"


async def test_shutting_down_leaves_no_zygote_and_no_fork(nursery: Nursery) -> None:
    spec = nursery.spec("import time; print('up', flush=True); time.sleep(600)")
    await nursery.forked(spec)
    await nursery.bench.engine.shutdown(kill=True, grace_seconds=0.1)
    await until(lambda: not processes(str(nursery.bench.run_dir)))
    assert not processes(str(spec.cwd))
    await nursery.bench.connect()
    assert {status.exit_code for status in await nursery.bench.engine.adopt()} == {143}


async def test_sparing_the_workloads_spares_forks_and_lets_zygotes_go(nursery: Nursery) -> None:
    wait = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.02)\nos._exit(4)"
    spec = nursery.spec(wait)
    await nursery.forked(spec)
    await nursery.bench.engine.shutdown(kill=False)
    await until(lambda: not nursery.living())
    await nursery.bench.connect()
    (spec.cwd / "gate").touch()
    assert (await nursery.bench.ended(spec.attempt_id)).exit_code == 4


async def test_without_memory_for_zygotes_there_are_none(nursery: Nursery) -> None:
    bench = nursery.bench
    await bench.engine.close()
    use(bench, Zygotes(memory_bytes=0))
    await bench.engine.connect()
    spec = nursery.spec("print(1)")
    assert (await bench.run(spec)).isolation.start == "cold"
    assert not await bench.engine.warm(spec)
    assert nursery.living() == []


assert sys.version_info >= (3, 11), "sys.orig_argv and the shape of the main module are compared above"
