"""Host names of users' content: which those are, how a browser comes in, and what crosses over with a request.

What answers there is users' code, so nothing of the platform's own address is worth anything here, and nothing that
is worth something there is sent on: no console cookie, no key. A browser is let in by a one-time ticket that becomes
a cookie of this one host, and each request says anew, in headers that no page can set, which page made it.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from html import escape
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from stratal.gateway.chain import plain_error
from stratal.identity.visits import VISIT_MS, Visit
from stratal.kernel.errors import Denied, NotFound, StratalError

DEFAULT_DOMAIN = "user.localhost"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
COOKIE = "stratal_visit"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Its name over TLS: what runs at one of these hosts cannot set it for the others. Below ``localhost`` some browsers
keep such a cookie without TLS, too, so there it is set beside the other."""
_KEEPS_IT = re.compile(r"Chrome/(\d{3,4})\.")
"""Chromium, of whatever name, does so: where it brings none, nobody has come in with it."""
ENTER = b"/.stratal/enter"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
_OURS = {"authorization", "cookie", "forwarded", "x-real-ip", "expect"}
_OUR_PREFIXES = ("x-forwarded-", "x-stratal-")
_NOT_BACK = {"server", "date", "strict-transport-security", "service-worker-allowed"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


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


# -- coming in -----------------------------------------------------------------------------------


async def enter(
    request: Request, spend: Callable[[str], Awaitable[str]], *, front: str, secure: bool
) -> Response:
    """Spend the ticket in the address for a cookie, and go to `front`, where people begin.

    The answer redirects, so that the ticket stays in no history entry and in no Referer.
    """
    ticket = parse_qs(request.scope["query_string"].decode("latin-1")).get("ticket", [""])[0][:200]
    looking_ahead = "prefetch" in request.headers.get("sec-purpose", "")
    if request.method != "GET" or not ticket or looking_ahead:
        raise NotFound("There is nothing here.", hint="Open it from the console.")
    value = await spend(ticket)
    response = RedirectResponse(front, 303, headers=PAGE_HEADERS)
    names = {SECURE_COOKIE: True} if secure else {COOKIE: False}
    if _is_below_localhost(request.headers):
        names[SECURE_COOKIE] = True
    for name, marked in names.items():
        line = cookie(name, value, seconds=VISIT_MS // 1000, secure=marked)
        response.headers.append("Set-Cookie", line)
    return response


def is_entering(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["raw_path"] == ENTER)


def visits_of(scope: Scope) -> list[str]:
    """Every value that the client sends for a cookie: more than one when some page set it for all hosts below a domain.

    Where the browser brings a cookie of this very host, or would, only that counts.
    """
    headers = Headers(scope=scope)
    own = _values(headers, SECURE_COOKIE)
    if scope["scheme"] in {"https", "wss"}:
        return own
    keeps_own = _KEEPS_IT.search(headers.get("user-agent", "")) is not None
    if _is_below_localhost(headers) and (own or keeps_own):
        return own
    return _values(headers, COOKIE)


def _values(headers: Headers, name: str) -> list[str]:
    found = []
    for line in headers.getlist("cookie"):
        for pair in line.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name and value:
                found.append(value)
    return found[:5]


def _is_below_localhost(headers: Headers) -> bool:
    return headers.get("host", "").lower().partition(":")[0].endswith(".localhost")


async def visitor(scope: Scope, visit: Callable[[str], Awaitable[Visit]]) -> Visit | None:
    """Whose cookie it is; notes its value in the scope. None: there is no such cookie.

    Raises what `visit` does when none is good, and `Denied` when those that are were several people's: what runs at
    another of these hosts may have set one, and nobody shall act as somebody else without knowing.
    """
    refused: StratalError | None = None
    found: dict[str, Visit] = {}
    for value in visits_of(scope):
        try:
            found[value] = await visit(value)
        except StratalError as error:
            refused = error
    if len({(one.who.kind, one.who.id) for one in found.values()}) > 1:
        raise Denied(
            "This browser brings the visits of several people at once.",
            hint="Remove this site's cookies, and open it again from the console.",
            reason="several_visits",
        )
    for value, one in found.items():
        scope["state"]["visit"] = value
        return one
    if refused is not None:
        raise refused
    return None


def cookie(name: str, value: str, *, seconds: int, secure: bool) -> str:
    """A Set-Cookie line: for this host alone, out of scripts' reach, sent with nobody else's requests."""
    made: SimpleCookie = SimpleCookie()
    made[name] = value
    told = {"path": "/", "httponly": True, "samesite": "Lax", "max-age": seconds, "secure": secure}
    for attribute, said in told.items():
        made[name][attribute] = said
    return made[name].OutputString()


def foreign(what: str) -> Denied:
    """For what a page of another host asked of a visitor's browser."""
    return Denied(
        "A page of another host asked for this.", hint=f"Open the {what} itself.", reason="cross_site"
    )


# -- what crosses over ---------------------------------------------------------------------------


def onward(scope: Scope, cookies: Collection[str]) -> list[tuple[str, str]]:
    """The request's headers that users' code may see: neither keys nor `cookies`, the platform's own, nor what is about
    this connection alone (RFC 9110 §7.6.1)."""
    headers = Headers(scope=scope)
    named = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    kept = [
        (name, value)
        for name, value in headers.items()
        if name not in _HOP and name not in _OURS and name not in named and not name.startswith(_OUR_PREFIXES)
    ]
    crumbs = [
        pair.strip()
        for line in headers.getlist("cookie")
        for pair in line.split(";")
        if pair.strip() and pair.partition("=")[0].strip() not in cookies
    ]
    if crumbs:
        kept.append(("cookie", "; ".join(crumbs)))
    return kept


def back(headers: Iterable[tuple[bytes, bytes]], cookies: Collection[str]) -> list[tuple[bytes, bytes]]:
    """The headers of users' code that its answer may have: no cookie for more than its own host, none of `cookies`."""
    given = list(headers)
    kept: list[tuple[bytes, bytes]] = []
    named = {
        word.strip().lower()
        for name, value in given
        if name.lower() == b"connection"
        for word in value.decode("latin-1").split(",")
    }
    for name, value in given:
        low = name.decode("latin-1").lower()
        if low in _HOP or low in _NOT_BACK or low in named or low.startswith(_OUR_PREFIXES):
            continue
        if low == "set-cookie" and not _may_set(value.decode("latin-1"), cookies):
            continue
        kept.append((low.encode("latin-1"), value))
    return kept


def _may_set(line: str, cookies: Collection[str]) -> bool:
    name, equals, _ = line.partition(";")[0].partition("=")
    attributes = [part.partition("=")[0].strip().lower() for part in line.split(";")[1:]]
    if not (name.strip() and equals):  # comes back as a cookie of the name that its value says
        return False
    return name.strip() not in cookies and "domain" not in attributes


# -- our own answers there -----------------------------------------------------------------------


def page(title: str, text: str, status: int, *, refresh: int = 0) -> Response:
    """A page of ours, which can do nothing; `text` is HTML."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{again}'
        '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
        "body{font:15px/1.5 Inter,system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 24px}"
        f"h1{{font-size:18px}}</style></head><body><h1>{escape(title)}</h1>{text}</body></html>"
    )
    return HTMLResponse(html, status, headers=PAGE_HEADERS)


def refusal(error: StratalError, scope: Scope, console: str) -> Response:
    """An error: a page for people, with the way to the `console`; JSON for everything else."""
    if scope["type"] != "http" or not is_navigation(scope):
        response = plain_error(error, scope)
    else:
        home = f'<p><a href="{escape(console)}">To the console</a></p>'
        response = page(error.message, f"<p>{escape(error.hint)}</p>{home}", error.status)
    if error.status == 401:  # never Basic: a browser would ask for a password, at a host that is anybody's
        response.headers["WWW-Authenticate"] = 'Session realm="Stratal"'
    if "retry_after_seconds" in error.details:
        response.headers["Retry-After"] = str(error.details["retry_after_seconds"])
    return response
