"""Git LFS beside a repository: the batch API and basic transfers (https://github.com/git-lfs/git-lfs/tree/main/docs/api)."""

import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.collab.repositories.lfs import MOST_AT_ONCE, Lfs, Pointer, check_pointer
from stratal.gateway.bodies import read_body
from stratal.gateway.door import principal
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Projects
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unsupported

ADDRESS = re.compile(
    rb"/git/([A-Za-z0-9][A-Za-z0-9._-]{0,99})/([A-Za-z0-9][A-Za-z0-9._-]{0,103}?)(?:\.git)?"
    rb"/info/lfs/(.*)\Z"
)
_OBJECT = re.compile(r"objects/([0-9a-f]{64})\Z")
_TYPE = "application/vnd.git-lfs+json"
_MOST_BODY = 1 << 20


class LfsRoutes:
    """What is below ``…/info/lfs/`` of a repository."""

    def __init__(self, projects: Projects, lfs: Lfs) -> None:
        self._projects = projects
        self._lfs = lfs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = ADDRESS.match(scope["raw_path"])
        assert match is not None
        project, name, what = (part.decode("latin-1") for part in match.groups())
        who, method = principal(scope), scope["method"]
        place = await self._projects.get(who, project)
        one = _OBJECT.match(what)
        if what == "objects/batch" and method == "POST":
            body = await read_body(scope, receive, _MOST_BODY)
            response = await self._batch(Request(scope), who, place.id, place.name, name, body)
            await response(scope, receive, send)
        elif one is not None and method == "PUT":
            await self._lfs.write(who, place.id, name, one[1], _chunks(receive))
            await Response(status_code=200)(scope, receive, send)
        elif one is not None and method in {"GET", "HEAD"}:
            await self._send(who, place.id, name, one[1], send, whole=method == "GET")
        elif what.startswith("locks"):
            raise NotFound("Locks of files are not offered here.", reason="no_locks")  # clients go on without
        else:
            raise NotFound(f"There is no {method} {what[:100]} here.", reason="no_such_route")

    async def _batch(
        self, request: Request, who: Principal, project_id: str, project: str, name: str, body: bytes
    ) -> Response:
        operation, asked = _asked(body)
        if operation == "upload":
            require(who, "repositories.write", project_id)
        there = await self._lfs.there(who, project_id, name, asked)
        if operation == "upload":
            await self._lfs.may_take(who, project_id, sum(one.size for one in asked if one.oid not in there))
        base = f"{request.url.scheme}://{request.headers['host']}/git/{project}/{name}.git/info/lfs/objects"
        header = {"Authorization": request.headers["authorization"]}

        def told(one: Pointer) -> dict[str, object]:
            said: dict[str, object] = {"oid": one.oid, "size": one.size, "authenticated": True}
            action = {"href": f"{base}/{one.oid}", "header": header, "expires_in": 3600}
            if operation == "upload":
                return said if one.oid in there else {**said, "actions": {"upload": action}}
            if one.oid in there:
                return {**said, "actions": {"download": action}}
            return {**said, "error": {"code": 404, "message": "The repository has no such file."}}

        return _json(
            {"transfer": "basic", "objects": [told(one) for one in asked], "hash_algo": "sha256"}, 200
        )

    async def _send(
        self, who: Principal, project_id: str, name: str, oid: str, send: Send, *, whole: bool
    ) -> None:
        size, chunks = await self._lfs.read(who, project_id, name, oid)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % size),
            (b"content-disposition", b"attachment"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if whole:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error(failure: StratalError, request_id: str) -> Response:
    """The error as LFS clients show it."""
    return _json({"message": str(failure), "request_id": request_id}, failure.status)


def _asked(body: bytes) -> tuple[str, list[Pointer]]:
    try:
        told: Any = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise Invalid("The batch is no JSON.", reason="bad_batch") from problem
    told = told if isinstance(told, dict) else {}
    operation, objects, transfers = (
        told.get("operation"),
        told.get("objects"),
        told.get("transfers", ["basic"]),
    )
    if operation not in ("upload", "download") or not isinstance(objects, list):
        raise Invalid("A batch has an operation, upload or download, and objects.", reason="bad_batch")
    if len(objects) > MOST_AT_ONCE:
        raise Invalid(f"A batch has at most {MOST_AT_ONCE} objects.", reason="bad_batch")
    basic = isinstance(transfers, list) and "basic" in transfers
    if not basic or told.get("hash_algo", "sha256") != "sha256":
        raise Unsupported("Only basic transfers and SHA-256 are offered here.", reason="unsupported_transfer")
    return operation, [_pointer(one) for one in objects]


def _pointer(told: Any) -> Pointer:
    return (
        check_pointer(told.get("oid"), told.get("size"))
        if isinstance(told, dict)
        else check_pointer(None, None)
    )


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Invalid("The request broke off.", reason="broken_body")
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)


def _json(content: object, status: int) -> Response:
    return Response(orjson.dumps(content), status, media_type=_TYPE)
