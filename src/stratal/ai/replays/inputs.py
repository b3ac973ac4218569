"""What earlier work stood on: is all of it there as it was, and does each name still mean it?"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from stratal.ai.replays.model import Input, InputState
from stratal.compute.environments import Environments
from stratal.compute.snapshots import Snapshots
from stratal.data.lake import held
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import TableInfo
from stratal.data.lake.tables import lakes
from stratal.data.objects.service import Objects
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound
from stratal.ledger.past import MADE, NOTHING
from stratal.ledger.tables import accesses

_GONE = {
    "deleted": "its owner deleted it",
    "dropped": "it was overwritten, and its bytes are not kept",
    "missing": "its bytes are gone",
}


@dataclass(frozen=True, slots=True)
class Stood:
    """What is to be looked at: the code, the environments, and the workloads that did the work."""

    project_id: str
    snapshot_id: str | None
    environments: Sequence[str]
    workloads: Sequence[str]


class Inputs:
    def __init__(
        self,
        database: Database,
        objects: Objects,
        lake: Lake,
        snapshots: Snapshots,
        environments: Environments,
    ) -> None:
        self._database = database
        self._objects = objects
        self._lake = lake
        self._snapshots = snapshots
        self._environments = environments

    async def check(self, stood: Stood) -> list[Input]:
        """Every input with every byte of it hashed again."""
        found = [await self._code(stood)] if stood.snapshot_id is not None else []
        found += [await self._environment(id_) for id_ in dict.fromkeys(stood.environments)]
        own = await self._database.read(lambda c: made_by(c, stood.workloads))
        for kind, name, version in await self._database.read(lambda c: read_by(c, stood.workloads)):
            look = {"snapshot": self._table, "object": self._object}.get(kind)
            if look is not None:
                found.append(await look(name, version, own))
        return found

    async def _code(self, stood: Stood) -> Input:
        assert stood.snapshot_id is not None
        shown = stood.snapshot_id[:12]
        try:
            proof = await self._snapshots.prove(stood.project_id, stood.snapshot_id)
        except NotFound:
            return Input(
                "code", shown, stood.snapshot_id, InputState.GONE, "the snapshot of the code is gone"
            )
        if proof.ok:
            return Input("code", shown, stood.snapshot_id, InputState.SAME)
        which = ", ".join(proof.broken[:3]) or "its list of files"
        return Input("code", shown, stood.snapshot_id, InputState.BROKEN, f"altered: {which}")

    async def _environment(self, id_: str) -> Input:
        try:
            digest = hashlib.sha256(await self._environments.lock(id_)).hexdigest()
        except NotFound:
            return Input("environment", id_[:12], id_, InputState.GONE, "its lock is gone")
        if digest == id_:
            return Input("environment", id_[:12], id_, InputState.SAME)
        return Input("environment", id_[:12], id_, InputState.BROKEN, "its lock was altered")

    async def _table(self, name: str, version: str, own: set[str]) -> Input:
        table_id, _, snapshot_id = version.partition("@")
        try:
            info: TableInfo = await self._lake.by_id(table_id)
            verdicts = await self._lake.verify_snapshot(table_id, int(snapshot_id))
        except NotFound:
            return Input("table", name, version, InputState.GONE, "nothing is recorded of it any more")
        shown = f"{info.name}@{snapshot_id}"
        bad = next((one for one in verdicts if one.status not in {"verified", "unproven"}), None)
        if bad is not None:
            file = bad.file.location.rsplit("/", 1)[-1]
            state = InputState.GONE if bad.status in _GONE else InputState.BROKEN
            return Input(
                "table", shown, version, state, f"{file}: {_GONE.get(bad.status, 'its bytes were altered')}"
            )
        if info.dropped_at is not None:
            return Input("table", shown, version, InputState.GONE, "the table was dropped")
        now = held.version(info, info.snapshot_id)
        if now == version or now in own or version in own:
            return Input("table", shown, version, InputState.SAME)
        note = f"the table is at snapshot {info.snapshot_id} now"
        return Input("table", shown, version, InputState.CHANGED, note)

    async def _object(self, name: str, version: str, own: set[str]) -> Input:
        try:
            checked = await self._objects.verify(version)
        except NotFound:
            return Input(
                "object", f"s3://{name}", version, InputState.GONE, "nothing is recorded of it any more"
            )
        shown = f"s3://{name}"
        if checked.status in _GONE:
            return Input("object", shown, version, InputState.GONE, _GONE[checked.status])
        if checked.status != "verified":
            return Input("object", shown, version, InputState.BROKEN, "its bytes were altered")
        if checked.version.ended_at is None or version in own or await self._own_now(name, own):
            return Input("object", shown, version, InputState.SAME)
        return Input("object", shown, version, InputState.CHANGED, "it was overwritten since")

    async def _own_now(self, name: str, own: set[str]) -> bool:
        """Does the name mean what the work itself had put there?"""
        return any(
            version is not None and version.ended_at is None and f"{version.bucket}/{version.key}" == name
            for version in [await self._objects.by_id(id_) for id_ in own if id_.startswith("obj")]
        )


def made_by(c: Connection, workloads: Sequence[str]) -> set[str]:
    """The versions that they wrote."""
    query = select(accesses.c.version).where(accesses.c.workload.in_(workloads), accesses.c.mode == "write")
    return set(c.execute(query).scalars())


def read_by(c: Connection, workloads: Iterable[str]) -> list[tuple[str, str, str]]:
    """(kind, name, version) of all that they were shown at first: tables' snapshots, objects, models."""
    found: dict[tuple[str, str, str], None] = {}
    for workload in workloads:
        for (kind, name), version in held.past_of(c, workload).items():
            if version != NOTHING and kind != MADE:
                found[kind, name, version] = None
    return list(found)


def read_beside(c: Connection, workload: str, before: str) -> list[tuple[str, str, str]]:
    """(kind, name, version) of what the workload read that the workload `before` had not, and that is not its own."""
    buckets = set(c.execute(select(lakes.c.bucket)).scalars())
    known = set(c.execute(select(accesses.c.version).where(accesses.c.workload == before)).scalars())
    rows = c.execute(select(accesses).where(accesses.c.workload == workload)).all()
    known |= {row.version for row in rows if row.mode == "write"}
    return [
        (row.kind, row.name, row.version)
        for row in rows
        if row.mode == "read"
        and row.kind in {"snapshot", "object"}
        and row.version not in known
        and row.name.partition("/")[0] not in buckets
    ]
