"""Cookies of the platform: over TLS only such as this very host can have set; and nobody acts as two people at once."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from stratal.gateway.hosts import visitor, visits_of
from stratal.gateway.native.door import session_of
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.visits import Visit
from stratal.kernel.errors import Denied, Unauthenticated

pytestmark = pytest.mark.fast


def asked(scheme: str, cookies: str, host: str = "x.example.org", agent: str = "") -> dict[str, Any]:
    headers = [(b"host", host.encode()), (b"cookie", cookies.encode()), (b"user-agent", agent.encode())]
    return {
        "type": "http",
        "scheme": scheme,
        "path": "/",
        "query_string": b"",
        "headers": headers,
        "state": {},
    }


@pytest.mark.parametrize(("scheme", "session", "visits"), [("http", "a", ["c"]), ("https", "b", ["d"])])
def test_over_tls_only_a_cookie_of_this_very_host_counts(
    scheme: str, session: str, visits: list[str]
) -> None:
    scope = asked(
        scheme, "stratal_session=a; __Host-stratal_session=b; stratal_visit=c; __Host-stratal_visit=d"
    )
    assert session_of(Request(scope)) == session
    assert visits_of(scope) == visits
    assert visits_of({**scope, "scheme": scheme.replace("http", "ws")}) == visits


CHROMIUM = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/146.0.0.0 Safari/537.36"
)
SAFARI = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 Safari/605.1.15"


@pytest.mark.parametrize(
    ("cookies", "agent", "visits"),
    [
        ("stratal_visit=planted", CHROMIUM, []),
        ("stratal_visit=planted; __Host-stratal_visit=own", CHROMIUM, ["own"]),
        ("stratal_visit=planted; __Host-stratal_visit=own", "", ["own"]),
        ("stratal_visit=own", SAFARI, ["own"]),
        ("stratal_visit=own", "python-httpx/0.28", ["own"]),
    ],
)
def test_below_localhost_a_cookie_of_this_very_host_counts_where_browsers_keep_one(
    cookies: str, agent: str, visits: list[str]
) -> None:
    assert visits_of(asked("http", cookies, "lab-x1.user.localhost:8484", agent)) == visits
    if agent == CHROMIUM:  # elsewhere it keeps none without TLS
        assert visits_of(asked("http", "stratal_visit=a", "lab-x1.user.example.org", agent)) == ["a"]


def test_a_cookie_that_another_host_set_makes_nobody_somebody_else() -> None:
    people = {
        value: Principal(Kind.PERSON, f"usr_{name}", name, "prj_a", "a", Role.EDITOR)
        for value, name in (("1", "ada"), ("2", "eve"), ("3", "ada"))
    }

    async def visit(value: str) -> Visit:
        if value not in people:
            raise Unauthenticated("That opens nothing.")
        return Visit(value, people[value], 0)

    def who(cookies: str) -> Any:
        scope = asked("http", cookies)
        found = asyncio.run(visitor(scope, visit))
        return found and (found.who.name, scope["state"]["visit"])

    assert who("a=b") is None
    assert who("stratal_visit=old; stratal_visit=1; stratal_visit=3") == ("ada", "1")
    with pytest.raises(Unauthenticated):
        who("stratal_visit=old")
    for tossed in ("stratal_visit=2; stratal_visit=1", "stratal_visit=1; stratal_visit=2"):
        with pytest.raises(Denied, match="several people"):
            who(tossed)
