"""How specifications and statuses travel: as plain values, between server, bridge and supervisors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stratal.compute.engine import Gang, Isolation, Usage, WorkloadSpec, WorkloadStatus

Status = dict[str, Any]


def spec_to(spec: WorkloadSpec) -> dict[str, Any]:
    """As JSON would have it."""
    plain = asdict(replace(spec, argv=list(spec.argv), env=dict(spec.env)))
    for name in ("cwd", "python"):
        plain[name] = None if plain[name] is None else str(plain[name])
    for name in ("read_only", "read_write"):
        plain[name] = [str(path) for path in plain[name]]
    return plain


def spec_from(plain: Mapping[str, Any]) -> WorkloadSpec:
    values = dict(plain)
    for name in ("cwd", "python"):
        values[name] = None if values[name] is None else Path(values[name])
    for name in ("read_only", "read_write"):
        values[name] = [Path(path) for path in values[name]]
    if values.get("gang") is not None:
        values["gang"] = Gang(**values["gang"])
    return WorkloadSpec(**values)


def status_to(status: WorkloadStatus) -> Status:
    plain = asdict(status)
    plain["isolation"]["other_inputs"] = list(status.isolation.other_inputs)
    return plain


def together(
    attempt_id: str, parts: Sequence[WorkloadStatus], failed: WorkloadStatus | None
) -> WorkloadStatus:
    """One status for all parts: it ends with the last of them, as the one that `failed` first, or well."""
    begun = [part.started_at for part in parts if part.started_at is not None]
    ended = [part.ended_at for part in parts if part.ended_at is not None]
    running = any(part.state == "running" for part in parts)
    lost = any(part.lost for part in parts)
    worst = failed or parts[0]
    return WorkloadStatus(
        attempt_id=attempt_id,
        state="running" if running else "unknown" if lost else worst.state,
        pid=parts[0].pid,
        started_at=min(begun, default=None),
        ended_at=None if running else max(ended, default=None),
        exit_code=None if running or lost else worst.exit_code,
        reason="" if running else worst.reason,
        usage=_usage([part.usage for part in parts]),
        isolation=_isolation([part.isolation for part in parts]),
        node=", ".join(dict.fromkeys(part.node for part in parts if part.node)),
        lost=lost and not running,
    )


def _usage(parts: Sequence[Usage]) -> Usage:
    return Usage(
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        peak_memory_bytes=sum(part.peak_memory_bytes for part in parts),
        wall_seconds=max(part.wall_seconds for part in parts),
        memory_byte_seconds=sum(part.memory_byte_seconds for part in parts),
    )


def _isolation(parts: Sequence[Isolation]) -> Isolation:
    """What holds on every machine."""
    return Isolation(
        sandbox="bubblewrap" if all(part.sandbox == "bubblewrap" for part in parts) else "none",
        network="platform" if all(part.network == "platform" for part in parts) else "open",
        memory=parts[0].memory if len({part.memory for part in parts}) == 1 else "none",
        landlock=all(part.landlock for part in parts),
        other_inputs=tuple(dict.fromkeys(name for part in parts for name in part.other_inputs)),
    )
