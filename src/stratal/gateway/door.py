"""What a door is, and what doors share: HTTP requests and answers, nothing of any protocol."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.identity.model import Principal
from stratal.kernel.errors import StratalError


class Door(Protocol):
    """One protocol at the one address.

    The chain asks doors in order whether a request is theirs, has the first that says yes
    `authenticate` it (the default door credential check is `Authenticator`), stores the principal in
    ``scope["state"]["who"]`` and the request's id in ``scope["state"]["request_id"]``, and calls it as
    an ASGI application. A `StratalError` that escapes becomes the answer through `error`.
    """

    name: str

    def matches(self, scope: Scope) -> bool:
        """Is this request this door's? Looks at the raw path, the query and headers only."""
        ...

    async def authenticate(self, request: Request) -> Principal | None:
        """Who asks; None for what the door answers to anybody. Raises `Unauthenticated`."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def error(self, error: StratalError, scope: Scope) -> Response:
        """The error in the door's own dialect, with its status."""
        ...


def principal(scope: Scope) -> Principal:
    """The caller whom the chain authenticated. Only for doors that never let anybody in without."""
    who = scope["state"]["who"]
    if not isinstance(who, Principal):  # a door that lets strangers in must look at the state itself
        raise RuntimeError("a door asked for a principal that the chain did not set")
    return who
