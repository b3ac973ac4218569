"""Runs and steps: their values and states. Pure.

A run:   queued ──▶ running ──▶ succeeded | failed | cancelled        (a retry: back to queued)
A step:  waiting ──▶ running ──▶ succeeded | failed                   (failed with tries left: back to waiting)
            └──▶ cached | skipped | cancelled
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

Json = Any


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in {RunState.QUEUED, RunState.RUNNING}


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in {StepState.WAITING, StepState.RUNNING}

    @property
    def good(self) -> bool:
        return self in {StepState.SUCCEEDED, StepState.CACHED}


UNENDED_RUNS = (RunState.QUEUED.value, RunState.RUNNING.value)
UNENDED_STEPS = (StepState.WAITING.value, StepState.RUNNING.value)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What somebody asks to be run: the pipeline called `pipeline` ("": the only one) in `file` of a code snapshot."""

    file: str
    snapshot_id: str
    pipeline: str = ""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    cwd: str = ""
    source: Mapping[str, Json] = field(default_factory=dict)
    requirements: str = ""
    network: str | None = None
    parallel: int | None = None
    use_cache: bool = True
    partitions: Sequence[str] | None = None
    """Run the function once for each; None: once, for the whole."""
    trigger: str = "manual"
    replay_of: int | None = None
    """The run that it repeats: it takes nothing from earlier ones, and shows nothing to others."""
    environment: str | None = None
    """The environment of its worker by its id; None: what `requirements` are resolved to."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as recorded. Times are epoch milliseconds; `states` counts its steps."""

    id: int
    project_id: str
    project: str
    pipeline: str
    doc: str
    file: str
    parameters: Mapping[str, Json]
    trigger: str
    state: RunState
    reason: str
    output: Json
    snapshot_id: str
    cwd: str
    source: Mapping[str, Json]
    requirements: str
    network: str | None
    parallel: int | None
    use_cache: bool
    partitions: Sequence[str] | None
    replay_of: int | None
    environment: str | None
    created_by: str
    creator_id: str
    creator_name: str
    creator_role: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    job_id: int | None
    epoch: int
    states: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run as recorded. `reads` and `writes` are what its own credential was seen to do."""

    id: int
    run_id: int
    project_id: str
    name: str
    step: str
    kind: str
    doc: str
    after: Sequence[str]
    call: Mapping[str, Json]
    small: bool
    code: str
    arguments: Json
    environment: str | None
    key: str | None
    state: StepState
    reason: str
    attempt: int
    job_id: int | None
    workload: str | None
    output: Json
    error: str | None
    reads: Sequence[Mapping[str, Json]]
    writes: Sequence[Mapping[str, Json]]
    checks: Sequence[Mapping[str, Json]]
    """What was checked of what it wrote, and how that went."""
    models: Sequence[Mapping[str, Json]]
    """Of a project of dbt: what each model, seed and snapshot came to, and which tables it was made of."""
    taken_from: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None


def step_key(pipeline: str, name: str, code: str, arguments: Json, environment: str) -> str:
    """What is to be done, in words that mean the same on another instance: no snapshot's id is in it."""
    parts = [pipeline, name, code, without_moments(arguments), environment]
    return hashlib.sha256(dumped(parts).encode()).hexdigest()


def dumped(value: Json) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def digest(value: Json) -> str:
    return hashlib.sha256(dumped(value).encode()).hexdigest()


def in_parts(many: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`many`, as many at a time as a statement may ask about."""
    for start in range(0, len(many), 500):
        yield many[start : start + 500]


def without_moments(value: Json) -> Json:
    """An encoded value, each reference to a table or object reduced to its name (see the SDK's `values`)."""
    if isinstance(value, list):
        return [without_moments(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$table" in value:
        return {"$table": value["$table"]}
    if "$object" in value:
        return {"$object": value["$object"]}
    return {key: without_moments(item) for key, item in value.items()}


def moments(value: Json) -> Iterator[tuple[str, str | None]]:
    """(name, snapshot or etag) of every table and object within an encoded value."""
    if isinstance(value, list):
        for item in value:
            yield from moments(item)
    elif isinstance(value, dict):
        if "$table" in value:
            yield str(value["$table"]), value.get("snapshot")
        elif "$object" in value:
            yield str(value["$object"]), value.get("etag")
        else:
            for item in value.values():
                yield from moments(item)


_WORST_FIRST = (
    *(StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED, StepState.RUNNING, StepState.WAITING),
    *(StepState.SUCCEEDED, StepState.CACHED),
)


def partition_states(run: Run, found: Sequence[Step]) -> list[dict[str, Json]]:
    """How each partition of a run stands: the worst of its steps' states; those not called yet wait."""
    states: dict[str, set[StepState]] = {}
    for step in found:
        states.setdefault(step.name.rpartition("@")[2], set()).add(step.state)
    broken = set((run.output or {}).get("failed_partitions", ())) if isinstance(run.output, dict) else set()
    told: list[dict[str, Json]] = []
    for name in run.partitions or ():
        worst = next((state for state in _WORST_FIRST if state in states.get(name, ())), StepState.WAITING)
        told.append({"name": name, "state": StepState.FAILED if name in broken else worst})
    return told
