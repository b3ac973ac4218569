"""The door's routes. A path is split before it is decoded, since names may hold any character.

What MLflow has and this platform has not (traces, gateways, scorers …) is answered ``NOT_IMPLEMENTED``,
which its clients understand; anything else is ``ENDPOINT_NOT_FOUND``.
"""

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.gateway.bodies import read_body
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.gateway.mlflow import errors
from stratal.gateway.mlflow.artifacts import ArtifactRoutes, no_multipart
from stratal.gateway.mlflow.logged_models import LoggedModelRoutes
from stratal.gateway.mlflow.registry import RegistryRoutes
from stratal.gateway.mlflow.tracking import MAX_BATCH_BYTES, Tracking
from stratal.gateway.mlflow.wire import Call, Fields, Handler, Json
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, NotFound, StratalError, TooLarge, Unsupported

SPOKEN_VERSION = "3.17.2"
"""The release of MLflow whose client this door is tested with; clients ask for it."""

_API = (b"/api/2.0/", b"/api/2.1/", b"/api/3.0/", b"/api/4.0/")
_FAMILIES = (b"mlflow/", b"mlflow-artifacts/", b"preview/mlflow/")
_OPEN = {b"/version", b"/health"}
_OTLP = b"/v1/traces"
_PROXY = ["mlflow-artifacts", "artifacts"]
_MAX_BODY = 32 * 1024 * 1024
_NOT_HERE = {
    "traces",
    "unified-traces",
    "get-online-trace-details",
    "assessments",
    "datasets",
    "scorers",
    "gateway",
    "webhooks",
    "issues",
    "label-schemas",
    "review-queues",
    "workspaces",
    "prompt-optimization",
    "mcp-servers",
    "presigned",
}


class MlflowDoor:
    name = "mlflow"

    def __init__(
        self,
        authenticate: Authenticator,
        tracking: Tracking,
        artifacts: ArtifactRoutes,
        logged_models: LoggedModelRoutes,
        registry: RegistryRoutes,
    ) -> None:
        self._bearer = authenticate
        self._artifacts = artifacts
        routes = {
            **tracking.routes(),
            **artifacts.routes(),
            **logged_models.routes(),
            **registry.routes(),
            ("GET", "mlflow/server-info"): _server_info,
            ("GET", "mlflow/server-features"): _server_info,
        }
        self._routes: dict[tuple[str, int], list[tuple[Sequence[str], Handler]]] = {}
        for (method, template), handler in routes.items():
            parts = template.split("/")
            self._routes.setdefault((method, len(parts)), []).append((parts, handler))

    def matches(self, scope: Scope) -> bool:
        path: bytes = scope["raw_path"]
        if path in _OPEN:
            return scope["method"] in {"GET", "HEAD"}
        if path.startswith(_API):
            return path.split(b"/", 3)[3].startswith(_FAMILIES)
        return path in {_OTLP, b"/get-artifact"}

    async def authenticate(self, request: Request) -> Principal | None:
        if request.scope["raw_path"] in _OPEN:
            return None
        return await self._bearer(request)

    def error(self, error: StratalError, scope: Scope) -> Response:
        if scope["method"] == "HEAD":
            return Response(status_code=error.status)
        return errors.answer(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["raw_path"] in _OPEN:
            text = SPOKEN_VERSION if scope["raw_path"] == b"/version" else "OK"
            await PlainTextResponse(text)(scope, receive, send)
            return
        response = await self._answer(request, _segments(scope["raw_path"]))
        await response(scope, receive, send)

    async def _answer(self, request: Request, segments: list[str]) -> Response:
        who = principal(request.scope)
        if segments[:2] == _PROXY and len(segments) > 2:
            return await self._artifacts.proxy(who, request, "/".join(segments[2:]))
        handler, path = self._find(request.method, segments)
        fields = (
            Fields.of_query(request.query_params)
            if request.method == "GET"
            else await _fields(request, segments)
        )
        answer = await handler(Call(who, fields, path, request))
        return answer if isinstance(answer, Response) else _json(answer)

    def _find(self, method: str, segments: list[str]) -> tuple[Handler, dict[str, str]]:
        best: tuple[Handler, dict[str, str]] | None = None
        for parts, handler in self._routes.get((method, len(segments)), ()):
            path = _match(parts, segments)
            if path is not None and (best is None or len(path) < len(best[1])):
                best = handler, path
        if best is not None:
            return best
        if segments[:2] in (["mlflow-artifacts", "mpu"], ["mlflow-artifacts", "presigned"]):
            raise no_multipart()
        shown = "/".join(segments)[:200]
        if segments[:1] == ["v1"] or (len(segments) > 1 and segments[1] in _NOT_HERE):
            raise Unsupported(f"{method} {shown} is a part of MLflow that this platform does not have.")
        raise NotFound(f"There is no {method} {shown} here.", reason="no_such_route")


async def _server_info(call: Call) -> Json:
    """What clients ask before they use what only some servers have."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
    }


async def _fields(request: Request, segments: list[str]) -> Fields:
    """The message: of the body, or of the query where there is no body (some clients DELETE that way)."""
    limit = MAX_BATCH_BYTES if segments == ["mlflow", "runs", "log-batch"] else _MAX_BODY
    try:
        body = await read_body(request.scope, request.receive, limit)
    except TooLarge as error:
        if limit != MAX_BATCH_BYTES:
            raise
        raise Invalid(
            f"A batch's request has at most {MAX_BATCH_BYTES} bytes.", hint="Send smaller batches."
        ) from error
    if not body.strip() and request.url.query:
        return Fields.of_query(request.query_params)
    return Fields.of_body(body)


def _segments(raw_path: bytes) -> list[str]:
    """The parts of the path below ``/api/2.0``, each decoded. Raises `Invalid` for what is not UTF-8."""
    path = raw_path.removeprefix(b"/")
    if raw_path.startswith(_API):
        path = raw_path.split(b"/", 3)[3].removeprefix(b"preview/")
    try:
        return [unquote_to_bytes(part).decode() for part in path.split(b"/")]
    except UnicodeDecodeError as error:
        raise Invalid("The path is not UTF-8.", reason="bad_path") from error


def _match(parts: Sequence[str], segments: list[str]) -> dict[str, str] | None:
    path: dict[str, str] = {}
    for part, segment in zip(parts, segments, strict=True):
        if part.startswith("{"):
            path[part[1:-1]] = segment
        elif part != segment:
            return None
    return path


def _json(value: Json) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
