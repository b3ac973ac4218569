"""Environments: one per lock, built with uv, shared by everything that asks for the same packages.

requirements text → *resolution* (``uv pip compile`` with hashes) → lock document → environment. The lock
document says the Python, the platform and every package with its hashes; its SHA-256 is the
environment's id, so two that differ in anything are two environments. The same requirements mean the
same environment from then on (a row of `resolutions`) until somebody asks to resolve anew, so running a
script twice neither waits for a resolver nor gets other packages.

Everything uv does runs as a workload of the engine, never in the server's process. The first try takes
wheels only: then no foreign code runs, and the operator's package cache is used. Only when that finds no
solution is code from the packages allowed to run (a source distribution's build), then in the sandbox
with a cache of its own, so that nobody can plant anything in the shared one. A build sees the package
sources' addresses, so it is refused when these carry credentials.

An environment is built under another name and renamed when whole: a folder under its own name is
complete. What a killed server left half built is swept away at the next start and built again.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, cast

import anyio.to_thread
import orjson
from sqlalchemy import Connection, bindparam, delete, insert, select

from stratal.compute import compiling, package_sources
from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.compute.model import JobState
from stratal.compute.requirements import canonical
from stratal.compute.tables import environments, jobs, resolutions
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, Unavailable
from stratal.kernel.ids import random_token

T = TypeVar("T")
log = logging.getLogger("stratal.compute")

Progress = Callable[[str], None]
"""Receives lines for people (without line ends), as they come. Called in the event loop."""

_LIMIT_SECONDS = 3600.0
_TRIES = 3
_POLL_SECONDS = 0.15
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ONLY_RESOLVING = {"UV_CONSTRAINT", "UV_OVERRIDE", "UV_PRERELEASE", "UV_RESOLUTION"}
# $1 uv, $2 the base Python, then uv's further arguments, in both.
_UNPACK = """set -eu
uv=$1; python=$2; shift 2
exec "$uv" pip install --quiet --no-deps --require-hashes --python "$python" --target out "$@" --requirement lock.txt
"""
# $3 is `compiling.py`; byte code lies beside the wheels that it belongs to. `sync -f` makes a power cut after the
# rename harmless with one call instead of ten thousand fsyncs.
_BUILD = """set -eu
uv=$1; python=$2; compiling=$3; shift 3
"$uv" venv --quiet --relocatable --no-project --no-python-downloads --python "$python" env
if [ -s lock.txt ]; then
  "$uv" pip sync --require-hashes --python env/bin/python "$@" lock.txt
  "$python" -I -S "$compiling" env/lib "$("$uv" cache dir)/stratal-bytecode" >/dev/null 2>&1 || true
fi
sync -f env || true
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A built environment. `id` is the SHA-256 of its lock document, stored as the blob `lock_blob`."""

    id: str
    path: Path
    python_version: str
    platform: str
    packages: int
    lock_blob: str
    created_at: int

    @property
    def python(self) -> Path:
        """The interpreter to run."""
        return self.path / "bin" / "python"

    @property
    def whole(self) -> bool:
        """Its folder is there."""
        return (self.path / ".ready").exists()


class Sources(Protocol):
    """Reads the operator's package sources anew: variables for uv (`package_sources.uv_environment`) plus HOME."""

    def __call__(self) -> Mapping[str, str]: ...


class Environments:
    """Finds and builds environments below `root`. `start` before use.

    `python` is the interpreter that environments are made from; `uv` the program.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workloads: Workloads,
        root: Path,
        clock: Clock,
        *,
        uv: Path,
        sources: Sources,
        python: Path | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._root = root
        self._clock = clock
        self._uv = uv
        self._sources = sources
        self.python = python or Path(getattr(sys, "_base_executable", sys.executable))
        self._python_version = ".".join(str(part) for part in sys.version_info[:3])
        self._platform = sysconfig.get_platform()
        self._shared: dict[str, _Shared] = {}
        self._swept = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to sweep away what an earlier server left half built; builds wait for that."""
        self._sweeping = asyncio.create_task(self._sweep(), name="environments: sweep")

    async def close(self) -> None:
        """Give up what is being built: it is built again when asked for again."""
        tasks = [shared.task for shared in self._shared.values()]
        tasks += [self._sweeping] if self._sweeping else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- asking for one ------------------------------------------------------------------------

    async def for_requirements(
        self, text: str, *, upgrade: bool = False, progress: Progress | None = None
    ) -> Environment:
        """The built environment of these requirements ("" or blank: Python only); builds it when need be.

        The same text gives the same environment each time, unless `upgrade` asks to resolve anew. Many
        who ask for the same one wait for one build. Raises `Invalid` (reason ``environment_failed``)
        with the resolver's or builder's own message, or for requirements that are refused;
        `Unavailable` when the engine is gone.
        """
        requirements = canonical(text)
        if not requirements:
            return await self._ready(await self._record(self._document("", "")), progress)
        sources = await anyio.to_thread.run_sync(self._sources)
        key = self._key(requirements, sources)
        found = None if upgrade else await self._resolved(key)
        if found is None:
            found = await self._share(
                f"resolve {key}", progress, lambda say: self._resolve(key, requirements, sources, say)
            )
        return await self._ready(found, progress)

    async def at_hand(self, text: str) -> Environment | None:
        """The environment that `for_requirements` would give, when it is built already; None: that would take a while."""
        requirements = canonical(text)

        def find(c: Connection) -> Mapping[str, object] | None:
            if not requirements:
                return _find(c, hashlib.sha256(self._document("", "")).hexdigest())
            return _find_resolved(c, self._key(requirements, self._sources()))

        row = await self._database.read(find)
        found = None if row is None else self._of(row)
        return found if found is not None and found.whole else None

    async def get(self, environment_id: str, *, progress: Progress | None = None) -> Environment:
        """The environment with this id, built again when its folder is gone. Raises `NotFound`, as above."""
        return await self._ready(await self.describe(environment_id), progress)

    async def unpacked(self, lock: str, use: Callable[[Path], Awaitable[T]]) -> T:
        """Let `use` read the files of exactly the wheels in `lock` (each with its hash), without what they depend on.

        For packages that carry data: nothing of them is run, and nothing is left when `use` is done. Raises
        `Invalid` with uv's own message when a package is not there or its hash is another one.
        """

        async def attempt(run: "_Run") -> T:
            await anyio.to_thread.run_sync((run.folder / "lock.txt").write_text, lock)
            argv = ["/bin/sh", "-c", _UNPACK, "unpack", str(self._uv), str(self.python)]
            await run([*argv, *run.arguments], None)
            return await use(run.folder / "out")

        sources = await anyio.to_thread.run_sync(self._sources)
        settings = {name: value for name, value in sources.items() if name not in _ONLY_RESOLVING}
        return await self._in_folder(settings, attempt, building=False)

    async def describe(self, environment_id: str) -> Environment:
        """What is recorded of an environment, whether or not its folder is there now. Raises `NotFound`."""
        row = await self._database.read(lambda c: _find(c, environment_id))
        if row is None:
            raise NotFound(f"There is no environment {environment_id[:80]!r}.", reason="no_such_environment")
        return self._of(row)

    async def lock(self, environment_id: str) -> bytes:
        """The lock document, from storage: its SHA-256 is the id unless somebody tampered. Raises `NotFound`."""
        return await self._blobs.read_all((await self.describe(environment_id)).lock_blob)

    async def collect(self, held: Callable[[Connection], Collection[str]]) -> int:
        """Remove the folders of environments that neither a job's row nor `held` refers to; returns how many.

        What is recorded of them stays, so that `get` builds one again when it is asked for. Does nothing
        while a job is choosing its environment: the next time will do.
        """

        def unused(c: Connection) -> list[Environment]:
            choosing = select(jobs.c.id).where(
                jobs.c.state == JobState.STARTING.value, jobs.c.environment_id.is_(None)
            )
            if c.execute(choosing.limit(1)).first() is not None:
                return []
            used = {*c.execute(select(jobs.c.environment_id).distinct()).scalars(), *held(c)}
            found = (self._of(dict(row)) for row in c.execute(select(environments)).mappings())
            return [
                environment for environment in found if environment.id not in used and environment.packages
            ]

        gone = 0
        for environment in await self._database.read(unused):
            if f"build {environment.id}" not in self._shared and environment.path.exists():
                await anyio.to_thread.run_sync(_discard, environment.path)
                gone += 1
        return gone

    # -- resolving -----------------------------------------------------------------------------

    def _key(self, requirements: str, sources: Mapping[str, str]) -> str:
        said = {
            "requirements": requirements,
            "python": self._python_version,
            "platform": self._platform,
            "sources": package_sources.fingerprint(sources),
        }
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    async def _resolved(self, key: str) -> Environment | None:
        row = await self._database.read(lambda c: _find_resolved(c, key))
        return None if row is None else self._of(row)

    async def _resolve(
        self, key: str, requirements: str, sources: Mapping[str, str], say: Progress
    ) -> Environment:
        say("Resolving the requirements …")

        async def attempt(run: "_Run") -> bytes:
            await anyio.to_thread.run_sync((run.folder / "requirements.txt").write_text, requirements)
            argv = [str(self._uv), "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
            argv += ["--no-annotate", "--no-python-downloads", "--python", str(self.python)]
            argv += ["--output-file", "lock.txt", *run.arguments, "requirements.txt"]
            await run(argv, None)
            return await anyio.to_thread.run_sync((run.folder / "lock.txt").read_bytes)

        lock = await self._wheels_first(sources, attempt, say)
        options = "".join(line + "\n" for line in requirements.splitlines() if line.startswith("-"))
        environment = await self._record(self._document(options, lock.decode()))

        def work(c: Connection) -> None:
            c.execute(delete(resolutions).where(resolutions.c.key == key))
            c.execute(
                insert(resolutions).values(key=key, environment_id=environment.id, resolved_at=self._clock())
            )

        await self._database.write(work)
        return environment

    def _document(self, options: str, lock: str) -> bytes:
        """The lock document: a requirements file whose first lines say for which Python and platform."""
        header = f"# python {self._python_version}\n# platform {self._platform}\n"
        return (header + options + lock).encode()

    async def _record(self, document: bytes) -> Environment:
        environment_id = hashlib.sha256(document).hexdigest()
        row = await self._database.read(lambda c: _find(c, environment_id))
        if row is not None:
            return self._of(row)
        blob = await self._blobs.put(document)
        values = {
            "id": environment_id,
            "lock_blob": blob.key,
            "python": self._python_version,
            "platform": self._platform,
            "packages": len(_pins(document)),
            "created_at": self._clock(),
        }

        def work(c: Connection) -> Mapping[str, object]:
            existing = _find(c, environment_id)
            if existing is None:
                c.execute(insert(environments).values(values))
            return existing or values

        kept = await self._database.write(work)
        if kept["lock_blob"] != blob.key:
            await self._blobs.delete(blob.key)
        return self._of(kept)

    def _of(self, row: Mapping[str, object]) -> Environment:
        return Environment(
            id=str(row["id"]),
            path=self._root / str(row["id"])[:32],
            python_version=str(row["python"]),
            platform=str(row["platform"]),
            packages=int(str(row["packages"])),
            lock_blob=str(row["lock_blob"]),
            created_at=int(str(row["created_at"])),
        )

    # -- building ------------------------------------------------------------------------------

    async def _ready(self, environment: Environment, progress: Progress | None) -> Environment:
        marker = environment.path / ".ready"
        if not await anyio.to_thread.run_sync(marker.exists):
            await self._share(f"build {environment.id}", progress, lambda say: self._build(environment, say))
        return environment

    async def _build(self, environment: Environment, say: Progress) -> None:
        if environment.platform != self._platform or environment.python_version != self._python_version:
            raise Invalid(
                f"Environment {environment.id[:12]} is for Python {environment.python_version} on "
                f"{environment.platform}; this machine has {self._python_version} on {self._platform}.",
                reason="environment_failed",
            )
        document = await self._blobs.read_all(environment.lock_blob)
        if hashlib.sha256(document).hexdigest() != environment.id:
            raise Invalid(
                f"The stored lock of environment {environment.id[:12]} is damaged.",
                reason="environment_failed",
            )
        sources = await anyio.to_thread.run_sync(self._sources)
        packages = f"{environment.packages} package{'s' * (environment.packages != 1)}"
        if environment.packages:
            say(f"Building environment {environment.id[:12]} … {packages}")
        started = self._clock()

        async def attempt(run: "_Run") -> None:
            lock = document if environment.packages else b""
            await anyio.to_thread.run_sync((run.folder / "lock.txt").write_bytes, lock)
            argv = ["/bin/sh", "-c", _BUILD, "build", str(self._uv), str(self.python), compiling.__file__]
            await run([*argv, *run.arguments], say)
            await anyio.to_thread.run_sync(_put_in_place, run.folder / "env", environment.path)

        settings = {name: value for name, value in sources.items() if name not in _ONLY_RESOLVING}
        await self._wheels_first(settings, attempt, say)
        if environment.packages:
            say(f"Environment ready after {(self._clock() - started) / 1000:.1f} s")

    # -- running uv ----------------------------------------------------------------------------

    async def _wheels_first(
        self, sources: Mapping[str, str], attempt: Callable[["_Run"], Awaitable[T]], say: Progress
    ) -> T:
        """`attempt` with wheels only; when that fails, with packages' own builds, fenced in."""
        try:
            return await self._in_folder(sources, attempt, building=False)
        except Invalid as error:
            if "wheel" not in error.message and "build" not in error.message:
                raise
            if sources.get("UV_NO_BUILD", "") in {"1", "true"}:
                raise
            if package_sources.has_credentials(sources):
                raise Invalid(
                    f"{error.message}\nBuilding from source is refused here: the code of a package could read "
                    "the credentials of the configured package sources.",
                    reason=error.reason,
                ) from error
        say("Not everything comes as a wheel: building from source …")
        return await self._in_folder(sources, attempt, building=True)

    async def _in_folder(
        self, sources: Mapping[str, str], attempt: Callable[["_Run"], Awaitable[T]], *, building: bool
    ) -> T:
        await self._swept.wait()
        for remaining in reversed(range(_TRIES)):
            folder = self._root / ".building" / random_token(12)
            await anyio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
            environment = self._command_environment(sources, folder, building)
            run = _Run(self._workloads, folder, environment, building)
            run.arguments += package_sources.arguments(sources)
            run.read_only = [
                self._uv.resolve(),
                self._uv,
                Path(compiling.__file__),
                *package_sources.local_paths(sources),
            ]
            try:
                return await attempt(run)
            except Unavailable:
                if not remaining:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(remove_tree, folder)
        raise AssertionError

    def _command_environment(
        self, sources: Mapping[str, str], folder: Path, building: bool
    ) -> dict[str, str]:
        fixed = {"PATH": _PATH, "LANG": "C.UTF-8", "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
        if not building:
            return {**sources, **fixed}
        hidden = {"HOME", "NETRC", "UV_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
        kept = {name: value for name, value in sources.items() if name not in hidden}
        return {**kept, **fixed, "UV_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)}

    # -- doing it once --------------------------------------------------------------------------

    async def _share(
        self, name: str, progress: Progress | None, work: Callable[[Progress], Awaitable[T]]
    ) -> T:
        """Run `work` once for all who ask at the same time; each hears all that it says.

        One who stops waiting does not stop it for the others; when the last one goes, it ends.
        """
        shared = self._shared.get(name)
        if shared is None:
            shared = _Shared()
            shared.task = asyncio.create_task(_result(work, shared.say), name=name)
            self._shared[name] = shared
            shared.task.add_done_callback(lambda _: self._shared.pop(name, None))
        if progress is not None:
            for line in shared.lines:
                progress(line)
            shared.listeners.append(progress)
        shared.waiting += 1
        try:
            return cast("T", await asyncio.shield(shared.task))
        finally:
            shared.waiting -= 1
            if progress is not None:
                shared.listeners.remove(progress)
            if not shared.waiting and not shared.task.done():
                self._shared.pop(name, None)
                shared.task.cancel()

    async def _sweep(self) -> None:
        left = [name for name in await self._workloads.adopted() if name.startswith("env-")]
        for name in left:
            with suppress(Unavailable):
                await self._workloads.engine.stop(name, 0)
            await self._workloads.ended(name)
            await self._workloads.forget(name)
        await anyio.to_thread.run_sync(remove_tree, self._root / ".building")
        self._swept.set()


def _discard(path: Path) -> None:
    """Take an environment out of use in one step, then remove it: a half-removed one is never found ready."""
    away = (
        path.parent / ".building" / f"going-{path.name}-{random_token(8)}"
    )  # swept at the next start, if cut off
    away.parent.mkdir(mode=0o700, exist_ok=True)
    path.rename(away)
    remove_tree(away)


class _Shared:
    """One piece of work that several wait for."""

    task: "asyncio.Task[object]"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listeners: list[Progress] = []
        self.waiting = 0

    def say(self, line: str) -> None:
        self.lines.append(line)
        for listener in self.listeners:
            listener(line)


async def _result(work: Callable[[Progress], Awaitable[object]], say: Progress) -> object:
    return await work(say)


class _Run:
    """Runs one command as a workload in `folder`, with `arguments` for uv that say what may be built."""

    def __init__(self, workloads: Workloads, folder: Path, env: Mapping[str, str], building: bool) -> None:
        self._workloads = workloads
        self._env = env
        self._building = building
        self.folder = folder
        self.read_only: Sequence[Path] = ()
        self.arguments = [] if building else ["--no-build"]

    async def __call__(self, argv: Sequence[str], say: Progress | None) -> None:
        """Raises `Invalid` with the command's last words when it fails, `Unavailable` when nobody saw its end."""
        spec = WorkloadSpec(
            attempt_id=f"env-{random_token(20)}",
            argv=argv,
            env=self._env,
            cwd=self.folder,
            read_only=self.read_only,
            wall_seconds=_LIMIT_SECONDS,
            network="open",
            isolate=self._building,  # wheels alone run no foreign code, and use the operator's cache
        )
        await self._workloads.run(spec)
        ending = asyncio.ensure_future(self._workloads.ended(spec.attempt_id))
        try:
            output = await self._output(spec.attempt_id, ending, say)
            status = await ending
        except BaseException:
            ending.cancel()
            with anyio.CancelScope(shield=True), suppress(Exception):
                await self._workloads.engine.stop(spec.attempt_id, 0)
                await self._workloads.ended(spec.attempt_id)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._workloads.forget(spec.attempt_id)
        if status.state == "unknown":
            raise Unavailable("The build of the environment was lost with the engine.")
        if status.exit_code != 0:
            raise Invalid(_message(output, status.reason), reason="environment_failed")

    async def _output(
        self, attempt_id: str, ending: "asyncio.Future[WorkloadStatus]", say: Progress | None
    ) -> str:
        """All that the command writes; whole lines are told as they come."""
        text, told = b"", 0
        while True:
            done = ending.done()
            more = await self._workloads.engine.logs(attempt_id, len(text))
            text += more
            complete = len(text) if done and not more else text.rfind(b"\n") + 1
            for line in text[told:complete].decode(errors="replace").splitlines():
                shown = package_sources.redact(line.rstrip())
                if shown.startswith("error"):
                    say = None  # the failure is told by whoever takes it: it may only lead to the next try
                if say is not None and shown and not shown.startswith((" + ", " - ", "Using Python")):
                    say(shown)
            told = max(told, complete)
            if done and not more:
                return text.decode(errors="replace")
            if not more:
                await asyncio.wait([ending], timeout=_POLL_SECONDS)


def _message(output: str, reason: str) -> str:
    """What uv said went wrong, without its chatter and without anybody's password."""
    lines = [line.rstrip() for line in package_sources.redact(output).splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith(("error", "  ×", "×"))]
    told = "\n".join(lines[starts[0] :] if starts else lines[-20:])
    return (told or reason or "The environment could not be built.")[:4000]


def _pins(document: bytes) -> list[bytes]:
    return [line for line in document.splitlines() if line[:1].isalnum()]


_ONE = select(environments).where(environments.c.id == bindparam("named"))
_RESOLVED = (
    select(environments)
    .join(resolutions, resolutions.c.environment_id == environments.c.id)
    .where(resolutions.c.key == bindparam("asked"))
)


def _find(connection: Connection, environment_id: str) -> Mapping[str, object] | None:
    row = connection.execute(_ONE, {"named": environment_id}).mappings().one_or_none()
    return None if row is None else dict(row)


def _find_resolved(connection: Connection, key: str) -> Mapping[str, object] | None:
    row = connection.execute(_RESOLVED, {"asked": key}).mappings().one_or_none()
    return None if row is None else dict(row)


def _put_in_place(built: Path, place: Path) -> None:
    """Rename the whole environment to its own name; one that is there already stays."""
    (built / ".ready").touch()
    if (place / ".ready").exists():
        return
    if place.exists():
        place.rename(built.parent / "broken")
    built.rename(place)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, also what its owner made unreadable for itself; absent is fine."""

    def open_up(_function: object, name: str, _error: object) -> None:
        with suppress(OSError):
            Path(name).parent.chmod(0o700)
            if Path(name).is_dir() and not Path(name).is_symlink():
                Path(name).chmod(0o700)
                shutil.rmtree(name, ignore_errors=True)
            else:
                Path(name).unlink()

    if path.is_symlink() or path.exists():
        shutil.rmtree(path, onerror=open_up)
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
