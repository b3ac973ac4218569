"""What a job read: table snapshots and object versions, as links with every hash computed again; and of which step it was
done, where it is the work of a pipeline."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from stratal.ai.explain.model import Hash, Link, Status
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import FileVerdict, SnapshotInfo
from stratal.data.objects.model import Verification
from stratal.data.objects.service import Objects
from stratal.data.pipelines.model import moments
from stratal.data.pipelines.service import Pipelines
from stratal.kernel.clock import iso
from stratal.kernel.errors import NotFound
from stratal.ledger.lineage import Access, Lineage

_STATUS = {
    "verified": Status.VERIFIED,
    "broken": Status.BROKEN,
    "missing": Status.BROKEN,
    "deleted": Status.UNPROVEN,
    "dropped": Status.UNPROVEN,
    "unproven": Status.UNPROVEN,
}
_NOTES = {
    "missing": "the bytes are gone, though nobody deleted them",
    "deleted": "deleted by its owner",
    "dropped": "overwritten before anything referred to it",
    "unproven": "its bytes were not recorded when it was committed",
}


_MOST_CARRIED = 100


def _named(write: Mapping[str, Any]) -> str:
    return f"{write.get('table', '')} @ {write.get('snapshot', '')}"


class Inputs:
    """`name_of` tells a project's name by its id, for what was another project's."""

    def __init__(
        self,
        lineage: Lineage,
        objects: Objects,
        lake: Lake,
        pipelines: Pipelines,
        name_of: Callable[[str], Awaitable[str]],
    ) -> None:
        self._pipelines = pipelines
        self._name_of = name_of
        self._lineage = lineage
        self._objects = objects
        self._lake = lake

    async def of(self, workload: str, project_id: str) -> list[Link]:
        """The links of everything that a workload of the project read through any door: snapshots first, then objects."""
        reads = await self._lineage.of_workload(workload, "read")
        snapshots = await self._snapshots(reads)
        links, covered = [], set[str]()
        for table_id, snapshot_id in snapshots:
            link, versions = await self._snapshot(table_id, snapshot_id, project_id)
            links.append(link)
            covered |= versions
        written = {access.version for access in await self._lineage.of_workload(workload, "write")}
        objects = [access for access in reads if access.kind == "object" and access.version not in covered]
        return links + [
            await self._object(access, project_id, made_itself=access.version in written)
            for access in objects
        ]

    async def makers(self, workload: str) -> list[str]:
        """The workloads that made what this one was given and read: steps before it, and whoever wrote the snapshots (with
        those whose rows they carry on) and the objects that it read. People made the rest; the links say who."""
        found: dict[str, None] = {}
        step = await self._pipelines.of_workload(workload)
        if step is not None:
            found |= dict.fromkeys(await self._pipelines.workloads_before(step[1]))
        reads = await self._lineage.of_workload(workload, "read")
        for table_id, snapshot_id in await self._snapshots(reads):
            for ancestor in await self._carried(table_id, snapshot_id):
                found |= dict.fromkeys(await self._lineage.writers("snapshot", f"{table_id}@{ancestor}"))
        for access in reads:
            if access.kind == "object":
                found |= dict.fromkeys(await self._lineage.writers("object", access.version))
        found.pop(workload, None)
        return list(found)

    async def _carried(self, table_id: str, snapshot_id: int) -> list[int]:
        """The snapshot, and those before it whose rows are in it still."""
        found: list[int] = []
        at: int | None = snapshot_id
        while at is not None and len(found) < _MOST_CARRIED:
            try:
                snapshot = await self._lake.snapshot(table_id, at)
            except NotFound:
                break
            found.append(at)
            total, added = snapshot.summary.get("total-records"), snapshot.summary.get("added-records", "0")
            whole = total is not None and int(total) <= int(added)
            at = None if whole else snapshot.parent_id
        return found

    async def step(self, workload: str) -> list[Link]:
        """The link of the pipeline's step that the workload was; none for other work."""
        found = await self._pipelines.of_workload(workload)
        if found is None:
            return []
        run, step = found
        given = [f"{name} @ {moment}" for name, moment in moments(step.arguments) if moment is not None]
        facts = [
            ("run", f"{run.id} ({run.trigger})"),
            ("pipeline", run.pipeline),
            ("ran because", step.reason),
            ("given", ", ".join(dict.fromkeys(given)) or "no table or object"),
            ("wrote", ", ".join(_named(write) for write in step.writes) or "no table"),
            ("code", f"{step.code[:12]} (a hash of the step's own code and of what it calls)"),
            ("attempt", str(step.attempt)),
        ]
        return [Link("pipeline step", f"{run.id}/{step.name}", f"{step.name} in run {run.id}", facts)]

    async def models_of(self, workload: str) -> list[str]:
        """The ids of the model versions that the workload read."""
        reads = await self._lineage.of_workload(workload, "read")
        return [access.version for access in reads if access.kind == "model"]

    async def _snapshots(self, reads: Sequence[Access]) -> list[tuple[str, int]]:
        """The snapshots read: said outright by SQL, or known from the manifest list that an Iceberg client fetched."""
        found: dict[tuple[str, int], None] = {}
        for access in reads:
            if access.kind == "snapshot":
                table_id, _, snapshot_id = access.version.rpartition("@")
                found[table_id, int(snapshot_id)] = None
            elif access.kind == "object":
                place = await self._lake.snapshot_of_object(access.version)
                if place is not None:
                    found[place.table_id, place.snapshot_id] = None
        return list(found)

    async def _shared(self, owner_id: str, project_id: str) -> list[tuple[str, str]]:
        """Whose it is, when it is not the project's own."""
        return [] if owner_id == project_id else [("shared by", f"project {await self._name_of(owner_id)}")]

    async def _snapshot(self, table_id: str, snapshot_id: int, project_id: str) -> tuple[Link, set[str]]:
        id_ = f"{table_id}@{snapshot_id}"
        try:
            table = await self._lake.by_id(table_id)
            snapshot: SnapshotInfo = await self._lake.snapshot(table_id, snapshot_id)
            verdicts: Sequence[FileVerdict] = await self._lake.verify_snapshot(table_id, snapshot_id)
        except NotFound as error:
            gone = Link("table snapshot", id_, id_, (("gone", error.message),), claim=Status.UNPROVEN)
            return gone, set()
        facts = [
            ("committed", f"{iso(snapshot.committed_at)} by {snapshot.committed_by}"),
            ("operation", str(snapshot.operation)),
            ("files", str(len(verdicts))),
            *await self._shared(table.project_id, project_id),
        ]
        if table.dropped_at is not None:
            facts.append(("dropped", iso(table.dropped_at)))
        hashes = [
            Hash(
                f"{verdict.file.kind} {verdict.file.location.rsplit('/', 1)[-1]}",
                verdict.expected,
                verdict.found,
                _STATUS[verdict.status],
                _NOTES.get(verdict.status, ""),
            )
            for verdict in verdicts
        ]
        covered = {verdict.file.version_id for verdict in verdicts if verdict.file.version_id is not None}
        return Link("table snapshot", id_, f"{table.name} @ {snapshot_id}", facts, hashes), covered

    async def _object(self, access: Access, project_id: str, *, made_itself: bool) -> Link:
        try:
            checked: Verification = await self._objects.verify(access.version)
        except NotFound:
            lost = (("lost", "nothing is recorded of this version any more"),)
            return Link("object", access.version, access.name, lost, claim=Status.UNPROVEN)
        version = checked.version
        facts = [
            ("stored", f"{iso(version.created_at)} by {version.created_by}"),
            ("bytes", f"{version.size:,}"),
            *await self._shared(version.project_id, project_id),
        ]
        if made_itself:
            facts.append(("note", "written by the job itself"))
        bytes_ = Hash(
            "bytes", checked.expected, checked.found, _STATUS[checked.status], _NOTES.get(checked.status, "")
        )
        return Link("object", version.id, f"s3://{access.name}", facts, [bytes_])
