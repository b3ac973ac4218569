"""``/api/v1/projects/{project}/replays``: earlier work done again, and compared."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from stratal.ai.replays.model import Input, InputState, Replay, Result, State
from stratal.ai.replays.service import Replays
from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


class NewReplay(Strict):
    of: str = Field(
        description="A pipeline's run by its number, a tracked run by its id, or a job as job:7.",
        max_length=100,
    )
    tolerance: float = Field(
        default=0.0, description="How far apart equal numbers may be, as a part of the larger."
    )
    ignore: list[str] = Field(
        default_factory=list, description="Names of results to pass over; may have * in them."
    )


def router(replays: Replays, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["replays"])

    @api.post("/projects/{project}/replays", status_code=201)
    async def ask(who: Who, project: str, body: NewReplay) -> dict[str, object]:
        """Have earlier work done again from the code, data and environment it had, and what it makes compared.

        Nothing that a replay does is seen by others.
        """
        place = await projects.get(who, project)
        asked = await replays.ask(who, place.id, body.of, tolerance=body.tolerance, ignored=body.ignore)
        return _replay(asked)

    @api.get("/projects/{project}/replays")
    async def list_replays(
        who: Who, project: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, object]:
        """The project's replays, newest first."""
        place = await projects.get(who, project)
        found = await replays.list(who, place.id, limit=limit)
        return {"replays": [_replay(one) for one in found]}

    @api.get("/projects/{project}/replays/{replay_id}")
    async def get(
        who: Who,
        project: str,
        replay_id: int,
        wait: Annotated[float, Query(ge=0, le=55, description="Seconds to wait for its end.")] = 0,
    ) -> dict[str, object]:
        """One replay: what it stood on, what it made, and what is other than it was."""
        place = await projects.get(who, project)
        return _replay(await replays.wait(who, place.id, replay_id, wait))

    return api


def _replay(replay: Replay) -> dict[str, object]:
    return {
        "id": replay.id,
        "of": replay.asked,
        "kind": replay.kind,
        "repeats": replay.of_id,
        "repeated_by": replay.by_id,
        "state": replay.state,
        "verdict": replay.verdict,
        "reason": replay.reason,
        "reproduced": replay.verdict == "reproduced",
        "inputs_unchanged": replay.state is State.ENDED and replay.unchanged,
        "altered": [_input(one) for one in replay.inputs if one.state is not InputState.SAME],
        "differing": [_result(one) for one in replay.differing],
        "inputs": [_input(one) for one in replay.inputs],
        "results": [_result(one) for one in replay.results],
        "tolerance": replay.tolerance,
        "ignored": list(replay.ignored),
        "created_at": iso(replay.created_at),
        "created_by": replay.created_by,
        "ended_at": None if replay.ended_at is None else iso(replay.ended_at),
    }


def _input(one: Input) -> dict[str, object]:
    return {"kind": one.kind, "name": one.name, "version": one.version, "state": one.state, "note": one.note}


def _result(one: Result) -> dict[str, object]:
    return {
        "of": one.of,
        "kind": one.kind,
        "name": one.name,
        "before": one.before,
        "after": one.after,
        "same": one.same,
    }
