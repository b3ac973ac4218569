"""Requests to functions, and their answers; errors are in the native dialect."""

import asyncio
import base64
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.ai.functions.calling import Answer, Asked, Calling
from stratal.ai.functions.invocations import Invocations
from stratal.ai.functions.live import Live, Registry, no_such_function
from stratal.ai.functions.model import Invocation
from stratal.gateway.bodies import read_body
from stratal.gateway.chain import error_body
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.identity.model import Principal
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unsupported

MAX_BODY = 32 << 20
MOST_SECONDS_OF_WAITING = 55.0

_PATH = re.compile(rb"/f/([^/]+)/([^/]+)(?:/invocations/([^/]+))?\Z")
_WITHHELD = {
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
}
"""Headers that a function is not told: the caller's credentials, and what concerns this connection alone."""
_PASSED = {
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "vary",
}
"""Headers that a function may answer with, beside its own ``X-…``."""
_FENCES = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}


class FunctionsDoor:
    name = "functions"

    def __init__(
        self, authenticate: Authenticator, registry: Registry, calling: Calling, invocations: Invocations
    ) -> None:
        self._authenticate = authenticate
        self._registry = registry
        self._calling = calling
        self._invocations = invocations

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(b"/f/"))

    async def authenticate(self, request: Request) -> Principal | None:
        """A key; none is needed to call a public function and wait for its answer."""
        if "authorization" not in request.headers and _wants_answer(request.scope):
            found = _PATH.match(request.scope["raw_path"])
            if found and not found[3] and self._registry.public(_text(found[1]), _text(found[2])) is not None:
                return None
        return await self._authenticate(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.match(scope["raw_path"])
        if found is None:
            raise NotFound(
                "There is nothing at this address.",
                hint="Functions are at /f/PROJECT/NAME.",
                reason="no_such_route",
            )
        project, name = _text(found[1]), _text(found[2])
        who: Principal | None = scope["state"]["who"]
        live = self._registry.named(project, name)
        if live is None or (
            who is not None and not who.is_admin and who.project_id != live.function.project_id
        ):
            raise no_such_function(name)
        if who is None:
            scope["state"]["public_of"] = live.function.project_id
        if found[3]:
            _only(scope, "GET")
            response = await self._result(scope, live, _text(found[3]))
            await response(scope, receive, send)
            return
        _only(scope, "POST")
        body = await read_body(scope, receive, MAX_BODY)
        asked = _asked(scope, body)
        if _wants_answer(scope):
            await self._call(who, live, asked, receive, send)
            return
        made = await self._invocations.submit(principal(scope), live, asked)
        url = f"/f/{project}/{name}/invocations/{made.id}"
        headers = {"Location": url, "X-Stratal-Invocation-Id": made.id}
        response = _json({"id": made.id, "state": made.state, "url": url}, 202, headers)
        await response(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        headers = {}
        if "retry_after_seconds" in error.details:
            headers["Retry-After"] = str(error.details["retry_after_seconds"])
        if "invocation_id" in error.details:
            headers["X-Stratal-Invocation-Id"] = str(error.details["invocation_id"])
        return _json(error_body(error, scope), error.status, headers)

    # -- calling -------------------------------------------------------------------------------

    async def _call(
        self, who: Principal | None, live: Live, asked: Asked, receive: Receive, send: Send
    ) -> None:
        answer = await self._calling.invoke(who, live, asked)
        sending = asyncio.ensure_future(_send(answer, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await asyncio.shield(answer.close())

    async def _result(self, scope: Scope, live: Live, invocation_id: str) -> Response:
        who = principal(scope)
        wait = dict(_query(scope)).get("wait", "0")
        if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", wait, re.ASCII):
            raise Invalid("`wait` is a number of seconds.", reason="bad_wait")
        if float(wait):
            await self._invocations.get(
                who,
                live.function.project_id,
                live.function.name,
                invocation_id,
                wait_seconds=min(float(wait), MOST_SECONDS_OF_WAITING),
            )
        found, result = await self._invocations.result(who, live, invocation_id)
        return _json(told(found, result), 200 if found.state.ended else 202)


async def _send(answer: Answer, send: Send) -> None:
    start = answer.start
    headers = [(b"x-stratal-invocation-id", answer.invocation_id.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in _FENCES.items()]
    headers += _headers(start.headers)
    if start.length is not None:
        headers.append((b"content-length", b"%d" % start.length))
    chunks = answer.chunks()
    first = (
        await anext(chunks, b"") if start.length is not None else b""
    )  # an empty answer's head is its last byte
    await send({"type": "http.response.start", "status": start.status, "headers": headers})
    if first:
        await send({"type": "http.response.body", "body": first, "more_body": True})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Wait until the client is gone (its whole body was read before)."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(said: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The function's own headers that may pass."""
    passed = []
    for name, value in said.items():
        own = name.startswith("x-") and not name.startswith(
            ("x-stratal", "x-request-id", "x-content-type", "x-frame")
        )
        if (name in _PASSED or own) and re.fullmatch(r"[a-z0-9-]{1,100}", name):
            clean = value.encode("latin-1", "replace")
            if len(clean) <= 8192 and not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", clean):
                passed.append((name.encode(), clean))
    return passed


def told(found: Invocation, result: bytes | None) -> dict[str, object]:
    """An invocation with its result: as JSON where it is that, else in base64."""
    said: dict[str, object] = {
        "id": found.id,
        "state": found.state,
        "status": found.status,
        "attempt": found.attempt,
        "error": found.error,
        "created_at": iso(found.created_at),
        "ended_at": None if found.ended_at is None else iso(found.ended_at),
    }
    if result is None:
        return said
    said["result_type"] = found.result_type
    if found.result_type.startswith("application/json"):
        return said | {"result": orjson.Fragment(result)}
    return said | {"result_base64": base64.b64encode(result).decode()}


# -- what was sent -------------------------------------------------------------------------------


def _asked(scope: Scope, body: bytes) -> Asked:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    shown = {
        name: value for name, value in headers.items() if name not in _WITHHELD and name != "content-encoding"
    }
    query = urlencode([(name, value) for name, value in _query(scope) if name != "async"])
    return Asked(body, headers.get("content-type", ""), query, shown)


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _wants_answer(scope: Scope) -> bool:
    return dict(_query(scope)).get("async", "0").lower() not in {"1", "true", "yes", ""}


def _text(part: bytes) -> str:
    return unquote_to_bytes(part).decode(errors="backslashreplace")


def _only(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise _NotAllowed(f"{scope['method']} is not offered at this address; {method} is.")


class _NotAllowed(Unsupported):
    code, status = "method_not_allowed", 405


def _json(content: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, {**_FENCES, **(headers or {})}, "application/json")
