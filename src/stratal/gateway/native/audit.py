"""``/api/v1/audit`` and ``/api/v1/projects/{project}/audit``: what was changed and what was refused, and the proof."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.responses import StreamingResponse

from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.ledger.audit import Audit, Entry, Wanted, chained

Who = Annotated[Principal, Depends(caller)]
Moment = Annotated[int | None, Query(ge=0, le=2**53, description="Epoch milliseconds.")]


def wanted_entries(
    by: Annotated[str | None, Query(max_length=200, description="person:ada, job:12, or ada.")] = None,
    what: Annotated[
        str | None, Query(max_length=300, description="A kind or its beginning, or an id.")
    ] = None,
    since: Moment = None,
    until: Moment = None,
    door: Annotated[str | None, Query(max_length=40)] = None,
    denied: Annotated[bool | None, Query(description="Only denials, or only changes.")] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62, description="Only entries behind this one.")] = None,
) -> Wanted:
    return Wanted(by, what, since, until, door, denied, before)


Asked = Annotated[Wanted, Depends(wanted_entries)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def router(audit: Audit, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["audit"])

    @api.get("/audit")
    async def list_all(who: Who, wanted: Asked, limit: Limit = 100) -> dict[str, object]:
        """The whole instance's entries, newest first; `next` is the `before` of the next page. Admins only."""
        return _page(await audit.entries(who, None, wanted, limit=limit + 1), limit)

    @api.get("/audit/verify")
    async def verify(who: Who) -> dict[str, object]:
        """Compute the whole chain again and hold it against the head kept outside of the database. Admins only."""
        found = await audit.verify(who)
        return {
            "holds": found.holds,
            "wrong": found.wrong,
            "wrong_at": found.wrong_at,
            "entries": found.entries,
            "unchained": found.unchained,
            "head": {"seq": found.head_seq, "hash": found.head},
            "kept_seq": found.kept_seq,
        }

    @api.get("/audit/export")
    async def export_all(who: Who, wanted: Asked) -> StreamingResponse:
        """The whole instance's entries, oldest first, one JSON object a line. Admins only."""
        return _lines(await audit.export(who, None, wanted))

    @api.get("/projects/{project}/audit")
    async def list_entries(who: Who, project: str, wanted: Asked, limit: Limit = 100) -> dict[str, object]:
        """The project's entries, newest first; `next` is the `before` of the next page."""
        place = await projects.get(who, project)
        return _page(await audit.entries(who, place.id, wanted, limit=limit + 1), limit)

    @api.get("/projects/{project}/audit/export")
    async def export_entries(who: Who, project: str, wanted: Asked) -> StreamingResponse:
        """The project's entries, oldest first, one JSON object a line."""
        place = await projects.get(who, project)
        return _lines(await audit.export(who, place.id, wanted))

    return api


def _page(entries: Sequence[Entry], limit: int) -> dict[str, object]:
    shown = [_entry(entry) for entry in entries[:limit]]
    return {"entries": shown, "next": entries[limit - 1].seq if len(entries) > limit else None}


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "at": iso(entry.at),
        "actor": entry.actor,
        "kind": entry.kind,
        "subject": entry.subject,
        "door": entry.door,
        "address": entry.address,
        "project_id": entry.project_id,
        "data": orjson.loads(entry.data),
        "hash": entry.hash,
    }


def _lines(entries: AsyncIterator[Entry]) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        async for entry in entries:
            yield orjson.dumps({"seq": entry.seq, **chained(entry), "hash": entry.hash}) + b"\n"

    headers = {"Content-Disposition": "attachment; filename=audit.jsonl", "Cache-Control": "no-store"}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)
