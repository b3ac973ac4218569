"""Who belongs to the project, its keys, and where one is signed in."""

import asyncio

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused
from stratal.console.render import Ways
from stratal.console.view import View

MEMBERS = (
    Column("person", "Person", lambda one: one["person"]),
    Column("role", "Role", lambda one: one["role"]),
    Column("since", "Since", lambda one: one.get("added_at")),
    Column("by", "By", lambda one: one.get("added_by")),
)
KEYS = (
    Column("name", "Name", lambda one: one["name"]),
    Column("kind", "Of", lambda one: one.get("kind")),
    Column("role", "Role", lambda one: one["role"]),
    Column("state", "State", lambda one: _state(one)),
    Column("used", "Last used", lambda one: one.get("used_at")),
    Column("created", "Created", lambda one: one.get("created_at")),
    Column("by", "By", lambda one: one.get("created_by")),
)


def _state(key: Json) -> str:
    return "revoked" if key.get("revoked_at") else "active"


async def members(view: View) -> Response:
    """The project's members and, for owners, the invitations that nobody has taken up."""
    told, invited, shared = await asyncio.gather(
        view.get("/members"), view.attempt("/invitations"), view.attempt("/shares")
    )
    return view.page(
        "members.html",
        "Members",
        at="members",
        live="member. share.",
        shares=[] if isinstance(shared, Refused) else shared["shares"],
        ways=Ways(
            cli=f"stratal members invite {view.flag} --role editor\nstratal members list {view.flag}",
            python=view.sdk("/members"),
        ),
        listing=arrange(told["members"], MEMBERS, view.query),
        invited=[] if isinstance(invited, Refused) else invited["invitations"],
        manages=not isinstance(invited, Refused),
    )


async def keys(view: View) -> Response:
    """The project's keys, never their secrets."""
    told = await view.get("/keys")
    return view.page(
        "keys.html",
        "Keys",
        at="keys",
        live="key.",
        ways=Ways(
            cli=f"stratal keys create ci {view.flag} --role editor --expires 30d\nstratal keys list {view.flag}",
            python=view.sdk("/keys"),
        ),
        listing=arrange(told["keys"], KEYS, view.query),
        state=_state,
    )


async def sessions(view: View) -> Response:
    """Where one is signed in."""
    told = await view.native.get("/sessions")
    return view.page(
        "sessions.html",
        "Sessions",
        at="sessions",
        ways=Ways(
            cli="stratal sessions list\nstratal account password",
            python="from stratal.sdk import Client\n\nClient().get('/sessions')",
        ),
        sessions=told["sessions"],
    )
