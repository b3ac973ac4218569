"""``/api/v1``: buckets and objects, for the console, the CLI and whoever has no S3 client at hand.

A key stands in the query (``?key=``), because a path cannot hold every key unharmed. Bytes are sent as
a download of no particular type: an object may be a page, and this is the console's origin.
"""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from stratal.data.objects.model import (
    DEFAULT_CONTENT_TYPE,
    Bucket,
    Checks,
    Condition,
    Description,
    ObjectVersion,
)
from stratal.data.objects.service import MAX_PAGE, Objects
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, NotFound

Who = Annotated[Principal, Depends(caller)]
Key = Annotated[str, Query(description="The object's key.")]


class NewBucket(BaseModel):
    name: str


def router(projects: Projects, objects: Objects) -> APIRouter:
    """Routes of the objects room."""
    api = APIRouter(tags=["objects"])

    async def bucket_of(who: Principal, project: str, name: str) -> Bucket:
        place = await projects.get(who, project)
        bucket = await objects.bucket(who, name)
        if bucket.project_id != place.id:  # an admin sees every project's, but not under each other's names
            raise NotFound(
                f"There is no bucket {name[:70]!r} in project {project!r}.", reason="no_such_bucket"
            )
        return bucket

    async def readable(who: Principal, project: str, name: str) -> Bucket:
        """Also one that is shared with the project."""
        place = await projects.get(who, project)
        if place.id != who.project_id or who.is_admin:
            return await bucket_of(who, project, name)
        return await objects.readable_bucket(who, name)

    @api.get("/projects/{project}/buckets")
    async def list_buckets(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"buckets": [_bucket(b) for b in await objects.list_buckets(who, project_id=place.id)]}

    @api.post("/projects/{project}/buckets", status_code=201)
    async def create_bucket(who: Who, project: str, body: NewBucket) -> dict[str, object]:
        place = await projects.get(who, project)
        return _bucket(await objects.create_bucket(who, body.name, project_id=place.id))

    @api.delete("/projects/{project}/buckets/{bucket}", status_code=204)
    async def delete_bucket(who: Who, project: str, bucket: str) -> None:
        """Delete an empty bucket."""
        await objects.delete_bucket(who, (await bucket_of(who, project, bucket)).name)

    @api.get("/projects/{project}/buckets/{bucket}/objects")
    async def list_objects(
        who: Who,
        project: str,
        bucket: str,
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    ) -> dict[str, object]:
        """One page, in the order of the keys' UTF-8; the next begins `after` this one's `next_after`."""
        place = await readable(who, project, bucket)
        page = await objects.list(
            who, place.name, prefix=prefix, delimiter=delimiter, after=after, limit=limit
        )
        return {
            "objects": [_object(version) for version in page.objects],
            "prefixes": page.prefixes,
            "next_after": page.next_after,
        }

    @api.get("/projects/{project}/buckets/{bucket}/object")
    async def get_object(who: Who, project: str, bucket: str, key: Key) -> Response:
        """The object's bytes, as a download."""
        place = await readable(who, project, bucket)
        version = await objects.head(who, place.name, key)
        body = objects.read(who, version)
        first = await anext(body, b"")

        async def rest() -> AsyncIterator[bytes]:
            yield first
            async for chunk in body:
                yield chunk

        name = quote(key.rstrip("/").rsplit("/", 1)[-1] or "object", safe="")
        headers = {
            "Content-Length": str(version.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            "ETag": f'"{version.etag}"',
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        return StreamingResponse(rest(), headers=headers, media_type="application/octet-stream")

    @api.put("/projects/{project}/buckets/{bucket}/object", status_code=201)
    async def put_object(
        request: Request, who: Who, project: str, bucket: str, key: Key
    ) -> dict[str, object]:
        """Store the request's body as the object; with ``If-None-Match: *`` only where there is none."""
        place = await bucket_of(who, project, bucket)
        length = request.headers.get("content-length")
        version = await objects.put(
            who,
            place.name,
            key,
            _body(request),
            description=Description(request.headers.get("content-type") or DEFAULT_CONTENT_TYPE),
            checks=Checks(size=int(length) if length is not None else None),
            condition=_condition(request),
        )
        return _object(version)

    @api.delete("/projects/{project}/buckets/{bucket}/object", status_code=204)
    async def delete_object(who: Who, project: str, bucket: str, key: Key) -> None:
        """Delete the object, bytes and all."""
        place = await bucket_of(who, project, bucket)
        if await objects.delete(who, place.name, key) is None:
            raise NotFound(f"There is no object {key[:200]!r} in {place.name}.", reason="no_such_key")

    return api


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise Invalid(
            "The connection broke off before the whole body had arrived.", reason="incomplete_body"
        ) from error


def _condition(request: Request) -> Condition:
    if_none = request.headers.get("if-none-match")
    if if_none is not None and if_none.strip() != "*":
        raise Invalid("On a write If-None-Match only takes *.", reason="bad_condition")
    return Condition(if_absent=if_none is not None)


def _bucket(bucket: Bucket) -> dict[str, object]:
    return {
        "name": bucket.name,
        "id": bucket.id,
        "kind": bucket.kind,
        "created_at": iso(bucket.created_at),
    }


def _object(version: ObjectVersion) -> dict[str, object]:
    return {
        "name": version.key,
        "version": version.id,
        "bucket": version.bucket,
        "size": version.size,
        "sha256": version.sha256,
        "etag": version.etag,
        "content_type": version.content_type,
        "metadata": dict(version.metadata),
        "created_at": iso(version.created_at),
        "created_by": version.created_by,
    }
