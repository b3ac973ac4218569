"""Tables for a workload that is held to a past (see `ledger.past`): shown as they were, changed for nobody else.

What it commits to a table's main branch goes to a branch of its own, and that is what it is shown from then on.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, select

from stratal.data.lake.model import SEPARATOR, Change, Loaded, TableInfo
from stratal.data.lake.tables import lakes, snapshots, tables
from stratal.ledger.past import MADE, NOTHING, Past
from stratal.ledger.tables import accesses

_KEPT = {"add-snapshot", "add-schema", "add-spec", "set-snapshot-ref"}
MAIN = "main"


def branch_of(past: Past) -> str:
    """The branch that takes what the workload commits."""
    return f"stratal-replay-{past.workload.replace(':', '-').replace('/', '-')}"


def version(info: TableInfo, snapshot_id: int | None) -> str:
    """How a past names a table's snapshot; that it had none is `NOTHING`."""
    return NOTHING if snapshot_id is None else f"{info.id}@{snapshot_id}"


def as_shown(past: Past, info: TableInfo) -> TableInfo:
    """The table as it is in that past. One that was made anew since is as it is now: it is another table."""
    wanted = past.version("snapshot", str(info.name))
    if wanted is None:
        return info
    table_id, _, snapshot_id = wanted.partition("@")
    if wanted != NOTHING and table_id != info.id:
        return info
    return replace(info, snapshot_id=int(snapshot_id) if snapshot_id else None, of_past=True)


def metadata_as_shown(loaded: Loaded) -> Loaded:
    """The metadata file with the shown snapshot as the current one."""
    if not loaded.info.of_past:
        return loaded
    metadata: dict[str, Any] = orjson.loads(loaded.metadata)
    snapshot_id = loaded.info.snapshot_id
    refs = {name: ref for name, ref in metadata.get("refs", {}).items() if name != MAIN}
    if snapshot_id is None:
        metadata["current-snapshot-id"] = -1
    else:
        metadata["current-snapshot-id"] = snapshot_id
        refs[MAIN] = {"snapshot-id": snapshot_id, "type": "branch"}
        made = {snapshot["snapshot-id"]: snapshot for snapshot in metadata.get("snapshots", [])}
        schema = made.get(snapshot_id, {}).get("schema-id")
        if schema is not None:
            metadata["current-schema-id"] = schema
    metadata["refs"] = refs
    return Loaded(loaded.info, orjson.dumps(metadata))


def aside(past: Past, change: Change) -> Change:
    """A commit to main as one to the workload's own branch; a commit to other branches as it is."""
    touched = [update for update in change.updates if update.get("ref-name") == MAIN]
    if not touched and all(
        update.get("action") in _KEPT | {"remove-snapshot-ref"} for update in change.updates
    ):
        return change
    needed = [
        one
        for one in change.requirements
        if one.get("type") != "assert-current-schema-id"
        and not (one.get("type") == "assert-ref-snapshot-id" and one.get("ref") == MAIN)
    ]
    updates = [
        {**update, "ref-name": branch_of(past)} if update.get("ref-name") == MAIN else update
        for update in change.updates
        if update.get("action") in _KEPT
    ]
    return Change(change.table, needed, updates)


def left(changes: Sequence[Change]) -> dict[str, int]:
    """Table name to the snapshot that each change puts on main."""
    return {
        str(change.table): int(update["snapshot-id"])
        for change in changes
        for update in change.updates
        if update.get("action") == "set-snapshot-ref" and update.get("ref-name") == MAIN
    }


# -- what a workload was shown ---------------------------------------------------------------------------


def past_of(c: Connection, workload: str) -> dict[tuple[str, str], str]:
    """What names meant to the workload when it first used them, from what doors recorded of it.

    A table that it wrote without reading it, is as it was before; what it made itself was not there.
    """
    rows = c.execute(
        select(accesses)
        .where(accesses.c.workload == workload)
        .order_by(accesses.c.first_at, accesses.c.mode, accesses.c.version)
    ).all()
    own = {row.version for row in rows if row.mode == "write"}
    buckets = set(c.execute(select(lakes.c.bucket)).scalars())
    shown: dict[tuple[str, str], str] = {}
    for row in rows:
        kind, name, found = row.kind, row.name, row.version
        if kind == "object" and name.partition("/")[0] in buckets:
            place = snapshot_of(c, found)
            if place is None:
                continue
            kind, (name, found) = "snapshot", place
        if row.mode == "read" and found not in own:
            shown.setdefault((kind, name), found)
        elif row.mode == "write":
            _before(c, shown, kind, name, found)
    return shown


def _before(c: Connection, shown: dict[tuple[str, str], str], kind: str, name: str, found: str) -> None:
    match kind:
        case "snapshot":
            table_id, _, snapshot_id = found.partition("@")
            here = (snapshots.c.table_id == table_id, snapshots.c.snapshot_id == int(snapshot_id))
            parent = c.execute(select(snapshots.c.parent_id).where(*here)).scalar()
            shown.setdefault((kind, name), NOTHING if parent is None else f"{table_id}@{parent}")
        case "object":
            shown.setdefault((kind, name), NOTHING)
        case "model":
            shown[MADE, name.rpartition("/")[0]] = found
        case _:
            return


def snapshot_of(c: Connection, version_id: str) -> tuple[str, str] | None:
    """The table's name and the snapshot (``<table id>@<snapshot id>``) whose manifest list is that object version."""
    query = (
        select(snapshots.c.table_id, snapshots.c.snapshot_id, tables.c.namespace, tables.c.name)
        .join(tables, tables.c.id == snapshots.c.table_id)
        .where(snapshots.c.manifest_list_version == version_id)
        .limit(1)
    )
    row = c.execute(query).first()
    if row is None:
        return None
    name = ".".join([*row.namespace.split(SEPARATOR), row.name])
    return name, f"{row.table_id}@{row.snapshot_id}"


def tables_written(c: Connection, workload: str) -> list[str]:
    """The names of the tables that the workload committed to."""
    query = (
        select(accesses.c.name)
        .where(accesses.c.workload == workload, accesses.c.mode == "write", accesses.c.kind == "snapshot")
        .distinct()
    )
    return list(c.execute(query).scalars())
