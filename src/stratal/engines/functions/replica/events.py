"""What a handler is given, and what becomes of what it returns."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class BadInput(Exception):
    """The input is not what its content type says."""


class Context:
    """The optional second argument of a handler: everything about a call that is not its event.

    `status` and `headers_out` may be set before the handler returns (or yields first).
    """

    def __init__(self, plan: Mapping[str, Any], asked: Mapping[str, Any], body: bytes) -> None:
        self.invocation_id: str = asked["id"]
        self.attempt: int = asked["attempt"]
        self.trigger: str = asked["trigger"]
        self.function: str = plan["function"]
        self.project: str = plan["project"]
        self.revision: int = plan["revision"]
        self.caller: str | None = asked["caller"]
        self.content_type: str = asked["content_type"]
        self.headers: dict[str, str] = dict(asked["headers"])
        self.query_string: str = asked["query"]
        self.query: dict[str, str] = dict(urllib.parse.parse_qsl(self.query_string, keep_blank_values=True))
        self.body = body
        self.timeout_seconds: float = plan["timeout"]
        self.deadline: float = time.time() + self.timeout_seconds
        self.status = 200
        self.headers_out: dict[str, str] = {}

    def remaining(self) -> float:
        """Seconds until the call is ended."""
        return max(0.0, self.deadline - time.time())


def event_of(content_type: str, body: bytes) -> Any:
    """The handler's first argument: ``docs/functions.md`` says what each content type gives. Raises `BadInput`."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return None
    if kind == "application/json" or kind.endswith("+json"):
        return _json(body)
    if kind == "application/x-www-form-urlencoded":
        return _form(body)
    if kind.startswith("text/"):
        return _text(body)
    if not kind:
        with contextlib.suppress(BadInput):
            return _json(body)
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The body is not JSON: {error}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadInput("The body is not text in UTF-8.") from None


def _form(body: bytes) -> Any:
    """What a form sends; or the JSON that ``curl -d`` sends under a form's name."""
    if body.lstrip()[:1] in (b"{", b"["):
        with contextlib.suppress(BadInput):
            return _json(body)
    return dict(urllib.parse.parse_qsl(_text(body), keep_blank_values=True))


JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
LINES = "application/x-ndjson"


def answer_of(value: Any) -> tuple[bytes, str]:
    """A returned value as bytes and their content type. Raises `TypeError` or `ValueError` when it is no JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), BYTES
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), JSON


def piece_of(value: Any) -> tuple[bytes, str]:
    """A yielded value as bytes, and the content type of a stream that begins with it."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), BYTES
    if isinstance(value, str):
        return value.encode(), TEXT
    return answer_of(value)[0] + b"\n", LINES


def start_of(context: Context, content_type: str, length: int | None) -> bytes:
    """The `START` frame's body. Raises `TypeError` or `ValueError` for a status or headers that make no sense."""
    status = context.status
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"context.status is {status!r}; an answer's status is 200 to 599")
    headers = {"content-type": content_type}
    for name, value in dict(context.headers_out).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("context.headers_out holds text only")
        headers[name.lower()] = value
    return json.dumps({"status": status, "headers": headers, "length": length}).encode()
