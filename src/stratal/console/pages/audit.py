"""The audit log of the project: who changed what, and who was refused what."""

from starlette.responses import Response

from stratal.console.render import Ways
from stratal.console.view import View

_PAGE = 100
_FIELDS = {"by": "who", "what": "what", "door": "door"}


async def audit(view: View) -> Response:
    """The newest entries; ``?by= &what= &door= &denied=true`` choose among them, ``&before=`` pages."""
    asked = {name: view.query[name] for name in (*_FIELDS, "denied", "before") if view.query.get(name)}
    answer = await view.get("/audit", limit=_PAGE, **asked)
    flags = [f"--{_FIELDS[name]} {value!r}" for name, value in asked.items() if name in _FIELDS]
    flags += ["--denied"] if asked.get("denied") else []
    return view.page(
        "audit.html",
        "Audit",
        at="audit",
        ways=Ways(
            cli=f"stratal audit {view.flag} {' '.join(flags)}".rstrip()
            + f"\nstratal audit {view.flag} --export\nstratal audit --verify",
            python=view.sdk("/audit"),
        ),
        entries=answer["entries"],
        after=answer["next"],
        export=f"/api/v1{view.base}/audit/export",
    )
