"""Rows of workspaces, saves and visits, and what they mean. Functions that take a connection run inside a read or
a write of the database."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, Select, delete, exists, func, insert, select, update

from stratal.collab.workspaces.model import Program, Save, Wishes, Workspace
from stratal.collab.workspaces.tables import workspace_contents as contents
from stratal.collab.workspaces.tables import workspace_saves as saves
from stratal.collab.workspaces.tables import workspaces
from stratal.compute.engine import Network
from stratal.identity.tables import projects, visits

# -- workspaces ----------------------------------------------------------------------------------


def _workspaces() -> Select[Any]:
    return (
        select(workspaces, projects.c.name.label("project"))
        .join(projects, workspaces.c.project_id == projects.c.id)
        .where(workspaces.c.removed_at.is_(None))
    )


def live_workspaces(c: Connection) -> list[Workspace]:
    """Every workspace that was not removed, by name."""
    return [_workspace(row) for row in c.execute(_workspaces().order_by(workspaces.c.name)).mappings()]


def workspace(c: Connection, workspace_id: str) -> Workspace | None:
    row = c.execute(_workspaces().where(workspaces.c.id == workspace_id)).mappings().one_or_none()
    return None if row is None else _workspace(row)


def is_taken(c: Connection, project_id: str, name: str) -> bool:
    found = _workspaces().where(workspaces.c.project_id == project_id, workspaces.c.name == name)
    return c.execute(found).first() is not None


def add(c: Connection, made: Workspace, creator_name: str) -> None:
    c.execute(
        insert(workspaces).values(
            id=made.id,
            project_id=made.project_id,
            name=made.name,
            label=made.label,
            program=made.program.value,
            requirements=made.requirements,
            memory_bytes=made.wishes.memory_bytes,
            cpus=made.wishes.cpus,
            gpus=made.wishes.gpus,
            gpu_type=made.wishes.gpu_type,
            idle_seconds=made.wishes.idle_seconds,
            network=made.wishes.network,
            environment_id=made.environment_id,
            running=int(made.running),
            stopped_why=made.stopped_why,
            starts=made.starts,
            key_id=made.key_id,
            created_at=made.created_at,
            created_by=made.created_by,
            creator_name=creator_name,
        )
    )


def change(c: Connection, workspace_id: str, **values: Any) -> Workspace | None:
    """The workspace with these columns changed; None when it was removed."""
    live = (workspaces.c.id == workspace_id) & workspaces.c.removed_at.is_(None)
    c.execute(update(workspaces).where(live).values(**values))
    return workspace(c, workspace_id)


def payer_of(c: Connection, workspace_id: str) -> tuple[str, str] | None:
    """Who made it, and what it is called."""
    row = c.execute(
        select(workspaces.c.creator_name, workspaces.c.name).where(workspaces.c.id == workspace_id)
    ).one_or_none()
    return None if row is None else (row.creator_name, row.name)


def held_environments(c: Connection) -> set[str]:
    """The environments that workspaces start in."""
    found = select(workspaces.c.environment_id).where(
        workspaces.c.environment_id.is_not(None), workspaces.c.removed_at.is_(None)
    )
    return set(c.execute(found).scalars())


def _workspace(row: RowMapping) -> Workspace:
    return Workspace(
        id=row["id"],
        project_id=row["project_id"],
        project=row["project"],
        name=row["name"],
        label=row["label"],
        program=Program(row["program"]),
        requirements=row["requirements"],
        wishes=Wishes(
            memory_bytes=row["memory_bytes"],
            cpus=row["cpus"],
            idle_seconds=row["idle_seconds"],
            network=cast("Network", row["network"]),
            gpus=row["gpus"],
            gpu_type=row["gpu_type"],
        ),
        environment_id=row["environment_id"],
        running=bool(row["running"]),
        stopped_why=row["stopped_why"],
        starts=row["starts"],
        key_id=row["key_id"],
        used_at=row["used_at"],
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


# -- saves ---------------------------------------------------------------------------------------


def _saves() -> Select[Any]:
    same = (contents.c.project_id == saves.c.project_id) & (contents.c.sha256 == saves.c.sha256)
    return select(saves, contents.c.size, contents.c.blob_key).join(contents, same)


def saves_of(
    c: Connection, workspace_id: str, path: str | None, before: int | None, limit: int
) -> list[Save]:
    """The workspace's saves, newest first; of one file when `path` is given."""
    query = _saves().where(saves.c.workspace_id == workspace_id).order_by(saves.c.seq.desc()).limit(limit)
    if path is not None:
        query = query.where(saves.c.path == path)
    if before is not None:
        query = query.where(saves.c.seq < before)
    return [_save(row) for row in c.execute(query).mappings()]


def save(c: Connection, workspace_id: str, seq: int) -> tuple[Save, str] | None:
    """One save, and the key of its bytes."""
    query = _saves().where(saves.c.workspace_id == workspace_id, saves.c.seq == seq)
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else (_save(row), row["blob_key"])


def newest(c: Connection, workspace_id: str, path: str) -> Save | None:
    found = saves_of(c, workspace_id, path, None, 1)
    return found[0] if found else None


def content(c: Connection, project_id: str, sha256: str) -> str | None:
    """The key of these bytes, if the project has them."""
    mine = (contents.c.project_id == project_id) & (contents.c.sha256 == sha256)
    return c.execute(select(contents.c.blob_key).where(mine)).scalar()


def add_content(c: Connection, project_id: str, sha256: str, size: int, blob_key: str) -> None:
    c.execute(insert(contents).values(project_id=project_id, sha256=sha256, size=size, blob_key=blob_key))


def add_save(c: Connection, of: Workspace, path: str, sha256: str, saved_at: int, saved_by: str) -> int:
    made = insert(saves).values(
        workspace_id=of.id,
        project_id=of.project_id,
        path=path,
        sha256=sha256,
        saved_at=saved_at,
        saved_by=saved_by,
    )
    return int(c.execute(made.returning(saves.c.seq)).scalar_one())


def known_blobs(c: Connection, keys: Sequence[str]) -> set[str]:
    """Those of the keys that saves consist of."""
    return set(c.execute(select(contents.c.blob_key).where(contents.c.blob_key.in_(keys))).scalars())


def stored(c: Connection) -> dict[str, int]:
    """How many bytes each project's saves hold."""
    query = select(contents.c.project_id, func.sum(contents.c.size)).group_by(contents.c.project_id)
    return {row[0]: int(row[1]) for row in c.execute(query)}


# -- removing ------------------------------------------------------------------------------------


def remove(c: Connection, of: Workspace, now: int) -> list[str]:
    """Mark it removed, with its saves and visits; returns the keys of the bytes that no other save consists of."""
    c.execute(
        update(workspaces)
        .where(workspaces.c.id == of.id)
        .values(removed_at=now, running=0, environment_id=None, key_id=None)
    )
    c.execute(delete(visits).where(visits.c.place_id == of.id))
    c.execute(delete(saves).where(saves.c.workspace_id == of.id))
    return _drop_unused(c, of.project_id)


def thin(c: Connection, until: int, day_ms: int, limit: int) -> tuple[int, list[str]]:
    """Of saves from before `until`, leave each file's last of each day (UTC) and its newest of all.

    At most `limit` at a time; returns how many went, and the keys of the bytes that no other save consists of.
    """
    later = saves.alias("later")
    same = (later.c.workspace_id == saves.c.workspace_id) & (later.c.path == saves.c.path)
    newer = same & (later.c.seq > saves.c.seq)
    of_day = newer & (later.c.saved_at < until) & (later.c.saved_at // day_ms == saves.c.saved_at // day_ms)
    query = (
        select(saves.c.seq, saves.c.project_id)
        .where(saves.c.saved_at < until, exists().where(of_day).correlate(saves))
        .order_by(saves.c.seq)
        .limit(limit)
    )
    found = c.execute(query).all()
    for start in range(0, len(found), 500):
        some = [row.seq for row in found[start : start + 500]]
        c.execute(delete(saves).where(saves.c.seq.in_(some)))
    keys = [key for place in sorted({row.project_id for row in found}) for key in _drop_unused(c, place)]
    return len(found), keys


def purge(c: Connection, project_id: str) -> list[str]:
    """Remove every row of a project's workspaces; returns the keys of their bytes."""
    mine = select(workspaces.c.id).where(workspaces.c.project_id == project_id)
    c.execute(delete(visits).where(visits.c.place_id.in_(mine)))
    c.execute(delete(saves).where(saves.c.project_id == project_id))
    keys = _drop_unused(c, project_id)
    c.execute(delete(workspaces).where(workspaces.c.project_id == project_id))
    return keys


def _drop_unused(c: Connection, project_id: str) -> list[str]:
    used = exists().where(saves.c.project_id == contents.c.project_id, saves.c.sha256 == contents.c.sha256)
    dropped = delete(contents).where(contents.c.project_id == project_id, ~used)
    return list(c.execute(dropped.returning(contents.c.blob_key)).scalars())


def _save(row: RowMapping) -> Save:
    return Save(row["seq"], row["path"], row["sha256"], row["size"], row["saved_at"], row["saved_by"])
