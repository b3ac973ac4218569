"""What keeps a page from being used against the person looking at it."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src data:; font-src 'self'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def harden(headers: MutableHeaders) -> None:
    """Set the headers that every answer of the console carries; pages are never kept by caches."""
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")


def same_origin(request: Request) -> bool:
    """Does a form come from one of our own pages? Browsers say so in headers that no page can set.

    A client that sends neither header is no browser, and so carries nobody's cookie but its own.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


def safe_next(target: str | None) -> str:
    """Where to go after signing in: a path of this very console, else the front page.

    ``//host`` and ``/\\host`` name other hosts to a browser, and control characters are stripped by it
    before it looks, so all of these are refused.
    """
    if not target or not target.startswith("/") or target.startswith(("//", "/login", "/logout", "/invite")):
        return "/"
    if "\\" in target or any(ord(character) < 0x21 or ord(character) == 0x7F for character in target):
        return "/"
    return target


def is_preview(request: Request) -> bool:
    """Is this a machine looking ahead (a link preview, a prefetch) rather than a person following a link?"""
    headers = request.headers
    if any(name in headers for name in ("sec-purpose", "purpose", "x-purpose", "x-moz")):
        return True
    agent = headers.get("user-agent", "").lower()
    return any(word in agent for word in _PREVIEWERS)


def is_from_elsewhere(request: Request) -> bool:
    """Did a page of another site lead here?"""
    return request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}


_PREVIEWERS = (
    "bot",
    "preview",
    "externalhit",
    "whatsapp",
    "crawler",
    "spider",
    "embed",
    "scanner",
    "unfurl",
    "slack-imgproxy",
)
