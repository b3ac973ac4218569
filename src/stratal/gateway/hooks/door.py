"""A signed delivery runs a deployed pipeline."""

import re
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.data.pipelines.deployed import Deployments
from stratal.data.pipelines.hooks import delivery_of
from stratal.gateway.bodies import read_body
from stratal.gateway.chain import plain_error
from stratal.identity.model import Principal
from stratal.kernel.errors import StratalError, Unsupported

MOST_BYTES = 1024 * 1024
_PATH = re.compile(rb"/hooks/([^/]+)/([^/]+)\Z")


class HooksDoor:
    name = "hooks"

    def __init__(self, deployed: Deployments) -> None:
        self._deployed = deployed

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(b"/hooks/"))

    async def authenticate(self, request: Request) -> Principal | None:
        """Nobody is asked for a key: the delivery's signature says who sent it."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.match(scope["raw_path"])
        if found is None or scope["method"] != "POST":
            raise Unsupported("A delivery is POST /hooks/PROJECT/PIPELINE.", reason="no_such_operation")
        delivery = delivery_of(Headers(scope=scope), await read_body(scope, receive, MOST_BYTES))
        project, name = (unquote_to_bytes(part).decode(errors="replace") for part in found.groups())
        run_id, again = await self._deployed.deliver(project, name, delivery)
        await JSONResponse({"run": run_id, "again": again}, 200 if again else 202)(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        return plain_error(error, scope)
