"""A job's log: one sequence of bytes with stable offsets, wherever its parts lie at the moment.

While the job lives: what the platform says before the start (a small file beside its code, only ever
appended to before the process starts), then what the engine collected. At the end both are stored as one
blob, with what there is to say about the end behind them, under the same offsets.
"""

from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import anyio.to_thread

from stratal.compute.environments import remove_tree
from stratal.compute.model import RankLog
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import Blob, BlobStore

_CHUNK = 1 << 20
_TAIL = 16 * 1024


class JobLogs:
    """Logs of attempts whose files lie below `work`."""

    def __init__(self, blobs: BlobStore, workloads: Workloads, work: Path) -> None:
        self._blobs = blobs
        self._workloads = workloads
        self._work = work
        self._said: dict[str, int] = {}
        """The bytes that we said ourselves, of attempts that began here; of others the file knows."""

    def folder(self, attempt_id: str) -> Path:
        """The folder of one attempt: its code, and the beginning of its log."""
        return self._work / attempt_id

    def clear_all_but(self, attempt_ids: Collection[str]) -> None:
        """Remove the folders of all attempts but these."""
        for folder in self._work.glob("job-*"):
            if folder.name not in attempt_ids:
                remove_tree(folder)

    def _preamble(self, attempt_id: str) -> Path:
        return self.folder(attempt_id) / "preamble.log"

    def say(self, attempt_id: str, text: str) -> None:
        """Append lines of the platform's own to the log. Only before the process starts."""
        lines = "".join(f"stratal: {line}\n" for line in text.splitlines())
        path = self._preamble(attempt_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(lines.encode(errors="replace"))
            self._said[attempt_id] = file.tell()

    async def live(self, attempt_id: str, offset: int, limit: int = _CHUNK) -> bytes:
        """Up to `limit` bytes from `offset` of a log that is not stored yet; empty when there are no more now."""
        size = self._said.get(attempt_id)
        if size is None or offset < size:
            before = await anyio.to_thread.run_sync(_read, self._preamble(attempt_id))
            if before is None:  # stored meanwhile, or not begun
                return b""
            if offset < len(before):
                return before[offset : offset + limit]
            size = len(before)
        return await self._workloads.engine.logs(attempt_id, offset - size, limit)

    async def grown(self, attempt_id: str, offset: int, seconds: float) -> bool:
        """Wait for more than `offset` bytes of a log that is not stored yet; False: look again by yourself."""
        size = self._said.get(attempt_id)
        if size is None:
            size = await anyio.to_thread.run_sync(_size, self._preamble(attempt_id))
        return await self._workloads.engine.grown(attempt_id, offset - size, seconds)

    async def live_rank(self, attempt_id: str, rank: int, offset: int) -> bytes:
        """As `live`, of one member of a gang."""
        return await self._workloads.engine.logs(attempt_id, offset, _CHUNK, rank=rank)

    async def store_rank(self, attempt_id: str, rank: int) -> RankLog:
        """Store what a member of an ended gang wrote. Raises `Unavailable` when the disk refuses."""
        writer = await self._blobs.create()
        offset = 0
        try:
            while chunk := await self.live_rank(attempt_id, rank, offset):
                await writer.write(chunk)
                offset += len(chunk)
            blob = await writer.commit()
            return RankLog(rank, blob.key, blob.size)
        finally:
            await writer.abort()

    async def stored(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [offset, offset+length) of a stored log."""
        if length > 0:
            async for chunk in self._blobs.read(key, offset, length):
                yield chunk

    async def store(self, attempt_id: str, epilogue: Callable[[bytes], str]) -> Blob:
        """Store the whole log of an ended attempt, then the lines that `epilogue` makes of the log's last bytes.

        Raises `Unavailable` when the disk refuses.
        """
        before = await anyio.to_thread.run_sync(_read, self._preamble(attempt_id)) or b""
        writer = await self._blobs.create()
        tail, offset = before, 0
        try:
            await writer.write(before)
            while chunk := await self._workloads.engine.logs(attempt_id, offset, _CHUNK):
                await writer.write(chunk)
                offset += len(chunk)
                tail = (tail + chunk)[-_TAIL:]
            lines = "".join(f"stratal: {line}\n" for line in epilogue(tail).splitlines())
            if lines:
                await writer.write(
                    (b"" if tail[-1:] in (b"", b"\n") else b"\n") + lines.encode(errors="replace")
                )
            blob = await writer.commit()
            self._said.pop(attempt_id, None)
            return blob
        finally:
            await writer.abort()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
