"""``/api/v1/sql``: statements in, rows out as JSON, CSV or an Arrow stream.

In JSON a number is a number when a double holds it exactly, else a string of its digits; NaN and the
infinities are strings; dates and times are ISO 8601; bytes are base64. The column's type says which it was.
"""

from contextlib import AsyncExitStack
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.data.lake.model import Place
from stratal.data.queries.service import Answer, Ask, QueryRecord, Warehouse
from stratal.gateway.gone import unless_gone
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]

DEFAULT_ROWS = 10_000
MAX_JSON_BYTES = 64 * 1024 * 1024
_MEDIA = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}


class Statement(BaseModel):
    sql: str
    params: list[str | int | float | bool | None] = Field(
        default_factory=list, description="Values for ? or $1, $2 … in the statement."
    )
    format: Literal["json", "csv", "arrow"] | None = Field(
        None, description="Absent: by the Accept header, else json."
    )
    project: str | None = Field(
        None, description="The project whose tables are meant; absent: the key's own."
    )
    limit: int | None = Field(
        None, ge=0, le=10_000_000, description=f"At most so many rows; json: {DEFAULT_ROWS:,} unless said."
    )
    timeout_seconds: float | None = Field(None, gt=0, le=3600)
    reads_only: bool = Field(False, description="Refuse a statement that writes.")


def router(projects: Projects, warehouse: Warehouse) -> APIRouter:
    """Routes of the warehouse."""
    api = APIRouter(tags=["sql"])

    async def place_of(who: Principal, project: str | None) -> Place:
        if project is None or project == who.project:
            return Place(who.project_id, who.project)
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.post("/sql")
    async def run_sql(request: Request, who: Who, body: Statement) -> Response:
        """Run one statement over the project's tables."""
        place = await place_of(who, body.project)
        format = body.format or _accepted(request)
        limit = body.limit if body.limit is not None or format != "json" else DEFAULT_ROWS
        ask = Ask(
            body.sql,
            body.params,
            format,
            limit,
            MAX_JSON_BYTES if format == "json" else None,
            body.timeout_seconds,
            body.reads_only,
        )
        if format == "json":
            return await unless_gone(request, _as_json(warehouse, who, place, ask))
        stack = AsyncExitStack()
        try:
            answer = await unless_gone(request, stack.enter_async_context(warehouse.query(who, place, ask)))
        except BaseException:
            await stack.aclose()
            raise
        return _Stream(stack, answer, _MEDIA[format])

    @api.get("/projects/{project}/queries")
    async def list_queries(
        who: Who, project: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, object]:
        """The latest queries: who asked what of which snapshots, and what it took."""
        found = await warehouse.log(who, await place_of(who, project), limit=limit)
        return {"queries": [_query(record) for record in found]}

    return api


async def _as_json(warehouse: Warehouse, who: Principal, place: Place, ask: Ask) -> Response:
    async with warehouse.query(who, place, ask) as answer:
        rows = [chunk async for chunk in answer.chunks()]
        columns = [{"name": column.name, "type": column.type} for column in answer.columns]
        finished = answer.finished
        tail = {
            "row_count": finished.row_count,
            "truncated": finished.truncated,
            "snapshots": answer.snapshots,
            "duration_ms": finished.duration_ms,
            "query_id": answer.id,
        }
    parts = [b'{"columns":', orjson.dumps(columns), b',"rows":', *rows, b",", orjson.dumps(tail)[1:]]
    return Response(b"".join(parts), media_type=_MEDIA["json"])


class _Stream(Response):
    """Sends a running query's bytes as they come, and ends the query when the client goes away."""

    def __init__(self, stack: AsyncExitStack, answer: Answer, media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers["X-Stratal-Query-Id"] = answer.id
        self.headers["X-Stratal-Snapshots"] = orjson.dumps(answer.snapshots).decode("latin-1")
        self._stack = stack
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await unless_gone(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._answer.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _accepted(request: Request) -> Literal["json", "csv", "arrow"]:
    accept = request.headers.get("accept", "")
    if "application/vnd.apache.arrow" in accept:
        return "arrow"
    return "csv" if "text/csv" in accept else "json"


def _query(record: QueryRecord) -> dict[str, object]:
    return {
        "name": record.id,
        "id": record.id,
        "sql": record.sql,
        "actor": record.actor,
        "workload": record.workload,
        "snapshots": record.tables,
        "state": record.state,
        "error": record.error,
        "rows": record.row_count,
        "bytes": record.byte_count,
        "started_at": iso(record.started_at),
        "duration_ms": record.duration_ms,
    }
