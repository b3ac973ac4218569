"""Published reports. The page runs nothing, loads nothing, frames nothing, and tells no other site its address."""

import base64
import hashlib
import re

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.collab.reports.rendering import page
from stratal.collab.reports.service import Reports
from stratal.gateway.chain import plain_error
from stratal.identity.model import Principal
from stratal.kernel.clock import iso
from stratal.kernel.errors import NotFound, StratalError

_ROOT = b"/r/"
_TOKEN = re.compile(rb"/r/([A-Za-z0-9]{20,80})\Z")

STYLE = (
    ":root{color-scheme:light dark;--line:#8884;--quiet:#777}"
    "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:14px}th,td{border-bottom:1px solid var(--line);padding:4px 10px;"
    "text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}"
    "figure{margin:1rem 0}.report-source{color:var(--quiet);font-size:13px}.report-wrong{color:#b3261e}"
    ".report-chart{width:100%;height:auto}.report-chart text{font:11px system-ui,sans-serif;fill:currentColor}"
    ".report-chart .grid{stroke:var(--line)}.report-chart polyline{fill:none;stroke-width:1.8}"
    + "".join(
        f".report-chart .s{number}{{stroke:{colour};fill:{colour}}}.report-chart polyline.s{number}{{fill:none}}"
        for number, colour in enumerate(("#2f6fde", "#d2691e", "#2e8b57", "#a33bb0", "#c0392b"), 1)
    )
    + "pre{overflow-x:auto;background:#8881;padding:10px}footer{margin-top:3rem}"
)
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
    "Cache-Control": "no-store",
}


class ReportsDoor:
    name = "reports"

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(_ROOT)) and scope["method"] in {"GET", "HEAD"}

    async def authenticate(self, request: Request) -> Principal | None:
        """Nobody: the address itself is what opens it."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _TOKEN.match(scope["raw_path"])
        if match is None:
            raise NotFound("There is no report at this address.", reason="no_such_link")
        shown = await self._reports.public(match[1].decode())
        said = "Live: asked" if shown.live else "As it was"
        note = f"{said} at {iso(shown.as_of)}. This address is good until {iso(shown.expires_at)}."
        await HTMLResponse(page(shown.title, shown.html, note, STYLE), headers=HEADERS)(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        if b"text/html" not in dict(scope["headers"]).get(b"accept", b""):
            return plain_error(error, scope)
        body = page(error.message, "", error.hint, STYLE).replace(
            '<main class="report">', '<main class="report"><p>There is no report at this address.</p>'
        )
        return HTMLResponse(body, error.status, headers=HEADERS)
