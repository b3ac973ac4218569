"""Liveness and readiness."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.gateway.chain import plain_error
from stratal.identity.model import Principal
from stratal.kernel.errors import StratalError

_PATHS = (b"/healthz", b"/readyz")


class OperationsDoor:
    """`checks` name what must be there before the server is ready: each returns True when it is."""

    name = "operations"

    def __init__(self, checks: dict[str, Callable[[], bool]]) -> None:
        self._checks = checks

    def matches(self, scope: Scope) -> bool:
        return scope["raw_path"] in _PATHS and scope["method"] in {"GET", "HEAD"}

    async def authenticate(self, request: Request) -> Principal | None:
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/healthz":
            await JSONResponse({"status": "ok"})(scope, receive, send)
            return
        results = {name: check() for name, check in self._checks.items()}
        ready = all(results.values())
        body = {"status": "ready" if ready else "starting", "checks": results}
        await JSONResponse(body, 200 if ready else 503)(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        return plain_error(error, scope)
