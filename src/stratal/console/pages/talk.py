"""What was said about a thing, what happened lately, and what one was told."""

from starlette.responses import Response

from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_PAGE = 60
PLACES = {
    "run": "runs",
    "model": "models",
    "table": "tables",
    "endpoint": "endpoints",
    "job": "jobs",
    "function": "functions",
    "app": "apps",
    "repository": "repositories",
    "report": "reports",
    "workspace": "workspaces",
}
"""Where the pages of what can be commented on are, by kind."""
_NAMED = {"model", "endpoint", "function", "app", "repository", "report", "workspace"}


def page_of(base: str, on: str, of: str) -> str:
    """The address of the page of a thing; the project's for what has none."""
    if on == "merge_request":
        repository, _, number = of.rpartition("!")
        return f"{base}/repositories/{segment(repository)}/merges/{segment(number)}"
    if on == "notebook":
        on, of = "workspace", of.partition("/")[0]
    return f"{base}/{PLACES[on]}/{segment(of)}" if on in PLACES else base


async def comments(view: View) -> Response:
    """The part of a page that holds what was said about its thing."""
    on, of = view.part("on"), view.part("of")
    told = await view.attempt("/comments", on=on, of=of)
    return view.fragment(
        "comments.html",
        on=on,
        of=of,
        refused=told if isinstance(told, Refused) else None,
        comments=[] if isinstance(told, Refused) else told["comments"],
        moderates=view.who.get("role") in {"owner", "admin"},
    )


async def activity(view: View) -> Response:
    """What happened in the project, newest first; ``?kind= &actor= &before=``."""
    asked = {name: view.query[name] for name in ("kind", "actor", "before") if view.query.get(name)}
    told = await view.get("/activity", limit=_PAGE, **asked)
    return view.page(
        "activity.html",
        "Activity",
        at="activity",
        ways=Ways(
            cli=f"stratal activity {view.flag}\nstratal activity {view.flag} --kind job.",
            python=view.sdk("/activity"),
        ),
        events=[_event(view, one) for one in told["events"]],
        after=told["next"],
    )


async def inbox(view: View) -> Response:
    """What one was told, in all projects."""
    told = await view.native.get("/notifications", limit=_PAGE)
    mail = await view.native.get("/account/mail")
    return view.page(
        "inbox.html",
        "Inbox",
        at="inbox",
        ways=Ways(
            cli="stratal inbox\nstratal inbox --mail ada@example.org",
            python="from stratal.sdk import Client\n\nClient().get('/notifications')",
        ),
        notifications=[
            {**one, "href": page_of(f"/projects/{segment(str(one['project']))}", one["on"], one["of"])}
            for one in told["notifications"]
        ],
        unread=told["unread"],
        mail=mail,
    )


def _event(view: View, one: Json) -> Json:
    """An event with the page of what it happened to, where that has one."""
    data, noun = one["data"], str(one["kind"]).partition(".")[0]
    if noun == "comment":
        href = page_of(view.base, str(data.get("on")), str(data.get("of")))
        return {**one, "href": href, "shown": f"{data.get('on')} {data.get('of')}"}
    named = data.get("name") if noun in _NAMED else one["subject"]
    if noun == "merge_request":
        return {**one, "href": page_of(view.base, noun, str(one["subject"])), "shown": one["subject"]}
    href = page_of(view.base, noun, str(named)) if noun in PLACES and named else ""
    return {**one, "href": href, "shown": data.get("name") or one["subject"]}
