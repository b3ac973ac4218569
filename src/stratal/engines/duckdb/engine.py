"""The server's side of the query workers: start on demand, watch memory and clock, end them.

A worker serves one project at a time and only ever one project. It is reused while queries come and ended
after `idle_seconds` without one, so an idle platform pays nothing. A worker that exceeds its memory or time
is killed, as is one whose client went away: no query is worth a negotiation. Only the worker dies.
"""

import asyncio
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from stratal.data.queries.engine import (
    Column,
    Finished,
    Limits,
    QueryPlan,
    Reference,
    Result,
    Statement,
    WritePlan,
    Written,
)
from stratal.engines.duckdb import frames
from stratal.kernel.errors import Busy, Denied, Invalid, StratalError, TooLarge, Unavailable
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.queries")

_PAGE = os.sysconf("SC_PAGE_SIZE")
_WATCH_SECONDS = 0.1
_OVERHEAD_BYTES = 384 * 1024 * 1024  # interpreter, Arrow buffers, rendered rows: beside DuckDB's own limit
_PARSE_SECONDS = 20.0


class DuckDBEngine:
    """A `QueryEngine`. At most `workers` run at once and `waiting` statements may queue for one.

    `scratch` is a folder of the engine's own, emptied at the first use.
    """

    def __init__(
        self, scratch: Path, *, workers: int = 2, waiting: int = 64, idle_seconds: float = 30.0
    ) -> None:
        self._scratch = scratch
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(workers)
        self._waiting = 0
        self._waiting_limit = waiting
        self._workers: set[_Worker] = set()
        self._limit = workers
        self._closed = False
        self._cleaned = False

    # -- the port ----------------------------------------------------------------------------

    async def parse(self, session: str, sql: str) -> Statement:
        async with self._worker(session) as worker:
            await worker.send({"op": "parse", "sql": sql})
            with worker.limited(None, _PARSE_SECONDS):
                body = await worker.end()
        return Statement(
            kind=body["kind"],
            sql=body["sql"],
            tables=[
                Reference(
                    tuple(t["path"]),
                    (t["at"][0], t["at"][1]) if t["at"] else None,
                    t["location"],
                    t["length"],
                    t["alias"],
                )
                for t in body["tables"]
            ],
            listing=body["listing"],
            target=tuple(body["target"]),
            columns=body["columns"],
            by_name=body["by_name"],
            if_not_exists=body["if_not_exists"],
            replace=body["replace"],
        )

    @asynccontextmanager
    async def query(self, session: str, plan: QueryPlan) -> AsyncIterator[Result]:
        async with self._worker(session) as worker:
            await worker.send({"op": "query", **_query(plan)})
            with worker.limited(plan.limits.memory_bytes, plan.limits.seconds):
                kind, payload = await worker.frame()
                assert kind == frames.HEAD
                yield _Result(
                    worker, [Column(c["name"], c["type"]) for c in orjson.loads(payload)["columns"]]
                )

    @asynccontextmanager
    async def write(self, session: str, plan: WritePlan) -> AsyncIterator[Written]:
        async with self._worker(session) as worker:
            request = asdict(plan) | {"op": "write", "source": str(plan.source) if plan.source else None}
            request["metadata"] = plan.metadata.decode() if plan.metadata is not None else None
            request["sources"] = [str(plan.source)] if plan.source else []
            request |= (
                _query(plan.query) if plan.query else {"tables": [], "listing": [], **_limits(plan.limits)}
            )
            if plan.target is not None:
                request["tables"] = [*request["tables"], asdict(plan.target)]
            request.pop("query", None)
            await worker.send(request)
            with worker.limited(plan.limits.memory_bytes, plan.limits.seconds):
                body = await worker.end()
            files = {location: Path(path) for location, path in body["files"].items()}
            try:
                yield Written(
                    files,
                    body["requirements"],
                    body["updates"],
                    body["row_count"],
                    body["snapshot_id"],
                    body["schema_id"],
                )
            finally:
                await asyncio.to_thread(_remove, list(files.values()))

    async def close(self) -> None:
        self._closed = True
        for worker in list(self._workers):
            await worker.kill()
        self._workers.clear()

    # -- the pool ----------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """The workers alive now."""
        return [worker.pid for worker in self._workers]

    @asynccontextmanager
    async def _worker(self, session: str) -> AsyncIterator["_Worker"]:
        """A worker of the session, exclusively; afterwards kept for the next when it is still in step, else killed."""
        if self._waiting >= self._waiting_limit:
            raise Busy("Too many queries are waiting already.", hint="Try again in a moment.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            worker = await self._obtain(session)
            try:
                yield worker
            finally:
                await asyncio.shield(self._put_back(worker))
        finally:
            self._slots.release()

    async def _obtain(self, session: str) -> "_Worker":
        if self._closed:
            raise Unavailable("The query engine is shutting down.", reason="query_engine_closed")
        idle = [worker for worker in self._workers if not worker.busy]
        for worker in idle:
            if worker.session == session and worker.alive:
                worker.busy = True
                return worker
        if len(self._workers) >= self._limit and idle:
            await self._end(idle[0])
        if not self._cleaned:
            await asyncio.to_thread(_empty, self._scratch)
            self._cleaned = True
        worker = await _Worker.start(session, self._scratch / new_id("qw"))
        self._workers.add(worker)
        return worker

    async def _put_back(self, worker: "_Worker") -> None:
        if not worker.in_step or not worker.alive or self._closed:
            await self._end(worker)
            return
        worker.busy = False
        worker.idle_since = time.monotonic()
        asyncio.get_running_loop().call_later(self._idle_seconds, self._release_idle, worker)

    def _release_idle(self, worker: "_Worker") -> None:
        if worker in self._workers and not worker.busy:
            left = worker.idle_since + self._idle_seconds - time.monotonic()
            if left <= 0.01:
                worker.busy = True  # nobody may take it now
                worker.ending = asyncio.ensure_future(self._end(worker))

    async def _end(self, worker: "_Worker") -> None:
        worker.busy = True
        self._workers.discard(worker)
        await worker.kill()


class _Worker:
    """One worker process and the server's end of the socket to it."""

    def __init__(
        self,
        session: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        scratch: Path,
    ) -> None:
        self.session = session
        self.busy = True
        self.in_step = True
        """Every request so far was answered to its end, so the next answer belongs to the next request."""
        self.idle_since = 0.0
        self.ending: asyncio.Future[None] | None = None
        self._process = process
        self._reader = reader
        self._writer = writer
        self._scratch = scratch
        self._over: StratalError | None = None

    @classmethod
    async def start(cls, session: str, scratch: Path) -> "_Worker":
        await asyncio.to_thread(scratch.mkdir, mode=0o700, parents=True)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-m",
                "stratal.engines.duckdb.worker",
                str(theirs.fileno()),
                str(scratch),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=scratch,
                env={"HOME": str(scratch), "TMPDIR": str(scratch), "LANG": "C.UTF-8", "TZ": "UTC"},
            )
        except OSError as error:
            ours.close()
            raise Unavailable(f"No query worker could be started: {error.strerror}.") from error
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1024 * 1024)
        return cls(session, process, reader, writer, scratch)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def kill(self) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        await self._process.wait()
        await asyncio.to_thread(shutil.rmtree, self._scratch, True)

    async def send(self, request: Mapping[str, Any]) -> None:
        self.in_step = False
        try:
            self._writer.write(
                frames.pack(frames.REQUEST, orjson.dumps(request, option=orjson.OPT_NON_STR_KEYS))
            )
            await self._writer.drain()
        except OSError as error:
            raise self._lost() from error

    async def frame(self) -> tuple[bytes, bytes]:
        """The next frame of the answer; raises what the worker, or its end, tells."""
        try:
            kind, payload = await frames.read(self._reader)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise self._over or self._lost() from error
        if kind in {frames.END, frames.ERROR}:
            self.in_step = True
        if kind == frames.ERROR:
            raise _meaning(orjson.loads(payload))
        return kind, payload

    async def end(self) -> Any:
        """The body of the answer that has nothing but an end."""
        kind, payload = await self.frame()
        assert kind == frames.END
        return orjson.loads(payload)

    def limited(self, memory_bytes: int | None, seconds: float) -> "_Watch":
        """While entered, kill the worker when it exceeds what it may use."""
        return _Watch(self, memory_bytes, seconds)

    def exceed(self, meaning: StratalError) -> None:
        self._over = meaning
        with suppress(ProcessLookupError):
            self._process.kill()

    def _lost(self) -> Unavailable:
        return Unavailable(
            "The query worker ended in the middle of the query; nothing else was affected.",
            hint="Try again.",
            reason="query_worker_lost",
        )


class _Watch:
    """Watches a worker's anonymous memory and the clock, by polling: neither has a limit that only fails one query."""

    def __init__(self, worker: _Worker, memory_bytes: int | None, seconds: float) -> None:
        self._worker = worker
        self._memory = memory_bytes + _OVERHEAD_BYTES if memory_bytes is not None else None
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._again()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look)

    def _look(self) -> None:
        if time.monotonic() > self._deadline:
            self._worker.exceed(
                Invalid(
                    f"The query ran longer than the {self._seconds:g} seconds it may.",
                    hint="Ask for less, or raise its limit (timeout_seconds).",
                    reason="query_timeout",
                )
            )
        elif self._memory is not None and _anonymous_bytes(self._worker.pid) > self._memory:
            self._worker.exceed(
                TooLarge(
                    f"The query needed more than the {self._memory >> 20} MiB its worker may use.",
                    hint="Ask for less at once: fewer columns, a filter, or aggregate first.",
                    reason="query_out_of_memory",
                )
            )
        else:
            self._again()


class _Result:
    def __init__(self, worker: _Worker, columns: list[Column]) -> None:
        self.columns: Sequence[Column] = columns
        self._worker = worker
        self._finished: Finished | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            kind, payload = await self._worker.frame()
            if kind == frames.END:
                self._finished = Finished(**orjson.loads(payload))
                return
            yield payload

    @property
    def finished(self) -> Finished:
        if self._finished is None:
            raise RuntimeError("the result was not read to its end")
        return self._finished


def machine_limits() -> Limits:
    """What one statement may use on this machine unless it asks for less: a quarter of the memory (0.5 to 8 GiB),
    20 GiB of disk for what does not fit, five minutes, every processor."""
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            memory = min(memory, int(Path(path).read_text()))
    gibibyte = 1024**3
    return Limits(
        memory_bytes=max(gibibyte // 2, min(memory // 4, 8 * gibibyte)),
        spill_bytes=20 * gibibyte,
        seconds=300.0,
        threads=len(os.sched_getaffinity(0)),
    )


def _query(plan: QueryPlan) -> dict[str, Any]:
    return {
        "sql": plan.sql,
        "params": list(plan.params),
        "tables": [asdict(table) for table in plan.tables],
        "moved": [
            {
                "path": ref.path,
                "location": ref.location,
                "length": ref.length,
                "alias": ref.alias,
                "view": view,
            }
            for ref, view in plan.moved
        ],
        "listing": [{"path": path, "fields": fields} for path, fields in plan.listing],
        "listing_only": plan.show_tables,
        "format": plan.format,
        "limit": plan.limit,
        "max_bytes": plan.max_bytes,
        **_limits(plan.limits),
    }


def _limits(limits: Limits) -> dict[str, int]:
    return {
        "memory_bytes": limits.memory_bytes,
        "spill_bytes": limits.spill_bytes,
        "threads": limits.threads,
    }


def _meaning(body: dict[str, str]) -> StratalError:
    code, message, hint = body["code"], body["message"], body["hint"]
    if code == "query_out_of_memory":
        return TooLarge(
            message, hint="Ask for less at once: fewer columns, a filter, or aggregate first.", reason=code
        )
    if code == "query_failed":
        return Unavailable(
            message,
            hint=hint or "Try again; if it stays, check the table with: stratal tables show",
            reason=code,
        )
    if code in {"function_refused", "files_refused"}:
        return Denied(message, hint=hint, reason=code)
    return Invalid(message, hint=hint, reason=code)


def _anonymous_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
