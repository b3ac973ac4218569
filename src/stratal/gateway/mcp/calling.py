"""Calling a tool: its arguments checked, its requests made with the caller's key, its answer or refusal put in words."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from stratal.gateway.in_process import InProcess
from stratal.gateway.mcp.arguments import checked
from stratal.gateway.mcp.tools import TOOLS
from stratal.kernel.errors import NotFound, StratalError

log = logging.getLogger("stratal.gateway.mcp")

MOST_TEXT = 512 << 10
_BY_NAME = {tool.name: tool for tool in TOOLS}


class Refused(Exception):
    """The native API said no."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message", "")))
        self.error = error


class CallersApi:
    """The native API with one caller's Authorization header."""

    def __init__(self, native: InProcess, authorization: bytes) -> None:
        self._native = native
        self._headers = [(b"authorization", authorization)]

    async def get(self, path: str, *, last: int | None = None, **query: object) -> Any:
        return await self._ask("GET", path, query=query, last=last)

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        return await self._ask("POST", path, body=body)

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        reply = await self._native.ask(method, f"/api/v1{path}", headers=self._headers, **more)
        if reply.status < 400:
            return reply.content if reply.is_json else reply.body.decode("utf-8", "replace")
        content = reply.content
        error = content.get("error") if isinstance(content, dict) else None
        raise Refused(error if isinstance(error, dict) else {"message": f"It answered {reply.status}."})


async def call(
    native: InProcess, authorization: bytes, project: str, name: str, arguments: dict[str, Any] | None
) -> tuple[str, dict[str, Any] | None, bool]:
    """The answer as text, as an object where it is one, and whether it is a refusal."""
    try:
        tool = _BY_NAME.get(name)
        if tool is None:
            raise NotFound(
                f"There is no tool {name[:100]!r}.", hint="tools/list has them all.", reason="no_such_tool"
            )
        asked = checked(tool.takes, arguments)
        api = CallersApi(native, authorization)
        told = await tool.call(api, f"/projects/{quote(project, safe='')}", asked)
    except Refused as refused:
        return _refusal(refused.error)
    except StratalError as error:
        return _refusal({"code": error.reason, "message": error.message, "hint": error.hint})
    if isinstance(told, str):
        return told, None, False
    text = orjson.dumps(told).decode()
    if len(text) > MOST_TEXT:
        return _refusal(
            {
                "code": "too_large",
                "message": f"The answer has {len(text) >> 10} KiB; at most {MOST_TEXT >> 10} are given.",
                "hint": "Ask for less: fewer rows or columns, or a smaller limit.",
            }
        )
    return text, told if isinstance(told, dict) else {"answer": told}, False


def _refusal(error: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
    told = {name: error.get(name) or "" for name in ("code", "message", "hint")}
    text = f"{told['message']} {told['hint']}".strip() + f" ({told['code']})"
    return text, {"error": told}, True
