"""How specifications and statuses travel: as plain values, between server, bridge and supervisors."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stratal.compute.engine import Gang, WorkloadSpec, WorkloadStatus

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
