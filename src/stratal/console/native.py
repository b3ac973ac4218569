"""The console's only source of truth: the native API, called with the viewer's cookie."""

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

Json = dict[str, Any]


class Call(Protocol):
    """One request to the native API, in this process or over the network.

    `path` begins with ``/api/v1`` and is percent-encoded. `params` are the query of a GET and the JSON
    body of a POST. Answers the HTTP status and the decoded JSON (None when there is none).
    """

    async def __call__(
        self, method: str, path: str, params: Mapping[str, object] | None, cookie: str | None
    ) -> tuple[int, Any]: ...


class Refused(Exception):
    """The native API said no: its status, stable code, message, what to do next, and the request's id."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.request_id = request_id


class Native:
    """The native API as one viewer sees it. Paths are relative to ``/api/v1``; methods raise `Refused`."""

    def __init__(self, call: Call, cookie: str | None) -> None:
        self._call = call
        self._cookie = cookie

    async def get(self, path: str, /, **query: str | int | bool | None) -> Json:
        """GET; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return await self._ask("GET", path, given)

    async def post(self, path: str, body: Mapping[str, object]) -> Json:
        return await self._ask("POST", path, body)

    async def attempt(self, path: str, /, **query: str | int | bool | None) -> "Json | Refused":
        """GET for one part of a page: what was refused is shown in its place and spoils nothing else.

        A missing sign-in is the whole page's matter, so that is raised.
        """
        try:
            return await self.get(path, **query)
        except Refused as refused:
            if refused.status == 401:
                raise
            return refused

    async def _ask(self, method: str, path: str, params: Mapping[str, object]) -> Json:
        status, answer = await self._call(method, f"/api/v1{path}", params, self._cookie)
        if status < 400:
            return answer if isinstance(answer, dict) else {}
        error = answer.get("error") if isinstance(answer, dict) else None
        said: Json = error if isinstance(error, dict) else {}
        raise Refused(
            status,
            str(said.get("code", "unexpected")),
            str(said.get("message") or f"The platform answered with status {status}."),
            str(said.get("hint") or ""),
            str(said.get("request_id") or ""),
        )


def segment(value: str) -> str:
    """`value` as one segment of a URL's path."""
    return quote(value, safe="")
