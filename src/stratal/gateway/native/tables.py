"""``/api/v1``: tables of the lake, for people and programs without an Iceberg client."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import (
    FileVerdict,
    Place,
    SnapshotFile,
    SnapshotInfo,
    TableInfo,
    parse_table_name,
)
from stratal.data.queries.loading import LoadedRows
from stratal.data.queries.service import Warehouse
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, NotFound

Who = Annotated[Principal, Depends(caller)]
Mode = Literal["create", "append", "replace"]


class Import(BaseModel):
    source: str = Field(description="An object of the project, as s3://bucket/key.")
    format: str | None = Field(None, description="parquet, csv, json or arrow; absent: by content and name.")
    mode: Mode = "create"


def router(projects: Projects, lake: Lake, warehouse: Warehouse) -> APIRouter:
    """Routes of the lake."""
    api = APIRouter(tags=["tables"])

    async def place_of(who: Principal, project: str) -> Place:
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.get("/projects/{project}/tables")
    async def list_tables(who: Who, project: str) -> dict[str, object]:
        """The project's tables by name."""
        place = await place_of(who, project)
        return {"tables": [_table(info) for info in await lake.catalog.all(who, place)]}

    @api.get("/projects/{project}/tables/{name}")
    async def get_table(who: Who, project: str, name: str) -> dict[str, object]:
        """A table with its columns and its snapshots, newest first."""
        info = await lake.catalog.find_readable(who, await place_of(who, project), parse_table_name(name))
        found = await lake.snapshots.of_table(info)
        return {
            **_table(info),
            "location": info.location,
            "metadata_location": info.metadata_location,
            "columns": [_column(field) for field in info.fields],
            "snapshots": [_snapshot(snapshot) for snapshot in found],
        }

    async def snapshot_of(
        who: Principal, project: str, name: str, snapshot: str | None
    ) -> tuple[TableInfo, SnapshotInfo]:
        info = await lake.catalog.find_readable(who, await place_of(who, project), parse_table_name(name))
        if snapshot is not None and not re.fullmatch("-?[0-9]{1,20}", snapshot):
            raise Invalid("A snapshot's id is a number.", reason="bad_snapshot")
        wanted = int(snapshot) if snapshot is not None else info.snapshot_id
        if wanted is None or abs(wanted) >= 2**63:
            raise NotFound(f"Table {info.name} has no such snapshot.", reason="no_such_snapshot")
        return info, await lake.snapshots.get(info.id, wanted)

    @api.get("/projects/{project}/tables/{name}/files")
    async def list_files(who: Who, project: str, name: str, snapshot: str | None = None) -> dict[str, object]:
        """The files of a snapshot (default: the current one)."""
        info, chosen = await snapshot_of(who, project, name, snapshot)
        files = await lake.snapshots.files(info, chosen)
        return {"snapshot_id": str(chosen.snapshot_id), "files": [_file(file) for file in files]}

    @api.get("/projects/{project}/tables/{name}/verify")
    async def verify_table(
        who: Who, project: str, name: str, snapshot: str | None = None
    ) -> dict[str, object]:
        """Hash every file of a snapshot (default: the current one) now, and compare with what was committed."""
        info, chosen = await snapshot_of(who, project, name, snapshot)
        verdicts = await lake.verify_snapshot(info.id, chosen.snapshot_id)
        return {
            "snapshot_id": str(chosen.snapshot_id),
            "verified": all(verdict.status == "verified" for verdict in verdicts),
            "files": [_verdict(verdict) for verdict in verdicts],
        }

    @api.post("/projects/{project}/tables/{name}/import", status_code=201)
    async def import_object(who: Who, project: str, name: str, body: Import) -> dict[str, object]:
        """Write an object's rows into the table."""
        place = await place_of(who, project)
        return _loaded(
            await warehouse.import_object(
                who, place, parse_table_name(name), body.source, body.format, body.mode
            )
        )

    @api.put("/projects/{project}/tables/{name}/import", status_code=201)
    async def import_upload(
        request: Request,
        who: Who,
        project: str,
        name: str,
        filename: str = "",
        format: Annotated[str | None, Query(description="parquet, csv, json or arrow.")] = None,
        mode: Mode = "create",
    ) -> dict[str, object]:
        """Write the rows of the file that is the request's body into the table."""
        place = await place_of(who, project)
        return _loaded(
            await warehouse.import_upload(
                who, place, parse_table_name(name), _body(request), filename, format, mode
            )
        )

    @api.delete("/projects/{project}/tables/{name}", status_code=204)
    async def drop_table(who: Who, project: str, name: str, keep_files: bool = False) -> None:
        """Drop the table, its bytes included unless `keep_files`."""
        place = await place_of(who, project)
        await lake.drop(who, place, parse_table_name(name), purge=not keep_files)

    return api


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise Invalid(
            "The connection broke off before the whole file had arrived.", reason="incomplete_body"
        ) from error


def _table(info: TableInfo) -> dict[str, object]:
    # Snapshot ids are text: they exceed what JSON's readers hold exactly.
    return {
        "name": str(info.name),
        "id": info.id,
        "uuid": info.uuid,
        "rows": info.row_count,
        "bytes": info.byte_count,
        "files": info.file_count,
        "snapshot_id": str(info.snapshot_id) if info.snapshot_id is not None else None,
        "created_at": iso(info.created_at),
        "created_by": info.created_by,
        "updated_at": iso(info.updated_at),
    }


def _column(field: Any) -> dict[str, object]:
    return {
        "id": field["id"],
        "name": field["name"],
        "type": type_name(field["type"]),
        "required": field["required"],
        "doc": field.get("doc"),
    }


def type_name(kind: Any) -> str:
    """An Iceberg type as one line: ``list<struct<a: int, b: string>>``."""
    if isinstance(kind, str):
        return kind
    if kind["type"] == "struct":
        return f"struct<{', '.join(f['name'] + ': ' + type_name(f['type']) for f in kind['fields'])}>"
    if kind["type"] == "list":
        return f"list<{type_name(kind['element'])}>"
    return f"map<{type_name(kind['key'])}, {type_name(kind['value'])}>"


def _snapshot(snapshot: SnapshotInfo) -> dict[str, object]:
    return {
        "snapshot_id": str(snapshot.snapshot_id),
        "parent_id": str(snapshot.parent_id) if snapshot.parent_id is not None else None,
        "operation": snapshot.operation,
        "summary": dict(snapshot.summary),
        "current": snapshot.current,
        "committed_at": iso(snapshot.committed_at),
        "committed_by": snapshot.committed_by,
        "workload": snapshot.workload,
        "manifest_list": snapshot.manifest_list,
        "version": snapshot.version_id,
    }


def _file(file: SnapshotFile) -> dict[str, object]:
    return {
        "name": file.location,
        "kind": file.kind,
        "version": file.version_id,
        "format": file.format,
        "bytes": file.size,
        "rows": file.rows,
    }


def _verdict(verdict: FileVerdict) -> dict[str, object]:
    return {
        "name": verdict.file.location,
        "kind": verdict.file.kind,
        "version": verdict.file.version_id,
        "status": verdict.status,
        "expected": verdict.expected,
        "found": verdict.found,
    }


def _loaded(loaded: LoadedRows) -> dict[str, object]:
    return {**_table(loaded.table), "imported_rows": loaded.row_count}
