"""Which refused requests go on record, and whose they were said to be."""

import base64
import binascii
import re

from starlette.types import Scope

from stratal.identity.model import Principal
from stratal.kernel.asking import Asking
from stratal.ledger.audit import Audit, Denial

_KEY = re.compile(rb"st\d{1,4}k[0-9a-z]{20}")
_MOST = 200
_AT_OWN_HOSTS = {"workspaces", "apps"}


def put_on_record(audit: Audit, who: Principal | None, asking: Asking, scope: Scope, status: int) -> None:
    """Note a denial. A client that brought no credential and was only told to bring one was denied nothing."""
    actor = who.actor if who is not None else _claimed(scope)
    if actor is None:
        if status == 401:
            return
        actor = "unknown"
    asked = f"{scope['method']} {_place(asking.door, scope)}"
    project_id = who.project_id if who is not None else None
    audit.deny(Denial(actor, project_id, asking.door, asking.address, asked, status, asking.denied))


def _place(door: str, scope: Scope) -> str:
    """What was asked for: its path, and at which of the hosts that users' content has."""
    path = str(scope["raw_path"][:_MOST], "ascii", "backslashreplace")
    if door not in _AT_OWN_HOSTS:
        return path
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"//{str(host[:_MOST], 'ascii', 'backslashreplace')}{path}"


def _claimed(scope: Scope) -> str | None:
    """The key, named but not proven, or merely that there was a credential; None when there was none."""
    headers = dict(scope["headers"])
    given = headers.get(b"authorization", b"")
    scheme, _, value = given.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "unknown"
    match = _KEY.search(given) or _KEY.search(scope["query_string"])
    if match is not None:
        return f"unknown:{match[0].decode()}"
    cookie = headers.get(b"cookie", b"")
    brought = b"stratal_session=" in cookie or b"stratal_visit=" in cookie
    return "unknown" if given or brought or scope["raw_path"] in {b"/login", b"/invite"} else None
