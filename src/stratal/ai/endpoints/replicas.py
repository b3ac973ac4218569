"""One replica from its start to its end: folder, process, greeting, log, and the row that tells of it."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from stratal.ai.endpoints import records
from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.model import Revision
from stratal.ai.endpoints.runtime import Broken, CannotLoad, Command, Replica, Runtime
from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environment, Environments
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Internal, NotFound, StratalError, Unavailable
from stratal.kernel.ids import random_token

log = logging.getLogger("stratal.endpoints")

PREFIX = "rep-"
"""What attempt ids of replicas begin with."""
_START_SECONDS = 300.0
_POLL_SECONDS = 0.02
_LOG_BYTES = 1 << 20
_TAIL = 600
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Running:
    """A replica that greeted. `ended` is done when its process is."""

    attempt_id: str
    replica: Replica
    ended: "asyncio.Task[WorkloadStatus]"


class Replicas:
    """Starts, adopts and stops replicas. `root` holds a folder per replica, with its socket."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workloads: Workloads,
        environments: Environments,
        layouts: Layouts,
        runtime: Runtime,
        root: Path,
        clock: Clock,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._environments = environments
        self._layouts = layouts
        self._runtime = runtime
        self._root = root
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- starting ------------------------------------------------------------------------------

    async def start(self, revision: Revision) -> Running:
        """Start a replica of the revision and wait for its greeting.

        Raises `CannotLoad` when the model cannot be loaded in its environment, `StratalError` when it
        does not get so far.
        """
        if revision.environment_id is None:
            raise Internal(f"Revision {revision.seq} has no environment.")
        environment = await self._environments.get(revision.environment_id)
        model = await self._layouts.ensure(revision)
        attempt_id = f"{PREFIX}{revision.seq}-{random_token(10)}"
        folder = self._root / attempt_id
        command = self._runtime.command(revision.plan, environment.python, model, folder)
        await anyio.to_thread.run_sync(_lay_out, folder, command)
        await self._database.write(
            lambda c: records.insert_replica(c, attempt_id, revision.seq, self._clock())
        )
        ended: asyncio.Task[WorkloadStatus] | None = None
        try:
            status = await self._workloads.run(_spec(attempt_id, folder, environment, command))
            ended = self._ending(attempt_id)
            isolation = records.isolation_json(status.isolation)
            await self._database.write(lambda c: records.update_replica(c, attempt_id, isolation=isolation))
            replica = await self._greeting(folder, ended)
            await self._check(revision, replica)
        except BaseException as error:
            self._give_up(attempt_id, ended)
            if isinstance(error, (Broken, TimeoutError)):
                raise CannotLoad(await self._last_words(attempt_id, ended)) from None
            raise
        self._follow(attempt_id, ended)
        return Running(attempt_id, replica, ended)

    async def adopt(self, revision: Revision, attempt_id: str) -> Running | None:
        """Take over a replica that an earlier server started; None when it does not live or does not answer."""
        known = (await self._workloads.adopted()).get(attempt_id)
        if known is None or known.state != "running":
            await self._finish(attempt_id, known)
            return None
        ended = self._ending(attempt_id)
        try:
            replica = await self._greeting(self._root / attempt_id, ended)
            await self._check(revision, replica)
        except (Broken, CannotLoad, TimeoutError, StratalError) as error:
            log.warning("replica %s is not taken over: %s", attempt_id, error)
            self._give_up(attempt_id, ended)
            return None
        self._follow(attempt_id, ended)
        return Running(attempt_id, replica, ended)

    async def _greeting(self, folder: Path, ended: "asyncio.Task[WorkloadStatus]") -> Replica:
        """Connect as soon as the replica listens. Raises `Broken` when it ends, `TimeoutError`, `CannotLoad`."""
        async with asyncio.timeout(_START_SECONDS):
            while True:
                connecting = asyncio.ensure_future(self._runtime.connect(folder))
                await asyncio.wait([connecting, ended], return_when=asyncio.FIRST_COMPLETED)
                if not connecting.done():
                    # Its last word may already lie in the connection: hear it out.
                    await asyncio.wait([connecting], timeout=1)
                    connecting.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    return await connecting
                if ended.done():
                    raise Broken
                await asyncio.wait([ended], timeout=_POLL_SECONDS)

    async def _check(self, revision: Revision, replica: Replica) -> None:
        """What the replica read must be what was pinned. Raises `Internal`; the layout is then made anew next time."""
        pinned = {file.path: file.sha256 for file in revision.files}
        loaded = replica.greeting.loaded
        wrong = [path for path, sha256 in loaded.items() if pinned.get(path) != sha256]
        if wrong or not loaded:
            replica.close()
            await self._layouts.forget(revision.model_version_id)
            raise Internal(
                f"The replica read other bytes of {', '.join(wrong[:3]) or 'the model'} than were pinned.",
                reason="model_damaged",
            )
        if (revision.interface, revision.loaded) != (replica.greeting.interface, loaded):
            await self._database.write(lambda c: records.greeted(c, revision.seq, replica.greeting))

    async def _last_words(self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus] | None") -> str:
        if ended is not None:
            await asyncio.wait([ended], timeout=15)
        if ended is None or not ended.done():
            return f"The replica did not become ready within {_START_SECONDS:.0f} s."
        status = ended.result()
        said = (await self.log(attempt_id)).decode(errors="replace").strip()[-_TAIL:]
        why = status.reason or f"exit code {status.exit_code}"
        return f"The replica ended while loading the model ({why}). {said}".strip()

    # -- ending --------------------------------------------------------------------------------

    async def stop(self, running: Running, grace_seconds: float) -> None:
        """SIGTERM (it answers what it has and ends), SIGKILL after the grace. Returns when its process is gone."""
        with contextlib.suppress(StratalError):
            await self._workloads.engine.stop(running.attempt_id, grace_seconds)
            await asyncio.wait([running.ended], timeout=grace_seconds + 10)
        running.replica.close()

    async def stop_strays(self, attempts: Sequence[str]) -> None:
        """Stop replicas that an earlier server left and nobody wants, and record their ends."""
        known = await self._workloads.adopted()
        for attempt_id in attempts:
            status = known.get(attempt_id)
            if status is None or status.state != "running":
                await self._finish(attempt_id, status)
                continue
            self._give_up(attempt_id, self._ending(attempt_id))

    def _give_up(self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus] | None") -> None:
        """Stop it in the background and record its end."""

        async def work() -> None:
            if ended is not None:
                with contextlib.suppress(StratalError):
                    await self._workloads.engine.stop(attempt_id, 5)
            await self._finish(attempt_id, None if ended is None else await ended)

        self._background(work())

    def _follow(self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus]") -> None:
        async def work() -> None:
            await self._finish(attempt_id, await asyncio.shield(ended))

        self._background(work())

    async def _finish(self, attempt_id: str, status: WorkloadStatus | None) -> None:
        """Keep the log, write the end down, and let the engine and the folder go. Repeatable."""
        text = await self._workloads.engine.logs(attempt_id, 0, _LOG_BYTES)
        blob = await self._blobs.put(text) if text else None
        reason = status.reason if status is not None else "It was lost track of."

        await self._database.write(
            lambda c: records.update_replica(
                c,
                attempt_id,
                ended_at=self._clock(),
                exit_code=None if status is None else status.exit_code,
                reason=reason,
                log_blob=None if blob is None else blob.key,
            )
        )
        await self._workloads.forget(attempt_id)
        await anyio.to_thread.run_sync(partial(shutil.rmtree, self._root / attempt_id, ignore_errors=True))

    def _ending(self, attempt_id: str) -> "asyncio.Task[WorkloadStatus]":
        ended = asyncio.create_task(self._workloads.ended(attempt_id), name=f"{attempt_id}: end")
        self._tasks.add(ended)
        ended.add_done_callback(self._tasks.discard)
        return ended

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._recorded)

    def _recorded(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the end of a replica was not recorded", exc_info=task.exception())

    async def close(self) -> None:
        """Give up what is being recorded: the next start does it. Replicas go on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- logs ----------------------------------------------------------------------------------

    async def log(self, attempt_id: str) -> bytes:
        """What the replica wrote, at most the first MiB; of an ended one from storage."""
        key = await self._database.read(lambda c: records.log_blob(c, attempt_id))
        if key is None:
            try:
                return await self._workloads.engine.logs(attempt_id, 0, _LOG_BYTES)
            except Unavailable:
                return b""
        try:
            return await self._blobs.read_all(key)
        except NotFound:
            return b""


def _lay_out(folder: Path, command: Command) -> None:
    folder.mkdir(mode=0o700, parents=True)
    for name, content in command.files.items():
        (folder / name).write_bytes(content)


def _spec(attempt_id: str, folder: Path, environment: Environment, command: Command) -> WorkloadSpec:
    return WorkloadSpec(
        attempt_id=attempt_id,
        argv=command.argv,
        env={
            "PATH": f"{environment.path / 'bin'}:{_PATH}",
            "VIRTUAL_ENV": str(environment.path),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            # Requests come one behind the other; threads of the numeric libraries would only wait for each other.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        },
        cwd=folder,
        python=environment.python,
        read_only=[environment.path, *command.readable],
        network="platform",
    )
