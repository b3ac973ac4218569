"""Rows of jobs and what they mean: the one place that turns the one into the other."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import Connection, Select, bindparam, select

from stratal.compute.engine import Isolation, Usage
from stratal.compute.model import Attempt, Held, Job, JobSpec, JobState, Source
from stratal.compute.tables import jobs
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import projects


def query() -> Select[Any]:
    """SELECT of jobs with their project's name."""
    return select(jobs, projects.c.name.label("project")).join(projects, jobs.c.project_id == projects.c.id)


_ONE = query().where(jobs.c.id == bindparam("job_id"))  # built once: building costs more than running


def row_of(c: Connection, job_id: int) -> Mapping[str, Any] | None:
    """The row of `query()` of one job."""
    row = c.execute(_ONE, {"job_id": job_id}).mappings().one_or_none()
    return None if row is None else dict(row)


def job_of(row: Mapping[str, Any]) -> Job:
    """The job in a row of `query()`."""
    return Job(
        id=row["id"],
        project_id=row["project_id"],
        project=row["project"],
        name=row["name"],
        state=JobState(row["state"]),
        argv=orjson.loads(row["argv"]),
        env=orjson.loads(row["env"]),
        cpus=row["cpus"],
        memory_bytes=row["memory_bytes"],
        gpus=row["gpus"],
        gpu_type=row["gpu_type"],
        gpu_uuids=orjson.loads(row["gpu_uuids"]),
        nodes=row["nodes"],
        procs_per_node=row["procs_per_node"],
        network=row["network"],
        timeout_seconds=row["timeout_seconds"],
        grace_seconds=row["grace_seconds"],
        priority=row["priority"],
        retries=row["retries"],
        array_id=row["array_id"],
        array_index=row["array_index"],
        requirements=row["requirements"],
        upgrade_environment=bool(row["upgrade_environment"]),
        pinned_environment=row["pinned_environment"],
        snapshot_id=row["snapshot_id"],
        cwd=row["cwd"],
        source=orjson.loads(row["source"]),
        created_by=row["created_by"],
        queued_at=row["queued_at"],
        waits_until=row["waits_until"],
        starting_at=row["starting_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        attempt=row["attempt"],
        environment_id=row["environment_id"],
        exit_code=row["exit_code"],
        reason=row["reason"],
        usage=usage_of(row["usage"]),
        isolation=_isolation_of(row["isolation"]),
        log_bytes=row["log_bytes"],
        checkpoint_bytes=row["checkpoint_bytes"],
        stop_requested_at=row["stop_requested_at"],
        stop_cause=row["stop_cause"] or "",
    )


def held_of(row: Mapping[str, Any]) -> Held:
    """The job in a row of `query()` as its holder needs it."""
    kind = row["created_by"].partition(":")[0]
    creator = Principal(
        kind=Kind(kind) if kind in list(Kind) else Kind.WORKLOAD,
        id=row["creator_id"],
        name=row["creator_name"],
        project_id=row["project_id"],
        project=row["project"],
        role=Role(row["creator_role"]),
        workload=None if kind in list(Kind) else row["created_by"],
    )
    return Held(job_of(row), row["owner"] or "", row["fence"], creator, row["key_id"])


def attempt_of(row: Mapping[str, Any]) -> Attempt:
    """The attempt in a row of `attempts`."""
    return Attempt(
        number=row["number"],
        state=JobState(row["state"]),
        gpu_uuids=orjson.loads(row["gpu_uuids"]),
        environment_id=row["environment_id"],
        starting_at=row["starting_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        reason=row["reason"],
        usage=usage_of(row["usage"]),
        isolation=_isolation_of(row["isolation"]),
        log_blob=row["log_blob"],
        log_bytes=row["log_bytes"],
    )


def usage_of(text: str) -> Usage:
    return Usage(**orjson.loads(text))


def _isolation_of(text: str | None) -> Isolation | None:
    return None if text is None else Isolation(**orjson.loads(text))


def values_of(spec: JobSpec, diff_sha256: str | None) -> dict[str, Any]:
    """The columns that say what was asked, of a spec that `submission.complete` made whole."""
    return {
        "name": spec.name,
        "argv": _json(list(spec.argv)),
        "env": _json(dict(spec.env)),
        "cpus": spec.cpus,
        "memory_bytes": spec.memory_bytes,
        "gpus": spec.gpus,
        "gpu_type": spec.gpu_type,
        "nodes": spec.nodes,
        "procs_per_node": spec.procs_per_node,
        "network": spec.network,
        "timeout_seconds": spec.timeout_seconds,
        "grace_seconds": spec.grace_seconds,
        "priority": spec.priority,
        "retries": spec.retries,
        "requirements": spec.requirements,
        "upgrade_environment": int(spec.upgrade_environment),
        "pinned_environment": spec.pinned_environment,
        "snapshot_id": spec.snapshot_id,
        "cwd": spec.cwd,
        "source": _json(_source(spec.source, diff_sha256)),
    }


def _source(source: Source, diff_sha256: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": source.kind}
    if source.kind == "git":
        told |= {
            "commit": source.commit,
            "branch": source.branch,
            "remote": source.remote,
            "dirty": source.dirty,
            "untracked": list(source.untracked),
            "submodules": dict(source.submodules),
            "diff_sha256": diff_sha256,
            "diff_bytes": len(source.diff),
            "diff_truncated": source.diff_truncated,
        }
    return told


def usage_json(usage: Usage) -> str:
    return _json(asdict(usage))


def isolation_json(isolation: Isolation) -> str:
    return _json(
        {
            "sandbox": isolation.sandbox,
            "network": isolation.network,
            "memory": isolation.memory,
            "landlock": isolation.landlock,
            "start": isolation.start,
            "other_inputs": list(isolation.other_inputs),
        }
    )


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
