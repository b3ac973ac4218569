"""Writing down calls that were waited for: many in one transaction, a moment after their answers left.

A `kill -9` loses the records of that moment, never an answer; later calls are rows before they are acknowledged
(see `later`) and pass none of this.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.kernel.database import Database

log = logging.getLogger("stratal.functions")

LOG_LIMIT = 64 << 10
"""Of what one call writes, so much is kept."""
_PAUSE_SECONDS = 0.25
_MOST = 5_000
_PRUNE_EVERY = 200


class Journal:
    """`flush` at the end."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: list[dict[str, Any]] = []
        self._since_pruned: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def note(self, row: Mapping[str, Any]) -> None:
        """Have this call's record written soon. Under a flood that the database cannot take, the oldest are left out."""
        values = dict(row)
        values["log"] = kept_log(values["log"])
        values["error"] = None if values["error"] is None else orjson.dumps(values["error"]).decode()
        self._noted.append(values)
        if len(self._noted) > _MOST:
            del self._noted[: _MOST // 10]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._soon(), name="functions: journal")

    async def flush(self) -> None:
        """Write down what was noted; when this returns it can be read."""
        async with self._writing:
            rows, self._noted = self._noted, []
            if not rows:
                return
            try:
                await self._database.write(lambda c: self._write(c, rows))
            except Exception:
                log.exception("the records of %d calls were lost", len(rows))

    def _write(self, c: Connection, rows: list[dict[str, Any]]) -> None:
        gone = records.removed(c, {row["function_id"] for row in rows})
        kept = [row for row in rows if row["function_id"] not in gone]
        if kept:
            records.insert_invocations(c, kept)
        for row in kept:
            count = self._since_pruned.get(row["function_id"], 0) + 1
            if count >= _PRUNE_EVERY:
                records.prune(c, row["function_id"])
                count = 0
            self._since_pruned[row["function_id"]] = count

    async def _soon(self) -> None:
        while self._noted:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self.flush()


def kept_log(text: bytes) -> bytes:
    """As much of a call's log as is kept, and a word where it was cut."""
    if len(text) <= LOG_LIMIT:
        return text
    return text[:LOG_LIMIT] + b"\n[cut: of a call's log, 64 KiB are kept]\n"
