"""The platform's one process that has Ray loaded: asks it for places, follows what runs in them, tells the server.

    python -I -m stratal.engines.ray.bridge --dir <run directory>

One per pool; outlives the server, and speaks the keeper's protocol to it. It may be killed at any moment:
attempts are on disk (`record`), places and supervisors are named and found again. It keeps the pool's head
up when that is this machine's, and starts anew as another process when the cluster it knew is gone.

Logs come here as they are written, so that what a lost machine said is not lost with it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratal.engines.local import process
from stratal.engines.local.keeper import BUSY
from stratal.engines.local.link import keeper_lives
from stratal.engines.ray import channel
from stratal.engines.ray.record import Folder, Record, nodes_apart, part_name
from stratal.engines.ray.settings import BridgeSettings, NodeSettings, access, bundle
from stratal.kernel.errors import Conflict, Invalid, Unavailable

if TYPE_CHECKING:
    from stratal.engines.ray.cluster import Cluster

PROTOCOL = 1
NAME = "bridge"
_PATIENCE_SECONDS = 10.0
_FORGET_DEMAND_SECONDS = 300.0
_TICK_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_UNREACHABLE_SECONDS = 60.0
_STOP_SECONDS = 45.0
_CALL_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Bridge:
    def __init__(self, run_dir: str, settings: BridgeSettings) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._folder = Folder(run_dir)
        self._records = {record.id: record for record in self._folder.load()}
        self._starting: dict[str, asyncio.Lock] = {}
        self._supervisors: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cluster: Cluster | None = None
        self._head_id = ""
        self._up = asyncio.Event()
        self._trouble = "the pool's Ray is being started"
        self._leave = asyncio.Event()
        operations = {
            "ping": self._ping,
            "list": self._list,
            "watch": self._watch,
            "start": self._start,
            "stop": self._stop,
            "release": self._release,
            "nodes": self._nodes,
            "demand": self._demand,
            "shutdown": self._shutdown,
        }
        self._channel = channel.Channel(run_dir, NAME, PROTOCOL, operations)

    async def run(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._leave.set)
        async with await self._channel.open(listener):
            self._later(self._keep_up())
            await self._leave.wait()
            await asyncio.sleep(0.05)  # the last answers go out

    # -- the cluster ---------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Reach the cluster, with a head of our own if need be; then see that it stays the one we reached."""
        while not self._up.is_set():
            try:
                await self._ensure_head()
                await asyncio.to_thread(self._connect)
            except (Unavailable, OSError, RuntimeError) as error:
                self._trouble = f"the pool's Ray cannot be reached: {str(error)[:300]}"
                _log.warning("%s", self._trouble)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._up.set()
        for record in list(self._records.values()):
            if record.placed and not record.ended:
                self._later(self._resume(record))
        await self._give_back()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self._ensure_head()
            for record in list(self._records.values()):
                if not record.placed and time.monotonic() - record.asked_at > _FORGET_DEMAND_SECONDS:
                    await self._withdraw(record)  # nobody wants it any more

    async def _ensure_head(self) -> None:
        """Start the head's node when none runs; a head that came up anew is another cluster: begin afresh."""
        if self._settings.head is None:
            return
        node = NodeSettings(**self._settings.head)
        folder = Path(node.folder)
        if not await asyncio.to_thread(keeper_lives, folder, "node"):
            node.write(folder / "node.json")
            command = [
                sys.executable,
                "-I",
                "-m",
                "stratal.engines.ray.node",
                "--dir",
                node.folder,
                "--detach",
            ]
            await asyncio.to_thread(subprocess.run, command, env=dict(os.environ), check=False)
        state = process.read_json(f"{node.folder}/state.json") or {}
        if self._up.is_set():
            if state.get("node_id") not in (None, self._head_id):
                _log.warning("the head was started anew: beginning afresh")
                self._begin_afresh()
        elif state.get("state") != "up":
            raise Unavailable(str(state.get("trouble") or "its head is being started"))
        else:
            self._head_id = state["node_id"]

    def _connect(self) -> None:
        os.environ.update(access(Path(self._settings.token)))
        from stratal.engines.ray.cluster import Cluster  # Ray reads its settings when it is imported

        self._cluster = Cluster(self._settings.address, self._settings.interface)
        _log.info("connected to %s", self._settings.address)

    def _begin_afresh(self) -> None:
        """Become a new process in place of this one: Ray's driver does not survive its cluster."""
        os.execv(sys.executable, [*command(), "--dir", self._run_dir, "--again"])  # noqa: S606

    async def _give_back(self) -> None:
        """Places of attempts that are not on record any more: their release was interrupted."""
        cluster = await self._ray()
        for name in await asyncio.to_thread(cluster.places):
            record = self._records.get(name)
            if record is None or record.ended:
                await asyncio.to_thread(cluster.withdraw, name)

    async def _ray(self) -> "Cluster":
        """The cluster, once it is there; raises `Unavailable` when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._up.wait()
        if self._cluster is None or not self._up.is_set():
            raise Unavailable(self._trouble)
        return self._cluster

    # -- operations ----------------------------------------------------------------------------

    async def _ping(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "up": self._up.is_set(),
            "trouble": "" if self._up.is_set() else self._trouble,
        }

    async def _list(self, client: channel.Client, request: channel.Request) -> list[dict[str, Any]]:
        return [record.status for record in self._records.values() if record.status is not None]

    async def _watch(self, client: channel.Client, request: channel.Request) -> list[dict[str, Any]]:
        client.watching = True
        return await self._list(client, request)

    async def _start(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        spec = request["spec"]
        name = str(spec["attempt_id"])
        async with self._starting.setdefault(name, asyncio.Lock()):
            record = self._records.get(name)
            if record is None:
                record = self._records[name] = self._folder.intend(spec)
            record.asked_at = time.monotonic()
            if record.status is None:
                await self._begin(record)
            assert record.status is not None
            return record.status

    async def _stop(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        record = self._records.get(request["attempt_id"])
        if record is None or record.ended:
            return {}
        if record.status is None:
            await self._withdraw(record)
            return {}
        actor = self._supervisors.get(record.id)
        if actor is not None:
            grace = float(request["grace_seconds"])
            self._later(self._ask_to_stop(record, actor, grace))
        return {}

    async def _release(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        record = self._records.get(request["attempt_id"])
        if record is None:
            return {}
        if record.started and not record.ended:
            raise Conflict(f"{record.id} still runs: stop it first")
        await self._withdraw(record)
        return {}

    async def _nodes(self, client: channel.Client, request: channel.Request) -> list[dict[str, Any]]:
        if self._cluster is None or not self._up.is_set():
            raise Unavailable(self._trouble)
        found = await asyncio.to_thread(self._cluster.machines)
        busy: dict[str, int] = {}
        for record in self._records.values():
            if record.status is not None and not record.ended:
                for machine in record.status["node"].split(", "):
                    busy[machine] = busy.get(machine, 0) + 1
        return [
            {
                "name": machine.name,
                "id": machine.id,
                "alive": machine.alive,
                "cpus": machine.cpus,
                "memory_bytes": machine.memory_bytes,
                "gpus": machine.gpus,
                "address": machine.address,
                "workloads": busy.get(machine.name, 0) if machine.alive else 0,
            }
            for machine in found
        ]

    async def _demand(self, client: channel.Client, request: channel.Request) -> list[dict[str, float]]:
        if self._cluster is None or not self._up.is_set():
            raise Unavailable(self._trouble)
        waiting = await asyncio.to_thread(self._cluster.demand)
        return [{"cpus": one.get("CPU", 0), "memory_bytes": one.get("memory", 0)} for one in waiting]

    async def _shutdown(self, client: channel.Client, request: channel.Request) -> dict[str, Any]:
        """Leave; with `kill` after everything that runs has ended, and with the head."""
        if request["kill"]:
            grace = float(request["grace_seconds"])
            await self._stop_all(grace)
            await asyncio.to_thread(end_head, self._settings)
        asyncio.get_running_loop().call_later(0.05, self._leave.set)
        return {}

    async def _stop_all(self, grace: float) -> None:
        running = [record for record in self._records.values() if not record.ended]
        for record in running:
            if record.status is None:
                await self._withdraw(record)
            elif (actor := self._supervisors.get(record.id)) is not None:
                self._later(self._ask_to_stop(record, actor, grace))
        deadline = time.monotonic() + grace + _STOP_SECONDS
        while time.monotonic() < deadline and any(  # noqa: ASYNC110
            record.started and not record.ended for record in running
        ):
            await asyncio.sleep(0.05)

    # -- one attempt ---------------------------------------------------------------------------

    async def _begin(self, record: Record) -> None:
        """Find room, put a supervisor there, have it start the workload. Raises what the port promises."""
        cluster = await self._ray()
        spec = record.spec
        nodes = nodes_apart(spec)
        bundles = [bundle((spec["cpus"] or 0) / nodes, (spec["memory_bytes"] or 0) // nodes)] * nodes
        if not await asyncio.to_thread(cluster.room, record.id, bundles, _PATIENCE_SECONDS):
            raise Unavailable(
                f"no machine of the pool {self._settings.pool} has room for {_wants(spec)} right now",
                hint="It starts as soon as one has: join another machine, or wait.",
            )
        if record.id not in self._records:
            raise Unavailable("it was given up meanwhile")
        record.place()
        try:
            layout = await asyncio.to_thread(cluster.layout, record.id)
            if len(layout) > 1:
                actor = await asyncio.to_thread(cluster.lead, record.id, layout)
            else:
                actor = await asyncio.to_thread(cluster.supervise, record.id, record.id)
            place = {
                "home": self._settings.home,
                "platform_socket": self._settings.platform_socket,
                "mark": list(self._settings.mark),
                "url": self._settings.url,
            }
            answer = await actor.start.remote(spec, place)
        except cluster.Broken as error:
            await self._lost(record, f"was lost while it was starting: {_brief(error)}")
            return
        if "error" in answer:
            kind, message = answer["error"]
            await self._withdraw(record)
            raise (Invalid if kind == "invalid" else Unavailable)(message)
        self._hear(record, answer["ok"])
        self._supervisors[record.id] = actor
        self._later(self._follow(record, actor))

    async def _resume(self, record: Record) -> None:
        """After a restart: find the supervisor again, or say that it is gone."""
        cluster = await self._ray()
        actor = await asyncio.to_thread(cluster.supervisor, record.id)
        if actor is not None and record.status is None:
            return  # whoever asked for it asks again, and its supervisor knows whether it was started
        if actor is None:
            await self._lost(record, "was lost")
            return
        self._supervisors[record.id] = actor
        await self._follow(record, actor)

    async def _follow(self, record: Record, actor: Any) -> None:
        """Take in what its supervisor tells until the workload has ended or the supervisor is gone."""
        cluster = await self._ray()
        unreachable_since: float | None = None
        while not record.ended:
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    news = await actor.news.remote(record.log_size)
            except (TimeoutError, *cluster.Unreachable) as error:
                unreachable_since = unreachable_since or time.monotonic()
                if time.monotonic() - unreachable_since > _UNREACHABLE_SECONDS:
                    await self._lost(record, f"cannot be reached: {_brief(error)}")
                    return
                await asyncio.sleep(_AGAIN_SECONDS)
            except cluster.Broken as error:
                await self._lost(record, f"was lost: {_brief(error)}")
                return
            else:
                unreachable_since = None
                if news["log"]:
                    record.append(news["log"])
                if news["status"] is not None:
                    self._hear(record, news["status"])
        self._supervisors.pop(record.id, None)
        await self._let_go(record, actor)

    async def _let_go(self, record: Record, actor: Any) -> None:
        """It has ended, and all of it is here: its place is free for others."""
        cluster = await self._ray()
        with contextlib.suppress(TimeoutError, *cluster.Broken):
            async with asyncio.timeout(_CALL_SECONDS):
                await actor.release.remote()
        await self._take_back(record.id)

    async def _ask_to_stop(self, record: Record, actor: Any, grace: float) -> None:
        cluster = await self._ray()
        with contextlib.suppress(*cluster.Broken):  # whoever follows it finds out
            await actor.stop.remote(grace)

    async def _withdraw(self, record: Record) -> None:
        """Forget it, and give its place back."""
        self._records.pop(record.id, None)
        self._starting.pop(record.id, None)
        self._supervisors.pop(record.id, None)
        if self._up.is_set():  # else it is given back once Ray is there, being on record no more
            await self._take_back(record.id)
        await asyncio.to_thread(self._folder.discard, record)

    async def _lost(self, record: Record, what: str) -> None:
        """Nothing more is heard of it: should its supervisor be alive somewhere, it is ended with its place."""
        for number in range(nodes_apart(record.spec)):
            await self._end_part(part_name(record.id, number))
        reason = f"{(record.status or {}).get('node') or 'its machine'} {what}"
        _log.warning("%s: %s", record.id, reason)
        self._supervisors.pop(record.id, None)
        if record.lose(reason):
            self._channel.broadcast({"event": record.status})
        self._later(self._take_back(record.id))

    async def _end_part(self, name: str) -> None:
        """What is left on other machines of a gang that lost its first must not meet the next attempt."""
        with contextlib.suppress(TimeoutError, Unavailable):
            cluster = await self._ray()
            actor = await asyncio.to_thread(cluster.supervisor, name)
            if actor is None:
                return
            with contextlib.suppress(*cluster.Broken):
                async with asyncio.timeout(_CALL_SECONDS):
                    await actor.stop.remote(0)
                    await _ended(actor)

    async def _take_back(self, name: str) -> None:
        cluster = await self._ray()
        with contextlib.suppress(*cluster.Broken):
            await asyncio.to_thread(cluster.withdraw, name)

    def _hear(self, record: Record, status: dict[str, Any]) -> None:
        if record.hear(status):
            self._channel.broadcast({"event": record.status})

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the bridge failed", exc_info=error)


async def _ended(supervisor: Any) -> None:
    offset = 0
    while True:
        news = await supervisor.news.remote(offset)
        if news["status"] is None or news["status"]["state"] != "running":
            return
        offset += len(news["log"])


def end_head(settings: BridgeSettings, grace_seconds: float = 45.0) -> bool:
    """End the head's node on this machine, and Ray with it. True when it is gone."""
    if settings.head is None:
        return True
    folder = str(settings.head["folder"])
    state = process.read_json(f"{folder}/state.json") or {}
    pid, started = int(state.get("pid", 0)), state.get("started")
    if not pid or started is None or not process.lives(pid, started):
        return True
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while process.lives(pid, started) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not process.lives(pid, started)


def _wants(spec: dict[str, Any]) -> str:
    cpus = f"{spec['cpus']:g} cpus" if spec["cpus"] else "it"
    memory = f" and {spec['memory_bytes'] / 2**30:.1f} GiB" if spec["memory_bytes"] else ""
    return cpus + memory


def _brief(error: BaseException) -> str:
    """What Ray says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "died" in line] or lines
    return (telling[-1] if telling else type(error).__name__)[:200]


def command() -> list[str]:
    """How a bridge is started; ``--dir`` and its run directory are to follow."""
    return [sys.executable, "-I", "-m", "stratal.engines.ray.bridge"]


def main(arguments: Sequence[str]) -> None:
    """Returns, in the parent, once a bridge listens in the run directory."""
    run_dir = os.path.abspath(arguments[arguments.index("--dir") + 1])
    os.umask(0o077)
    lock = channel.take(run_dir, NAME)
    if lock is None:
        sys.exit(BUSY)
    settings = BridgeSettings.read(Path(run_dir) / "pool.json")
    listener = channel.listen(run_dir, NAME)
    if "--again" not in arguments:
        channel.detach(f"{run_dir}/{NAME}.log")
    channel.sign(lock)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(Bridge(run_dir, settings).run(listener))


if __name__ == "__main__":
    main(sys.argv[1:])
