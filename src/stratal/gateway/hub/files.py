"""Files: sent with ranges and checksums, received before their commit, and committed.

Small texts come inside the commit, everything else by LFS; a client asks first which way a file goes.
"""

import base64
import binascii
import mimetypes
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from stratal.ai.models.commits import Add, Change, Commits, Link, NewCommit, Point, Remove, check_oid
from stratal.ai.models.model import ModelFile
from stratal.collab.artifacts import check_path
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.hub import errors, wire
from stratal.gateway.hub.repositories import Repository, base_of, json_response
from stratal.gateway.hub.uploads import MEDIA_TYPE, Addresses, asked_objects
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Invalid, NotFound, Unsupported

_INLINE = 32 * 1024  # a text up to this size comes inside the commit
_MAX_COMMIT = 64 << 20
_MAX_FILES = 10_000


class Files:
    def __init__(self, commits: Commits, addresses: Addresses) -> None:
        self._commits = commits
        self._addresses = addresses

    # -- sending ---------------------------------------------------------------------------------

    async def send(
        self, who: Principal, request: Request, repository: Repository, revision: str, path: str
    ) -> Response:
        """One file: whole, a range of it, or what is known of it (HEAD). Its ETag is its SHA-256."""
        point = await self._commits.at(who, repository[0], repository[2], revision)
        file = _file(point, path)
        return sent(
            request,
            path,
            file.sha256,
            file.size,
            point.commit,
            lambda start, length: self._commits.blobs.read(file.blob_key, start, length),
        )

    # -- receiving -------------------------------------------------------------------------------

    async def preupload(
        self, who: Principal, request: Request, repository: Repository, revision: str
    ) -> Response:
        """Which way each file goes, and the name of the bytes that are there now, so that the same are not sent."""
        _only_main(request, revision)
        require(who, "models.write", repository[0])
        body = _object(await read_body(request.scope, request.receive, 16 << 20))
        listed = body.get("files")
        if not isinstance(listed, list) or len(listed) > _MAX_FILES:
            raise Invalid(f"files must be a list of at most {_MAX_FILES}.", reason="bad_request")
        point = await self._commits.at(who, repository[0], repository[2])
        there = {file.path: file for file in point.version.files} if point.version else {}
        answers = []
        for one in listed:
            if not isinstance(one, dict) or not isinstance(size := one.get("size"), int):
                raise Invalid("A file needs a path and a size.", reason="bad_request")
            path = check_path(wire.text(one, "path"))
            inline = size <= _INLINE and _is_text(wire.text(one, "sample"))
            oid = await self._name_of(there.get(path), size, inline=inline)
            mode = "regular" if inline else "lfs"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return json_response({"files": answers})

    async def _name_of(self, file: ModelFile | None, size: int, *, inline: bool) -> str | None:
        if file is None or file.size != size:
            return None
        if not inline:
            return file.sha256
        return wire.git_blob(await self._commits.blobs.read_all(file.blob_key))

    async def batch(self, who: Principal, request: Request, repository: Repository) -> Response:
        """Git LFS's batch: an address to PUT each object to that is not here yet."""
        asked = asked_objects(_object(await read_body(request.scope, request.receive, 4 << 20)))
        project_id, project, name = repository
        have = await self._commits.present(who, project_id, name, [oid for oid, _ in asked])
        base = base_of(request)
        objects: list[dict[str, Any]] = []
        for oid, size in asked:
            said: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in have:
                href = self._addresses.make(base, who, project, oid, size)
                said["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(said)
        answer = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
        return Response(orjson.dumps(answer), media_type=MEDIA_TYPE)

    async def receive(
        self, who: Principal, request: Request, project_id: str, oid: str, size: int
    ) -> Response:
        """The bytes of one object. Refused, with nothing kept, when they are not what the address was made for."""
        if request.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
            raise Unsupported("A file is stored as it is sent, not encoded.")
        await self._commits.receive(who, project_id, oid, size, _chunks(request))
        return Response(headers={"ETag": f'"{oid}"'})

    # -- committing ------------------------------------------------------------------------------

    async def commit(
        self, who: Principal, request: Request, repository: Repository, revision: str
    ) -> Response:
        """Lines of JSON: a header, then what changes. Answers with the new commit."""
        _only_main(request, revision)
        require(who, "models.write", repository[0])
        body = await read_body(request.scope, request.receive, _MAX_COMMIT)
        new = await beside(len(body), read_commit, body)
        point = await self._commits.commit(who, repository[0], repository[2], new)
        url = f"{base_of(request)}/{quote(repository[1])}/{quote(repository[2])}/commit/{point.commit}"
        return json_response(
            {
                "success": True,
                "commitOid": point.commit,
                "commitUrl": url,
                "pullRequestUrl": None,
                "hookOutput": "",
            }
        )


def sent(
    request: Request,
    path: str,
    sha256: str,
    size: int,
    commit: str,
    read: Callable[[int, int], AsyncIterator[bytes]],
) -> Response:
    """The answer that gives a file at a commit: whole, a range of it, or its description."""
    headers = {
        "ETag": f'"{sha256}"',
        "X-Repo-Commit": commit,
        "X-Linked-ETag": f'"{sha256}"',
        "X-Linked-Size": str(size),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
    }
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    if f'"{sha256}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    span = None
    if request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        span = wire.byte_range(request.headers.get("range", ""), size)
    start, length = span or (0, size)
    headers["Content-Length"] = str(length)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    status = 206 if span is not None else 200
    if request.method == "HEAD" or length == 0:
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(read(start, length), status, headers, kind)


def read_commit(body: bytes) -> NewCommit:
    """The commit that lines of JSON describe. Raises `Invalid`."""
    header: dict[str, Any] | None = None
    changes: list[Change] = []
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        item = _object(line)
        key, value = item.get("key"), item.get("value")
        if not isinstance(value, dict):
            raise Invalid("A line of a commit needs a key and a value.", reason="bad_request")
        if key == "header":
            header = value
        else:
            changes.append(_change(str(key), value))
    if header is None:
        raise Invalid("The commit has no header.", reason="bad_request")
    if len(changes) > _MAX_FILES:
        raise Invalid(f"A commit changes at most {_MAX_FILES} files.", reason="bad_request")
    return NewCommit(
        wire.text(header, "summary").strip(),
        wire.text(header, "description").strip(),
        wire.text(header, "parentCommit"),
        changes,
    )


def _change(key: str, value: dict[str, Any]) -> Change:
    path = wire.text(value, "path")
    if key == "file":
        content = wire.text(value, "content")
        if wire.text(value, "encoding", "utf-8") != "base64":
            return Add(path, content.encode(errors="replace"))
        try:
            return Add(path, base64.b64decode(content, validate=True))
        except binascii.Error as error:
            raise Invalid(f"The content of {path[:200]!r} is not base64.", reason="bad_request") from error
    if key == "lfsFile":
        size = value.get("size")
        if wire.text(value, "algo", "sha256") != "sha256":
            raise Invalid("Bytes are named by their SHA-256.", reason="bad_oid")
        return Link(path, check_oid(wire.text(value, "oid")), size if isinstance(size, int) else None)
    if key in {"deletedFile", "deletedFolder"}:
        return Remove(path, folder=key == "deletedFolder")
    raise Unsupported(
        f"{key[:40]!r} is no change that a commit here can make.",
        hint="A commit adds files and removes them; links to other places are not kept.",
    )


def _file(point: Point, path: str) -> ModelFile:
    check_path(path)
    for file in point.version.files if point.version else ():
        if file.path == path:
            return file
    raise NotFound(
        f"{path[:200]!r} is not in this repository.", reason="no_such_entry", **{errors.COMMIT: point.commit}
    )


def _only_main(request: Request, revision: str) -> None:
    if revision != "main" or request.query_params.get("create_pr"):
        raise Unsupported(
            "A model has one line, main; there are no branches and pull requests here.",
            hint="Commit to main, and name the commit with a tag.",
        )


def _is_text(sample: str) -> bool:
    try:
        return b"\0" not in base64.b64decode(sample, validate=True)
    except binascii.Error:
        return False


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid("The request is not JSON.", reason="bad_request") from error
    if not isinstance(value, dict):
        raise Invalid("The request is not a JSON object.", reason="bad_request")
    return value


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise Invalid("The upload broke off.", reason="broken_body") from error
