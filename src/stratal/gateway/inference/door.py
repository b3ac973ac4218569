"""The Open Inference door: its addresses, and its dialect of errors (``{"error": "…"}``)."""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal import __version__
from stratal.ai.endpoints.scoring import parse_json
from stratal.ai.endpoints.serving import Served, Serving
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.gateway.inference import codec
from stratal.gateway.traffic_key import traffic_key
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unsupported

MAX_BODY = 32 << 20
_HEALTH = (b"/v2/health/live", b"/v2/health/ready")
_MODEL = re.compile(rb"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/([a-z_]+))?/?\Z")
_UNOFFERED = re.compile(
    rb"/v2/(?:models/|repository/models/|systemsharedmemory|cudasharedmemory|trace|logging)"
)


class InferenceDoor:
    name = "inference"

    def __init__(self, authenticate: Authenticator, serving: Serving) -> None:
        self._authenticate = authenticate
        self._serving = serving

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(b"/v2/") or scope["raw_path"] == b"/v2")

    async def authenticate(self, request: Request) -> Principal | None:
        """A key, except for the two addresses that probes ask without one."""
        if request.scope["raw_path"] in _HEALTH:
            return None
        return await self._authenticate(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(scope, receive)
        await response(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        headers = {}
        if "retry_after_seconds" in error.details:
            headers["Retry-After"] = str(error.details["retry_after_seconds"])
        return _json({"error": str(error)}, error.status, headers)

    # -- addresses -----------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path: bytes = scope["raw_path"]
        method: str = scope["method"]
        match = _MODEL.match(path)
        if match is not None:
            name, version, verb = (None if part is None else _text(part) for part in match.groups())
            assert name is not None
            if verb == "infer":
                _only(method, "POST")
                return await self._infer(scope, receive, name, version)
            if verb in (None, "ready"):
                _only(method, "GET", "HEAD")
                served = self._serving.describe(principal(scope), principal(scope).project_id, name, version)
                return _ready(served) if verb == "ready" else _json(_metadata(served))
        if path in _HEALTH:
            return _json({"live": True} if path.endswith(b"live") else {"ready": True})
        if path.rstrip(b"/") == b"/v2":
            return _json({"name": "stratal", "version": __version__, "extensions": ["binary_tensor_data"]})
        if path == b"/v2/repository/index":
            return await self._index(scope, receive)
        if _UNOFFERED.match(path):
            raise Unsupported(
                "This part of the protocol is not offered here.",
                hint="Endpoints are made with: stratal deploy",
                reason="unsupported",
            )
        raise NotFound("There is nothing at this address.", reason="no_such_route")

    async def _infer(self, scope: Scope, receive: Receive, name: str, version: str | None) -> Response:
        who = principal(scope)
        body = await read_body(scope, receive, MAX_BODY)
        asked = await beside(len(body), codec.read, body, _header_length(scope))
        answer = await self._serving.infer(
            who,
            who.project_id,
            name,
            asked.inputs,
            asked.outputs,
            request_id=scope["state"]["request_id"],
            traffic_key=traffic_key(scope, asked.id),
            version=version,
        )
        size = sum(len(tensor.data) for tensor in answer.outputs)
        content, header_length = await beside(
            size, codec.write, asked, name, answer.model_version, answer.prediction_id, answer.outputs
        )
        headers = {"X-Stratal-Prediction-Id": answer.prediction_id, "X-Stratal-Runtime": answer.runtime}
        if header_length is None:
            return Response(content, 200, headers, "application/json")
        headers["Inference-Header-Content-Length"] = str(header_length)
        return Response(content, 200, headers, "application/octet-stream")

    async def _index(self, scope: Scope, receive: Receive) -> Response:
        """Every endpoint of the project; with ``{"ready": true}`` only those that answer."""
        _only(scope["method"], "POST", "GET")
        who = principal(scope)
        body = await read_body(scope, receive, 1 << 16)
        asked = parse_json(body) if body.strip() else {}
        served = self._serving.served(who, who.project_id)
        if isinstance(asked, dict) and asked.get("ready") is True:
            served = [endpoint for endpoint in served if endpoint.answers]
        return _json([_listed(endpoint) for endpoint in served])


def _header_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == codec.HEADER_LENGTH:
            if not value.isdigit() or len(value) > 12:
                raise Invalid("Inference-Header-Content-Length is not a length.", reason="bad_request")
            return int(value)
    return None


def _text(part: bytes) -> str:
    return unquote_to_bytes(part).decode(errors="backslashreplace")


def _only(method: str, *methods: str) -> None:
    if method not in methods:
        raise _NotAllowed(f"{method} is not offered at this address; {' and '.join(methods)} is.")


class _NotAllowed(Unsupported):
    code, status = "method_not_allowed", 405


def _ready(served: Served) -> Response:
    """200 when a request would be answered now, at zero too; else 503 with the reason."""
    if served.answers:
        return _json({"name": served.name, "ready": True})
    return _json({"name": served.name, "ready": False, "error": served.reason}, 503)


def _metadata(served: Served) -> dict[str, object]:
    interface = served.interface or {}
    return {
        "name": served.name,
        "versions": list(served.model_versions),
        "platform": f"stratal_{served.runtime}",
        "inputs": interface.get("inputs", []),
        "outputs": interface.get("outputs", []),
        "parameters": {
            "columns": interface.get("columns"),
            "classes": interface.get("classes"),
            "revision": served.revision_number,
        },
    }


def _listed(served: Served) -> dict[str, str]:
    state = "READY" if served.answers else "LOADING" if served.reason == "loading" else "UNAVAILABLE"
    return {"name": served.name, "version": served.model_version, "state": state, "reason": served.reason}


def _json(
    content: dict[str, object] | Sequence[object], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
