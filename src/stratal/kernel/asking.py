"""Through which door and from which address the request at hand came: what the record of a change says beside who.

The gateway's chain sets it for each request; a write function runs in the context of whoever submitted it,
so `emit` finds it on whichever thread it runs. What no request caused has none.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Asking:
    """One request: its door's name and the caller's address. `denied` is the last action that was refused in it."""

    door: str
    address: str
    denied: str = ""


ASKING: ContextVar[Asking | None] = ContextVar("asking", default=None)


def note_denied(action: str) -> None:
    """Remember that the request at hand was refused `action`, however its door words that."""
    asking = ASKING.get()
    if asking is not None:
        asking.denied = action
