"""Which host names are users' content, and which page a request was made by."""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

DEFAULT_DOMAIN = "user.localhost"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_SAFE = {"GET", "HEAD", "OPTIONS"}


class UserHosts:
    """The host names directly below one domain, on whatever port."""

    def __init__(self, domain: str) -> None:
        self.domain = domain.lower().strip(".")

    def label(self, scope: Scope) -> str | None:
        """The first part of the host name, when the rest is the domain; None for every other host."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return None
        host = hosts[0].decode("latin-1").lower()
        name, colon, port = host.partition(":")
        if colon and not port.isdecimal():
            return None
        label, dot, rest = name.partition(".")
        return label if dot and rest == self.domain and _LABEL.match(label) else None

    def url(self, label: str, address: str) -> str:
        """The address of a label's host, for people; `address` is the platform's own."""
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{label}.{self.domain}{port}"


def is_own(scope: Scope) -> bool:
    """Was this request made by a page of the very host that it goes to, or by a person's own hand?

    Browsers say so in headers that no page can set. Reading may also begin with a link from elsewhere, as long as
    that opens a whole page: nobody else's page can look into it.
    """
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if scope["type"] == "websocket":
        return origin is not None and _same(origin, headers)
    if scope["method"] in _SAFE:
        if site is None or site in {"same-origin", "none"}:
            return origin is None or _same(origin, headers)
        return is_navigation(scope)
    if origin is not None:
        return _same(origin, headers)
    return site in {"same-origin", "none"}


def is_navigation(scope: Scope) -> bool:
    """Does a browser open a whole page?"""
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    headers = Headers(scope=scope)
    mode = headers.get("sec-fetch-mode")
    if mode is None:
        return "text/html" in headers.get("accept", "")
    return mode == "navigate" and headers.get("sec-fetch-dest") == "document"


def _same(origin: str, headers: Headers) -> bool:
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
