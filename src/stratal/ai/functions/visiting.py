"""The path of a request to an app: get a replica (waking one if need be), and let client and app talk to each other.

No row of the database is read or written on this path but those of who comes in (`stratal.identity.visits`). What came
of the request is told to the `Journal` when it has ended: who asked for what, which status they got, how long it took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.calling import error_json, ready
from stratal.ai.functions.journal import Journal
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import Function, Invocation, InvocationState
from stratal.ai.functions.runtime import AppReplica, Conversation
from stratal.compute.services.port import Broken
from stratal.compute.services.service import Claim
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.visits import Visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError, Unavailable
from stratal.kernel.ids import new_id

MOST_AT_ONCE = 1000
_MOST_PATH = 500


@dataclass(frozen=True, slots=True)
class AppRequest:
    """What somebody asked of an app, and what came of it. `path` is without what stood behind the ``?``."""

    invocation: Invocation
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Page:
    """Requests, newest first; `more_before` is the id to go on from, None when these were the last."""

    requests: Sequence[AppRequest]
    more_before: str | None


class Asked:
    """A request that an app is at. `close` it in any case."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        claim: Claim[AppReplica],
        conversation: Conversation,
        row: dict[str, Any],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._claim = claim
        self._row = row
        self._closed = False
        self.conversation = conversation
        self.id: str = row["id"]
        self.status: int | None = None
        """What the app answered with, once it did."""
        self.content_type = ""
        self.failure: StratalError | None = None

    async def close(self) -> None:
        """The client has its answer, or is gone: give the place at the replica back, and write down what came of it."""
        if self._closed:
            return
        self._closed = True
        self.conversation.close()
        await self._claim.__aexit__(None, None, None)
        status = self.failure.status if self.failure is not None else self.status
        good = self.failure is None and status is not None and status < 500
        self._journal.note(
            self._row
            | {
                "state": (InvocationState.SUCCEEDED if good else InvocationState.FAILED).value,
                "status": status,
                "error": None if self.failure is None else error_json(self.failure),
                "result_type": self.content_type[:200],
                "log": b"",
                "failures": 0 if good else 1,
                "ended_at": self._clock(),
            }
        )


class Visiting:
    """Who may ask an app what, and asking it."""

    def __init__(
        self, database: Database, registry: Registry, visits: Visits, journal: Journal, clock: Clock
    ) -> None:
        self._database = database
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self.visits = visits

    async def invite(
        self, who: Principal, project_id: str, name: str, session: str | None
    ) -> tuple[Function, str]:
        """The app, and a ticket that lets `who`'s browser in at its host name, once. Raises `NotFound`, `Denied`."""
        require(who, "apps.use", project_id, what=f"app {name[:100]!r}")
        live = self._registry.get(project_id, name)
        return live.function, await self.visits.invite(who, live.function, session)

    async def ask(self, who: Principal | None, live: Live, scope: Mapping[str, Any]) -> Asked:
        """Begin a request, or a WebSocket, at the app, once a replica has a place for it; the caller must `close` it.

        `who` None: anybody, who may only ask what is public (the door looked that up). `scope` is what the app is
        told, as ASGI says. Raises `Denied`, and `Unavailable` or `Busy`, with ``retry_after_seconds``, when no
        replica can take it.
        """
        if who is not None:
            require(who, "apps.use", live.function.project_id, what=f"app {live.function.name!r}")
        revision = ready(live)
        assert live.service is not None
        claim: Claim[AppReplica] = live.service.claim()
        now = self._clock()
        replica = await claim.__aenter__()
        try:
            conversation = replica.open(scope)
        except Broken:
            await claim.__aexit__(None, None, None)
            raise lost() from None
        except BaseException:
            await claim.__aexit__(None, None, None)
            raise
        row = {
            "id": new_id("inv"),
            "function_id": live.function.id,
            "project_id": live.function.project_id,
            "revision": revision.seq,
            "trigger": scope["type"],
            "caller": None if who is None else who.actor,
            "content_type": "",
            "query": f"{scope.get('method', 'GET')} {scope['path'][:_MOST_PATH]}",
            "attempt": 1,
            "created_at": now,
            "started_at": self._clock(),
        }
        return Asked(self._journal, self._clock, claim, conversation, row)

    async def requests(
        self, who: Principal, project_id: str, name: str, *, before: str | None = None, limit: int = 100
    ) -> Page:
        """What the app was asked, newest first. Raises `NotFound`."""
        require(who, "apps.read", project_id, what=f"app {name[:100]!r}")
        live = self._registry.get(project_id, name)
        await self._journal.flush()
        limit = max(1, min(limit, MOST_AT_ONCE))

        def read(c: Connection) -> list[AppRequest]:
            found = records.requests_of(c, live.function.id, before, limit + 1)
            return [AppRequest(*one) for one in found]

        made = await self._database.read(read)
        return Page(made[:limit], made[limit - 1].invocation.id if len(made) > limit else None)


def lost() -> Unavailable:
    """The replica ended under a request."""
    return Unavailable(
        "The app's replica ended while it was at this request; whether it did its work is not known.",
        hint="Try again if it may be done twice.",
        reason="replica_lost",
        retry_after_seconds=1,
    )
