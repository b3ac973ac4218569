"""The project's settings in one place, one's own account, and for admins what the instance runs with."""

import asyncio

from starlette.responses import Response

from stratal.console.native import Json, Refused
from stratal.console.render import Ways
from stratal.console.view import View


def _list(told: Json | Refused, name: str) -> list[Json]:
    return [] if isinstance(told, Refused) else list(told[name])


async def settings(view: View) -> Response:
    """Each part as the viewer may see it; what they may not is left out."""
    native = view.native
    members, budget, shared, kept, hooks, account, mail, instance = await asyncio.gather(
        view.attempt("/members"),
        view.attempt("/budget"),
        view.attempt("/shares"),
        view.attempt("/repositories"),
        view.attempt("/webhooks"),
        native.attempt("/account"),
        native.attempt("/account/mail"),
        native.attempt("/instance/settings"),
    )
    return view.page(
        "settings.html",
        "Settings",
        at="settings",
        live="member. share. webhook. repository.",
        ways=Ways(
            cli=f"stratal share ls {view.flag}\nstratal webhook ls {view.flag}\nstratal account password",
            python=view.sdk("/webhooks"),
        ),
        members=_list(members, "members"),
        budget=None if isinstance(budget, Refused) else budget,
        shares=_list(shared, "shares"),
        repositories=_list(kept, "repositories"),
        webhooks=_list(hooks, "webhooks"),
        manages=not isinstance(hooks, Refused),
        account=None if isinstance(account, Refused) else account,
        mail=None if isinstance(mail, Refused) else mail,
        instance=_list(instance, "settings"),
    )
