"""A commit as a code snapshot: what ``stratal run --git repo@rev`` runs, made here from git's own objects.

The files are hashed and stored as any snapshot's are, so a job's code is proven in the same way wherever it
came from, and the commit is no claim: these bytes were read out of it.
"""

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from stratal.collab.repositories import git
from stratal.collab.repositories.model import Repository
from stratal.collab.repositories.reading import Reading
from stratal.collab.repositories.service import Repositories, Store
from stratal.compute import manifest
from stratal.compute.manifest import CodeFile
from stratal.compute.snapshots import Snapshots
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Internal, TooLarge
from stratal.ledger.lineage import Lineage

_SUBMODULE = "160000"


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """The snapshot of a commit. `branch` is set when the revision named one; `left_out` are submodules."""

    snapshot: str
    commit: str
    branch: str | None
    files: int
    left_out: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Blob:
    path: str
    mode: str
    object: str
    size: int


class Checkout:
    def __init__(
        self,
        store: Store,
        repositories: Repositories,
        reading: Reading,
        snapshots: Snapshots,
        lineage: Lineage,
    ) -> None:
        self._store = store
        self._repositories = repositories
        self._reading = reading
        self._snapshots = snapshots
        self._lineage = lineage

    async def snapshot(self, who: Principal, project_id: str, name: str, revision: str) -> CheckedOut:
        """Make the code snapshot of a revision. Raises `NotFound`, and `Invalid` for what no snapshot may hold."""
        require(who, "jobs.run", project_id)
        found = await self._repositories.get(who, project_id, name)
        commit = await self._reading.resolve(found, revision)
        await self._lineage.record(
            who, "read", "commit", f"{found.id}@{commit}", project_id=project_id, name=name
        )
        blobs, left_out = await self._listed(found, commit)
        digests: dict[str, str] = {}
        async for object_, _, chunks in self._contents(found, list({b.object: b for b in blobs}.values())):
            digest = hashlib.sha256()
            async for chunk in chunks:
                digest.update(chunk)
            digests[object_] = digest.hexdigest()
        files = [CodeFile(blob.path, blob.mode, digests[blob.object], blob.size) for blob in blobs]
        offer = await self._snapshots.offer(who, project_id, files)
        if offer.missing:
            wanted = set(offer.missing)
            missing = {b.object: b for b in blobs if digests[b.object] in wanted}
            await self._snapshots.receive(
                who, project_id, self._packed(found, list(missing.values()), digests)
            )
            offer = await self._snapshots.offer(who, project_id, files)
        if offer.missing:
            raise Internal("The commit's files could not be stored.")
        refs = await self._repositories.refs(found)
        named = revision or refs.head
        branch = named if named in refs.branches else None
        return CheckedOut(offer.id, commit, branch, len(files), left_out)

    async def _listed(self, found: Repository, commit: str) -> tuple[list[_Blob], list[str]]:
        listed, cut = await self._store.ask(found.id, "ls-tree", "-r", "-z", "--long", commit, most=32 << 20)
        if cut or listed.count(b"\0") > 2 * manifest.MAX_FILES:
            raise _too_many()
        blobs, left_out = [], []
        for line in listed.split(b"\0"):
            if not line:
                continue
            head, _, raw = line.partition(b"\t")
            mode, _, object_, size = head.decode().split()
            path = raw.decode("utf-8", "surrogateescape")
            if mode == _SUBMODULE:
                left_out.append(path)
            else:
                blobs.append(_Blob(path, mode, object_, int(size)))
        if len(blobs) > manifest.MAX_FILES:
            raise _too_many()
        if sum(blob.size for blob in blobs) > manifest.MAX_BYTES:
            raise TooLarge(
                f"The commit's files have more than the {manifest.MAX_BYTES >> 20} MiB that a job's code may have.",
                hint="Data belongs into buckets and tables.",
            )
        return blobs, left_out

    async def _contents(
        self, found: Repository, blobs: Sequence[_Blob]
    ) -> AsyncIterator[tuple[str, int, AsyncIterator[bytes]]]:
        """Each object's id, size and bytes, through one ``git cat-file --batch``; read each before the next."""
        place = self._store.place(found.id)
        process = await git.start(
            [f"--git-dir={place}", "cat-file", "--batch"],
            self._store.environment(),
            cwd=place,
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        try:
            for blob in blobs:
                process.stdin.write(f"{blob.object}\n".encode())
                await process.stdin.drain()
                head = (await process.stdout.readline()).decode().split()
                if head != [blob.object, "blob", str(blob.size)]:
                    raise Internal(f"git could not read {blob.path[:100]!r}.")
                yield blob.object, blob.size, _exactly(process.stdout, blob.size)
                await process.stdout.readexactly(1)
        finally:
            git.end(process)
            await process.wait()
            process.close()

    async def _packed(
        self, found: Repository, blobs: Sequence[_Blob], digests: dict[str, str]
    ) -> AsyncIterator[bytes]:
        async for object_, size, chunks in self._contents(found, blobs):
            yield bytes.fromhex(digests[object_]) + size.to_bytes(8, "big")
            async for chunk in chunks:
                yield chunk


def _too_many() -> TooLarge:
    return TooLarge(f"The commit has more than the {manifest.MAX_FILES} files that a job's code may have.")


async def _exactly(stream: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        chunk = await stream.read(min(size, 1 << 18))
        if not chunk:
            raise Internal("git broke off.")
        size -= len(chunk)
        yield chunk
