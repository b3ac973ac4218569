"""Whose traffic a request was: what the chain counts, put down to a workload, an endpoint, a function, an app, or a
door."""

import re
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from stratal.identity.model import Principal
from stratal.ledger.meter import Meter

_ASKED = re.compile(
    rb"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer\Z|/api/v1/projects/[^/]+/endpoints/([^/]+)/invocations\Z"
    rb"|/f/[^/]+/([^/]+)\Z"
)


def count_traffic(
    meter: Meter, who: Principal | None, door: str, scope: Scope, status: int, received: int, sent: int
) -> None:
    """Count a request's bytes. What an endpoint or function was asked is theirs, what a workload asks is the workload's.

    What an app is asked is the app's: its door says so in ``scope["state"]["asked"]``.
    What anybody may ask is the project's whose it is, and no person's; a door says so by putting that project's id
    into ``scope["state"]["public_of"]``. Other requests without a credential are nobody's.
    """
    project_id = scope["state"].get("public_of") if who is None else who.project_id
    if project_id is None:
        return
    person = "" if who is None else who.name
    acting = None if who is None else who.workload
    workload, name = acting or door, "" if acting else door
    if workload.startswith(
        ("function:", "workspace:", "app:")
    ):  # its revisions act under names of their own, and are one on the bill
        workload = workload.rpartition(":")[0]
    if "asked" in scope["state"]:
        workload = scope["state"]["asked"]
        name = workload.partition(":")[2]
    elif status < 400 and scope["method"] == "POST":
        asked = _ASKED.match(scope["raw_path"])
        if asked is not None:
            name = unquote_to_bytes(asked[1] or asked[2] or asked[3]).decode(errors="backslashreplace")
            workload = f"function:{name}" if asked[3] else f"endpoint:{name}"
    meter.count((project_id, person, workload, name, door), received, sent)
