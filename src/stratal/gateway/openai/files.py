"""``files``: what clients upload for batches and fine-tuning, objects of a bucket of the project's own.

They are seen through the S3 protocol too, and cost what objects cost. A file's id and name are its key.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio.to_thread
import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from stratal.data.objects.model import Description, ObjectVersion
from stratal.data.objects.service import Objects
from stratal.gateway.openai import wire
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Conflict, Invalid, NotFound, TooLarge
from stratal.kernel.ids import new_id

PURPOSES = ("assistants", "batch", "batch_output", "evals", "fine-tune", "user_data", "vision")
MAX_FILE = 512 << 20
_CHUNK = 1 << 20
_PREFIX = "files/"


class Files:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def create(self, who: Principal, request: Request) -> Response:
        require(who, "objects.write", who.project_id)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise Invalid("The request is not a multipart form.", reason="bad_form")
        try:
            # The bytes go to a temporary file as they come; nothing is read without end.
            parser = MultiPartParser(request.headers, _within(request), max_files=1, max_fields=16)  # type: ignore[arg-type]
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:
            raise Invalid(f"The form cannot be read: {error}.", reason="bad_form") from None
        try:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise wire.bad("file must be a file.", "file")
            if purpose not in PURPOSES:
                raise wire.bad(f"purpose must be one of {', '.join(PURPOSES)}.", "purpose")
            stored = await self.put(who, _name(file.filename), str(purpose), _chunks(file))
        finally:
            await form.close()
        return _json(shown(stored))

    async def put(self, who: Principal, name: str, purpose: str, body: AsyncIterator[bytes]) -> ObjectVersion:
        bucket = await self.bucket(who)
        file_id = new_id("file").replace("_", "-")
        description = Description("application/octet-stream", metadata={"purpose": purpose})
        return await self._objects.put(
            who, bucket, f"{_PREFIX}{file_id}/{name}", body, description=description
        )

    async def bucket(self, who: Principal) -> str:
        """The project's bucket for this door, made when there is none."""
        name = bucket_of(who)
        try:
            await self._objects.bucket(who, name)
        except NotFound:
            try:
                await self._objects.create_bucket(who, name)
            except Conflict as error:
                if error.reason != "bucket_owned":  # another request was quicker: fine
                    raise
        return name

    async def find(self, who: Principal, file_id: str) -> ObjectVersion:
        """Raises `NotFound`."""
        if "/" not in file_id and file_id:
            try:
                page = await self._objects.list(who, bucket_of(who), prefix=f"{_PREFIX}{file_id}/", limit=1)
            except NotFound:
                page = None
            if page is not None and page.objects:
                return page.objects[0]
        raise NotFound(f"There is no file {file_id[:100]!r}.", reason="no_such_file")

    async def list(self, who: Principal, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        after = request.query_params.get("after", "")
        try:
            start = (
                f"{_PREFIX}{after}0" if after else ""
            )  # "0" sorts behind "/": after all of that file's key
            page = await self._objects.list(who, bucket_of(who), prefix=_PREFIX, after=start)
        except NotFound:
            return _json({"object": "list", "data": [], "has_more": False})
        found = [shown(one) for one in page.objects]
        kept = [one for one in found if purpose in (None, one["purpose"])]
        return _json({"object": "list", "data": kept, "has_more": page.next_after is not None})

    async def retrieve(self, who: Principal, file_id: str) -> Response:
        return _json(shown(await self.find(who, file_id)))

    async def content(self, who: Principal, file_id: str) -> Response:
        version = await self.find(who, file_id)
        headers = {
            "Content-Length": str(version.size),
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        return StreamingResponse(self._objects.read(who, version), 200, headers, "application/octet-stream")

    async def delete(self, who: Principal, file_id: str) -> Response:
        require(who, "objects.write", who.project_id)
        version = await self.find(who, file_id)
        await self._objects.delete(who, version.bucket, version.key)
        return _json({"id": file_id, "object": "file", "deleted": True})


def bucket_of(who: Principal) -> str:
    return f"openai-{who.project_id.replace('_', '-').lower()}"


def id_of(version: ObjectVersion) -> str:
    return version.key.removeprefix(_PREFIX).partition("/")[0]


def shown(version: ObjectVersion) -> dict[str, Any]:
    return {
        "id": id_of(version),
        "object": "file",
        "bytes": version.size,
        "created_at": version.created_at // 1000,
        "filename": version.key.rpartition("/")[2],
        "purpose": version.metadata.get("purpose", "user_data"),
        "status": "processed",
    }


def _name(given: str | None) -> str:
    plain = (given or "").replace("\\", "/").rpartition("/")[2]
    kept = "".join(c for c in plain if c.isprintable())[:200]
    return kept if kept not in {"", ".", ".."} else "file"


async def _within(request: Request) -> AsyncIterator[bytes]:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_FILE:
                raise TooLarge(f"A file has at most {MAX_FILE >> 20} MiB.", reason="body_too_large")
            yield chunk
    except ClientDisconnect as error:
        raise Invalid("The upload broke off.", reason="broken_body") from error


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await anyio.to_thread.run_sync(file.file.read, _CHUNK):
        yield chunk


def _json(value: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
