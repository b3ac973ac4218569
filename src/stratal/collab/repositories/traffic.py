"""Clones and pushes: ``git http-backend`` with the bytes of a request, streaming both ways.

A push is noted in a file before it begins: who pushes, then (by the hook) which refs changed. When git has
ended, and also at the next start for pushes that a kill of the server cut off, the file becomes rows and
events and goes away; so no change of a ref stays unrecorded.
"""

import asyncio
import logging
import re
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anyio.to_thread
import orjson
from sqlalchemy import Connection, select, update

from stratal.collab.repositories import git, hooks, leftovers
from stratal.collab.repositories.model import Repository
from stratal.collab.repositories.service import Repositories, Store, weigh
from stratal.collab.repositories.tables import repositories
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Internal, OverBudget
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage

log = logging.getLogger("stratal.repositories")

Service = Literal["git-upload-pack", "git-receive-pack"]

AT_ONCE = 8
_PATIENCE_SECONDS = 30.0
_TOLD_SECONDS = 120.0
"""How long a push that was received whole may take to be finished when its client is gone."""
_OUTLIVED_SECONDS = 0.5
_DRAINED = 256 << 20
_TIDY_SECONDS = 5.0
"""How soon after a push it is looked whether there is much to tidy up: the client does not wait for that."""
_PACKS = 40
_LOOSE = 4000
_WANT = re.compile(rb"want ([0-9a-f]{40})")
_MOST_WANTS = 64
_PROTOCOL = re.compile(r"[a-z0-9=:]{1,100}\Z")
_GREETING_TYPE = "application/x-git-upload-pack-advertisement"
_GREETING = re.compile(rb"000eversion 2\n(?:[0-9a-f]{4}[a-z-]+(?:=[ -~]*)?\n)+0000")
"""Capabilities and nothing of a repository's (https://git-scm.com/docs/protocol-v2)."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: which service, whether it only asks for the refs, and what its headers said."""

    service: Service
    advertise: bool
    content_type: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """git's answer: its status and type, and its bytes as they come."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Update:
    """A ref that a push moved, from one object to another (zeros: there was none, there is none)."""

    old: str
    new: str
    ref: str


class Traffic:
    def __init__(
        self,
        database: Database,
        store: Store,
        service: Repositories,
        lineage: Lineage,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._repositories = service
        self._lineage = lineage
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._backend: str | None = None
        self._greeting = b""
        """What git says first to a client of protocol version 2, until it is another git's (the next start)."""
        self._closing = False
        self._pushing: Counter[str] = Counter()
        """How many pushes go on, by repository."""
        self._cut_off: set[str] = set()
        """Repositories in which a push did not come to its end."""
        self._is_outlived = False
        """Is git still at work that an earlier server started?"""
        self._untidy: set[str] = set()
        self._tidying: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Lay out the folders and hooks, and finish what a kill cut off."""
        self._store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store.pushes.mkdir(mode=0o700, exist_ok=True)
        hooks.lay_out(self._store.hooks)
        self._backend = await git.own_program("http-backend", self._store.environment(), cwd=self._store.root)
        await self._repositories.sweep()
        notes, began = sorted(self._store.pushes.iterdir()), time.time()
        if former := await anyio.to_thread.run_sync(leftovers.at_work, self._store.root):
            self._is_outlived = True
            task = asyncio.create_task(self._outlived(former, notes, began), name="repositories: outlived")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        await self._take_over(notes, began)

    async def close(self) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def open(
        self, who: Principal, project_id: str, name: str, exchange: Exchange, body: AsyncIterator[bytes]
    ) -> AsyncIterator[Transfer]:
        """Answer one request of a git client; what a push changed is recorded when the context has ended.

        Raises `NotFound`, `Denied` for a push by a viewer, `OverBudget` when the project's quota is used up,
        `Busy` when too many clones and pushes go on.
        """
        found = await self._repositories.get(who, project_id, name)
        pushes = exchange.service == "git-receive-pack"
        if pushes:
            require(who, "repositories.write", project_id)
        if self._greeting and _is_greeting(exchange):
            yield Transfer(200, _GREETING_TYPE, _once(self._greeting))
            return
        room = await self._repositories.room_left(project_id) if pushes else 0
        if pushes and room <= 0:
            raise OverBudget(
                "The project's quota for repositories is used up.",
                hint="Remove a repository, or ask an admin for more: stratal repo quota PROJECT SIZE",
                reason="over_quota",
            )
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Busy(
                f"{AT_ONCE} clones and pushes are going on already.",
                hint="Try again in a moment.",
                retry_after_seconds=5,
            ) from error
        note = self._store.pushes / new_id("push") if pushes and not exchange.advertise else None
        if note is not None:
            told = {"repository": found.id, "actor": who.actor, "workload": who.workload}
            note.write_bytes(orjson.dumps(told) + b"\n")
            self._pushing[found.id] += 1
        try:
            async with self._process(found, exchange, room, note, body, who) as transfer:
                yield await self._greeted(transfer) if _is_greeting(exchange) else transfer
        finally:
            self._turns.release()
            if note is not None:
                self._pushing[found.id] -= 1
                await asyncio.shield(self._settled(note, who))
                await asyncio.shield(self._cleared(found.id))

    async def _outlived(self, former: frozenset[int], notes: Sequence[Path], began: float) -> None:
        """git goes on with what the server before this one gave it: let it come to its end first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_SECONDS):
                while former:
                    await asyncio.sleep(_OUTLIVED_SECONDS)
                    former &= await anyio.to_thread.run_sync(leftovers.at_work, self._store.root)
        await self._take_over(notes, began)
        self._is_outlived = False

    async def _take_over(self, notes: Sequence[Path], before: float) -> None:
        """Record what pushes that were cut off changed, and remove what they left."""
        for note in notes:
            with suppress(Exception):
                await self._settle(note)

        def clear() -> None:
            for place in self._store.root.glob("repo_*.git"):
                leftovers.remove(leftovers.incoming(place, before))
                leftovers.clear_locks(place, before)

        await anyio.to_thread.run_sync(clear)

    # -- the process ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _process(
        self,
        found: Repository,
        exchange: Exchange,
        room: int,
        note: Path | None,
        body: AsyncIterator[bytes],
        who: Principal,
    ) -> AsyncIterator[Transfer]:
        env = git.environment(
            self._store.path,
            self._store.hooks,
            {"receive.maxInputSize": str(max(room, 1))},
            {
                "GIT_PROJECT_ROOT": str(self._store.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": f"/{found.id}.git/{'info/refs' if exchange.advertise else exchange.service}",
                "QUERY_STRING": f"service={exchange.service}" if exchange.advertise else "",
                "REQUEST_METHOD": "GET" if exchange.advertise else "POST",
                "CONTENT_TYPE": exchange.content_type if not exchange.advertise else "",
                "GIT_PROTOCOL": exchange.protocol if _PROTOCOL.match(exchange.protocol) else "",
                "REMOTE_USER": "stratal",
                "REMOTE_ADDR": "127.0.0.1",
                "STRATAL_PROTECTED": " ".join(found.protected),
                "STRATAL_PUSH": str(note or ""),
                "GIT_COMMITTER_NAME": "stratal",
                "GIT_COMMITTER_EMAIL": "stratal@localhost",
            },
        )
        process = await git.start(
            [] if self._backend else ["http-backend"],
            env,
            cwd=self._store.root,
            stdin=subprocess.PIPE,
            program=self._backend or "git",
            bounded=not exchange.advertise,
        )
        assert process.stdin is not None
        wants = _Wants() if exchange.service == "git-upload-pack" and who.workload else None
        pump = asyncio.create_task(_pump(body, process.stdin, wants))
        pump.add_done_callback(
            lambda task: git.end(process) if task.cancelled() or task.exception() else None
        )
        said = asyncio.create_task(git.drained(process.stderr))
        try:
            status, content_type = await _head(process.stdout, said)
            if wants is not None and not exchange.advertise:
                await pump
                await self._note_reads(who, found, wants.found)
            answer = _chunks(process.stdout, pump)
            first = await anext(
                answer, b""
            )  # git has heard all it needs: what broke off before is refused instead
            yield Transfer(status, content_type, _led(first, answer))
        finally:
            if note is not None and pump.done() and not pump.cancelled():
                await _finish(process)  # received whole: it is done whether or not its client listens
            if not process.stdout.at_eof():
                git.end(process)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            code = await process.wait()
            words = (await asyncio.gather(said, return_exceptions=True))[0]
            process.close()
            if code != 0 and note is not None:
                self._cut_off.add(found.id)
            if code != 0 and words:
                log.info("git %s on %s ended with %d: %s", exchange.service, found.id, code, words)

    async def _note_reads(self, who: Principal, found: Repository, commits: Sequence[str]) -> None:
        for commit in commits:
            version = f"{found.id}@{commit}"
            await self._lineage.record(
                who, "read", "commit", version, project_id=found.project_id, name=found.name
            )

    async def _greeted(self, transfer: Transfer) -> Transfer:
        """The answer, which is remembered: it says what git can do, and is the same for every repository."""
        said = b"".join([chunk async for chunk in transfer.chunks])
        if (transfer.status, transfer.content_type) == (200, _GREETING_TYPE) and _GREETING.fullmatch(said):
            self._greeting = said
        return replace(transfer, chunks=_once(said))

    # -- what a push changed -------------------------------------------------------------------

    async def _settled(self, note: Path, who: Principal) -> None:
        try:
            updates = await self._settle(note)
        except Exception:
            log.exception("a push could not be recorded: it will be at the next start")
            return
        if who.workload is not None:
            for repository_id, project_id, name, update_ in updates:
                if update_.new.strip("0"):
                    await self._lineage.record(
                        who,
                        "write",
                        "commit",
                        f"{repository_id}@{update_.new}",
                        project_id=project_id,
                        name=name,
                    )

    async def _cleared(self, repository_id: str) -> None:
        """Remove what pushes left that were cut off, when no other could be at work there."""
        if self._pushing[repository_id]:
            return
        del self._pushing[repository_id]
        if repository_id in self._cut_off and not self._is_outlived:
            self._cut_off.discard(repository_id)
            # Found here and not in a thread: then the next push has not begun, and has nothing there.
            found = leftovers.incoming(self._store.place(repository_id))
            await anyio.to_thread.run_sync(leftovers.remove, found)

    async def _settle(self, note: Path) -> Sequence[tuple[str, str, str, Update]]:
        """Turn a push's file into rows and events, and remove it."""
        told_bytes = await anyio.to_thread.run_sync(note.read_bytes)
        first, *lines = told_bytes.decode("utf-8", "backslashreplace").split("\n")
        told = orjson.loads(first)
        updates = [Update(*line.split(" ", 2)) for line in lines if line.count(" ") >= 2]
        repository_id, actor = str(told["repository"]), str(told["actor"])
        place = self._store.place(repository_id)
        recorded: list[tuple[str, str, str, Update]] = []
        if updates and place.is_dir():
            head_branch = await self._head_branch(repository_id, updates)
            size = await anyio.to_thread.run_sync(weigh, place)

            def work(c: Connection) -> list[tuple[str, str, str, Update]]:
                row = c.execute(select(repositories).where(repositories.c.id == repository_id)).one_or_none()
                if row is None:
                    return []
                values: dict[str, object] = {
                    "bytes": size,
                    "pushed_at": self._clock(),
                    "pushed_by": actor,
                }
                if head_branch is not None and row.protected == "[]" and row.pushed_at is None:
                    values["protected"] = orjson.dumps([head_branch]).decode()
                c.execute(update(repositories).where(repositories.c.id == repository_id).values(values))
                for one in updates:
                    emit(
                        c,
                        "repository.pushed",
                        repository_id,
                        actor=actor,
                        project_id=row.project_id,
                        name=row.name,
                        ref=one.ref,
                        old=one.old,
                        new=one.new,
                    )
                return [(repository_id, row.project_id, row.name, one) for one in updates]

            recorded = await self._database.write(work)
            if repository_id not in self._untidy:
                self._untidy.add(repository_id)
                asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy, repository_id)
        await anyio.to_thread.run_sync(lambda: note.unlink(missing_ok=True))
        return recorded

    async def _head_branch(self, repository_id: str, updates: Sequence[Update]) -> str | None:
        """HEAD's branch, once it is pointed at the first pushed (``main`` or ``master`` among several) if it had none."""
        pushed = [
            one.ref.removeprefix("refs/heads/")
            for one in updates
            if one.ref.startswith("refs/heads/") and one.new.strip("0")
        ]
        branch, is_there = await anyio.to_thread.run_sync(_head_of, self._store.place(repository_id))
        if not is_there:
            if not pushed:
                return None
            branch = next((name for name in ("main", "master") if name in pushed), pushed[0])
            await self._store.ask(repository_id, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
        return branch

    def _tidy(self, repository_id: str) -> None:
        """Repack in the background what many pushes left. Nothing that was ever pushed is dropped: jobs ran it."""
        self._untidy.discard(repository_id)
        if repository_id in self._tidying or self._closing or not self._store.place(repository_id).is_dir():
            return
        self._tidying.add(repository_id)
        task = asyncio.create_task(self._repack(repository_id), name="repositories: repack")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repack(self, repository_id: str) -> None:
        try:
            counted, _ = await self._store.ask(repository_id, "count-objects", "-v")
            counts = dict(line.split(": ", 1) for line in counted.decode().splitlines() if ": " in line)
            if int(counts.get("packs", 0)) < _PACKS and int(counts.get("count", 0)) < _LOOSE:
                return
            place = self._store.place(repository_id)
            an_hour_ago = time.time() - 3600
            await anyio.to_thread.run_sync(leftovers.clear_repacking, place, an_hour_ago)
            repack = [f"--git-dir={place}", "repack", "-a", "-d", "-k", "-q", "--write-bitmap-index"]
            await git.run(repack, self._store.environment(), cwd=place, most=1 << 16, seconds=3600.0)
            size = await anyio.to_thread.run_sync(weigh, place)
            await self._database.write(
                lambda c: c.execute(
                    update(repositories).where(repositories.c.id == repository_id).values(bytes=size)
                )
            )
        except Exception as error:
            log.warning("repository %s could not be repacked: %s", repository_id, error)
        finally:
            self._tidying.discard(repository_id)


def _head_of(place: Path) -> tuple[str, bool]:
    """The branch that HEAD points at, and whether there is such a branch: read as git keeps it, since each push asks."""
    ref = (place / "HEAD").read_text(errors="surrogateescape").strip().removeprefix("ref: ")
    with suppress(OSError):
        if (place / ref).read_text().strip():
            return ref.removeprefix("refs/heads/"), True
    with suppress(OSError):
        packed = (place / "packed-refs").read_text(errors="surrogateescape")
        return ref.removeprefix("refs/heads/"), any(line.endswith(f" {ref}") for line in packed.splitlines())
    return ref.removeprefix("refs/heads/"), False


class _Wants:
    """Picks the commits that a client wants out of the beginning of its request."""

    def __init__(self) -> None:
        self._seen = b""
        self.found: list[str] = []

    def feed(self, chunk: bytes) -> None:
        if len(self._seen) < 1 << 16 and len(self.found) < _MOST_WANTS:
            self._seen += chunk
            told = dict.fromkeys(match.decode() for match in _WANT.findall(self._seen))
            self.found = list(told)[:_MOST_WANTS]


async def _finish(process: git.Process) -> None:
    """Let git come to its end, for as long as a push may take."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_TOLD_SECONDS):
            while await process.stdout.read(1 << 16):
                pass
            await process.wait()


async def _pump(body: AsyncIterator[bytes], stdin: asyncio.StreamWriter, wants: _Wants | None) -> None:
    """Hand the request's body to git; when git has heard enough, read on for a while, as clients expect."""
    deaf = 0
    async for chunk in body:
        if wants is not None:
            wants.feed(chunk)
        if not deaf:
            try:
                stdin.write(chunk)
                await stdin.drain()
                continue
            except (BrokenPipeError, ConnectionResetError):
                pass
        deaf += len(chunk)
        if deaf > _DRAINED:
            break
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.close()
        await stdin.wait_closed()


async def _head(stdout: asyncio.StreamReader, said: "asyncio.Task[str]") -> tuple[int, str]:
    """The CGI answer's status and content type. Raises `Internal` when git ended without one."""
    try:
        head = await stdout.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        log.error("git http-backend gave no answer: %s", await said)
        raise Internal("git could not answer.", hint="The server's log has the reason.") from error
    status, content_type = 200, "application/octet-stream"
    for line in head.decode("latin-1").splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name.lower() == "content-type":
            content_type = value.strip()
    return status, content_type


def _is_greeting(exchange: Exchange) -> bool:
    return exchange == Exchange("git-upload-pack", advertise=True, protocol="version=2")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _led(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in others:
        yield chunk


async def _chunks(stdout: asyncio.StreamReader, pump: "asyncio.Task[None]") -> AsyncIterator[bytes]:
    while chunk := await stdout.read(1 << 18):
        yield chunk
    await pump
