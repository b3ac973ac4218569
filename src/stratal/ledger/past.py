"""The past as a workload is shown it: what a replay reads is what the work that it repeats had read.

For a workload that is *held* to a past, names mean the versions written down for it here, whatever has become of them
since. What it writes is kept aside and written down here too: its own reads find it, and nobody else's do. So a
replay neither depends on today nor changes it.

Held workloads are few and asked about at every read, so what is written down is also kept in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select

from stratal.identity.model import Principal
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict
from stratal.ledger.tables import pasts

NOTHING = ""
"""The version of a name that named nothing then."""
MADE = "model made"
"""A kind of its own beside those of the lineage: the version that was registered under a model's name."""
_MARK = ("", "")


@dataclass(slots=True)
class Past:
    """What each (kind, name) is for one workload. Kinds are those of the lineage: ``object``, ``snapshot``, ``model``."""

    workload: str
    shown: dict[tuple[str, str], str] = field(default_factory=dict)

    def version(self, kind: str, name: str) -> str | None:
        """The version it is shown, `NOTHING` when it is to find nothing, None when nothing was written down."""
        return self.shown.get((kind, name))


def refused_in_past(what: str) -> Conflict:
    """How to refuse a replay what cannot be kept aside."""
    return Conflict(
        f"A replay does not {what}: nothing that it does is seen by others.",
        hint="A step with such an effect says replay=False; it is then not done again.",
        reason="held_to_past",
    )


class Pasts:
    """Which workloads are held to a past, and to which."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, Past] = {}
        self._loaded = False

    async def of(self, who: Principal) -> Past | None:
        """The past that the caller's workload is held to; None for everybody else."""
        if who.workload is None:
            return None
        if not self._loaded:
            for row in await self._database.read(lambda c: c.execute(select(pasts)).all()):
                past = self._held.setdefault(row.workload, Past(row.workload))
                past.shown.setdefault((row.kind, row.name), row.version)
            self._loaded = True
        return self._held.get(who.workload)

    def hold(
        self, c: Connection, project_id: str, workload: str, shown: Mapping[tuple[str, str], str]
    ) -> None:
        """Within a write: from now on the workload is shown `shown`, and changes nothing for others."""
        self.release(c, workload)
        marked = {_MARK: NOTHING, **shown}
        c.execute(
            insert(pasts),
            [
                {
                    "workload": workload,
                    "kind": kind,
                    "name": name,
                    "version": version,
                    "project_id": project_id,
                }
                for (kind, name), version in marked.items()
            ],
        )
        self._held[workload] = Past(workload, dict(marked))

    async def show(self, past: Past, project_id: str, kind: str, name: str, version: str) -> None:
        """From now on `name` is `version` for the workload: what it has just written itself."""

        def work(c: Connection) -> None:
            here = (pasts.c.workload == past.workload, pasts.c.kind == kind, pasts.c.name == name)
            c.execute(delete(pasts).where(*here))
            row = {"workload": past.workload, "kind": kind, "name": name, "version": version}
            c.execute(insert(pasts).values({**row, "project_id": project_id}))

        await self._database.write(work)
        past.shown[kind, name] = version

    def release(self, c: Connection, workload: str) -> None:
        """Within a write: the workload, which has ended, is held to nothing any more."""
        c.execute(delete(pasts).where(pasts.c.workload == workload))
        self._held.pop(workload, None)
