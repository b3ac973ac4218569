"""Rows of replays and what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import Connection, Select, select

from stratal.ai.replays.model import Input, InputState, Replay, Result, State, Verdict
from stratal.ai.replays.tables import replays
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import projects
from stratal.kernel.errors import NotFound

_PLAIN = (
    *("id", "project_id", "project", "asked", "kind", "of_id", "by_id", "tolerance", "reason"),
    *("created_at", "ended_at", "created_by", "creator_id", "creator_name", "creator_role"),
)


def query() -> Select[Any]:
    """SELECT of replays with their project's name."""
    return select(replays, projects.c.name.label("project")).join(
        projects, replays.c.project_id == projects.c.id
    )


def replay_of(row: Mapping[Any, Any]) -> Replay:
    """The replay in a row of `query()`."""
    return Replay(
        **{name: row[name] for name in _PLAIN},
        ignored=orjson.loads(row["ignored"]),
        state=State(row["state"]),
        verdict=None if row["verdict"] is None else Verdict(row["verdict"]),
        inputs=[Input(**{**one, "state": InputState(one["state"])}) for one in orjson.loads(row["inputs"])],
        results=[Result(**one) for one in orjson.loads(row["results"])],
    )


def find(c: Connection, project_id: str | None, replay_id: int) -> Replay:
    """Raises `NotFound`, also for a replay of another project; None asks for any project's."""
    wanted = query().where(replays.c.id == min(replay_id, 2**62))
    if project_id is not None:
        wanted = wanted.where(replays.c.project_id == project_id)
    row = c.execute(wanted).mappings().one_or_none()
    if row is None:
        raise NotFound(
            f"There is no replay {replay_id} in this project.",
            hint="Ask for one with: stratal replay RUN",
            reason="no_such_replay",
        )
    return replay_of(row)


def dumped(values: Sequence[Input] | Sequence[Result]) -> str:
    return orjson.dumps([asdict(one) for one in values]).decode()


def creator(replay: Replay) -> Principal:
    """Who asked for the replay, as the maker of its job."""
    kind = replay.created_by.partition(":")[0]
    return Principal(
        kind=Kind(kind) if kind in list(Kind) else Kind.WORKLOAD,
        id=replay.creator_id,
        name=replay.creator_name,
        project_id=replay.project_id,
        project=replay.project,
        role=Role(replay.creator_role),
        workload=None if kind in list(Kind) else replay.created_by,
    )
