"""The native API as the console's pages ask it: as a browser on a page of ours does, in this process."""

from collections.abc import Mapping
from typing import Any

from stratal.gateway.in_process import InProcess


class AsBrowser:
    """Sends requests with the viewer's cookie and nothing else."""

    def __init__(self, native: InProcess, cookie_name: str) -> None:
        self._native = native
        self._cookie_name = cookie_name

    async def __call__(
        self, method: str, path: str, params: Mapping[str, object] | None, cookie: str | None
    ) -> tuple[int, Any]:
        headers = [(b"sec-fetch-site", b"same-origin")]
        if cookie is not None:
            headers.append((b"cookie", f"{self._cookie_name}={cookie}".encode("latin-1", "replace")))
        query, body = (params, None) if method == "GET" else (None, params)
        reply = await self._native.ask(method, path, headers=headers, query=query, body=body)
        return reply.status, reply.content
