"""What a caller says that its request belongs to, so that one revision of an endpoint answers all of it."""

from starlette.types import Scope

MAX_KEY = 1024
_HEADERS = (b"x-stratal-traffic-key", b"x-request-id")


def traffic_key(scope: Scope, own_id: str | None = None) -> str | None:
    """The header ``X-Stratal-Traffic-Key``, else ``X-Request-Id``, else the id in the request itself; cut at 1 KiB."""
    for wanted in _HEADERS:
        for name, value in scope["headers"]:
            if name == wanted:
                return str(value[:MAX_KEY], "latin-1")
    return None if own_id is None else own_id[:MAX_KEY]
