"""Artifacts: listed by run, and through the proxy, up and down, streamed."""

import mimetypes
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stratal.collab.artifacts import Artifacts
from stratal.collab.model import Artifact, Entry
from stratal.gateway.mlflow.wire import Call, Json, Routes
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, Unsupported

_NO_MULTIPART = "Multipart upload is not supported for the current artifact repository"


class ArtifactRoutes:
    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def routes(self) -> Routes:
        return {
            ("GET", "mlflow/artifacts/list"): self.list_of_run,
            ("GET", "mlflow-artifacts/artifacts"): self.list_at,
            ("GET", "get-artifact"): self.download_of_run,
        }

    async def list_of_run(self, call: Call) -> Json:
        """Paths in the answer are relative to the run's directory."""
        location = await self._of_run(call)
        directory = call.fields.text("path").strip("/")
        root, entries = await self._artifacts.entries(
            call.who, call.project_id, f"{location}/{directory}" if directory else location
        )
        return {"root_uri": f"mlflow-artifacts:/{root.location}", "files": file_infos(entries)}

    async def list_at(self, call: Call) -> Json:
        """Paths in the answer are names within the directory asked for."""
        location = call.fields.text("path").strip("/")
        _, entries = await self._artifacts.entries(call.who, call.project_id, location)
        named = [Entry(entry.path.rsplit("/", 1)[-1], entry.size) for entry in entries]
        return {"files": file_infos(named)}

    async def download_of_run(self, call: Call) -> Response:
        path = call.fields.required("path")
        return await self.download(call.who, f"{await self._of_run(call)}/{path}")

    async def proxy(self, who: Principal, request: Request, location: str) -> Response:
        """One file at its location: GET, HEAD, PUT or DELETE (also a directory)."""
        if request.method == "GET":
            return await self.download(who, location)
        if request.method == "HEAD":
            found = await self._artifacts.find(who, who.project_id, location)
            return Response(headers=_headers(found), media_type=_media_type(found))
        if request.method == "PUT":
            encoding = request.headers.get("content-encoding", "identity").lower()
            if encoding not in {"identity", ""}:
                raise Unsupported(f"A file is stored as it is sent, not {encoding[:40]!r}-encoded.")
            await self._artifacts.put(who, who.project_id, location, _body(request))
        elif request.method == "DELETE":
            await self._artifacts.delete(who, who.project_id, location)
        else:
            raise Unsupported(f"{request.method} is not offered here.")
        return Response(b"{}", media_type="application/json")

    async def download(self, who: Principal, location: str) -> Response:
        """A file's bytes, never to be shown by a browser as a page of this address."""
        found = await self._artifacts.get(who, who.project_id, location)
        return StreamingResponse(
            found.body, headers=_headers(found.artifact), media_type=_media_type(found.artifact)
        )

    async def _of_run(self, call: Call) -> str:
        run_id = call.fields.required("run_id", "run_uuid")
        return await self._artifacts.location_of(call.who, call.project_id, run_id)


def no_multipart() -> Unsupported:
    """What clients that offer to upload in parts recognise, and then send the file whole."""
    return Unsupported(_NO_MULTIPART)


def file_infos(entries: Sequence[Entry]) -> list[Json]:
    """A listing on the wire."""
    return [
        {"path": entry.path, "is_dir": True}
        if entry.size is None
        else {"path": entry.path, "is_dir": False, "file_size": entry.size}
        for entry in entries
    ]


def _headers(file: Artifact) -> dict[str, str]:
    return {
        "Content-Length": str(file.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(_name(file), safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _media_type(file: Artifact) -> str:
    return mimetypes.guess_type(_name(file))[0] or "application/octet-stream"


def _name(file: Artifact) -> str:
    return file.path.rsplit("/", 1)[-1]


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises `Invalid` when it breaks off, so that no part of a file is kept."""
    announced = request.headers.get("content-length")
    size = 0
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Invalid("The upload broke off.", reason="broken_body")
        chunk = message.get("body", b"")
        size += len(chunk)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            break
    if announced is not None and announced.isdecimal() and size != int(announced):
        raise Invalid(f"{size} bytes arrived where {announced} were announced.", reason="broken_body")
