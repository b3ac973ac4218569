"""The protocol itself, by its SDK: imported with the first request, because it takes half a second and 21 MB."""

import asyncio
import contextlib
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from stratal import __version__
from stratal.gateway.door import principal
from stratal.gateway.in_process import InProcess
from stratal.gateway.mcp.calling import call
from stratal.gateway.mcp.tools import TOOLS

_INSTRUCTIONS = (
    "Stratal: data, jobs, runs, models and endpoints of one project, the one of your key. Begin with search or "
    "list_tables. Reading is free of side effects; submit_job, stop_job and deploy change things, and need a key "
    "with the role editor. A refusal says what to do next."
)


class Serving:
    """Answers requests of the protocol between `start` and `close`, without sessions: each stands for itself."""

    def __init__(self, native: InProcess) -> None:
        self._native = native
        server: Server[Any] = Server(
            "stratal",
            version=__version__,
            title="Stratal",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            async with self._manager.run():
                started.set_result(None)
                await self._ending.wait()

        self._task = asyncio.create_task(run(), name="mcp: sessions")
        await started

    async def close(self) -> None:
        self._ending.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)

    async def _list(self, context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.takes.described(),
                    annotations=types.ToolAnnotations(read_only_hint=not tool.changes, open_world_hint=False),
                )
                for tool in TOOLS
            ]
        )

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        request = context.request
        who = principal(request.scope)
        authorization = request.headers["authorization"].encode("latin-1")
        text, told, refused = await call(
            self._native, authorization, who.project, params.name, params.arguments
        )
        return types.CallToolResult(
            content=[types.TextContent(text=text)], structured_content=told, is_error=refused
        )
