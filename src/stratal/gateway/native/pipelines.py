"""``/api/v1/projects/{project}/pipelines``: runs and their steps, and what the workers of runs say and ask."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from stratal.compute.engine import Network
from stratal.data.lake.model import Place, parse_table_name
from stratal.data.objects.service import Objects
from stratal.data.pipelines.deployed import Deployed, Triggers
from stratal.data.pipelines.model import Run, RunSpec, RunState, Step, StepState, partition_states
from stratal.data.pipelines.room import Room
from stratal.data.pipelines.service import MOST_AT_ONCE, REPORTS
from stratal.data.queries.service import Sourced
from stratal.gateway.door import principal
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.permissions import may
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, NotFound
from stratal.ledger.units import shown

Who = Annotated[Principal, Depends(caller)]
Json = Any

MAX_RUN_BODY = 1024 * 1024
MAX_JOURNAL_BODY = 64 * 1024 * 1024
MOST_SECONDS_OF_WAITING = 55.0


class NewRun(Strict):
    file: str = Field(description="The Python file within the code, relative to `cwd`.")
    snapshot: str = Field(description="The id of a code snapshot that holds the SDK below `.stratal`.")
    pipeline: str = Field(default="", description="Its name; absent: the file's only one.")
    parameters: dict[str, Json] = Field(default_factory=dict)
    cwd: str = ""
    source: dict[str, Json] = Field(default_factory=dict)
    requirements: str = ""
    network: Network | None = None
    parallel: int | None = Field(default=None, description="At most so many small steps at once.")
    use_cache: bool = True
    partitions: list[str] | None = Field(
        default=None, description="The function is run once for each; absent: once."
    )


class Called(Strict):
    do: Literal["call"]
    name: str = Field(min_length=1, max_length=300)
    step: str = Field(min_length=1, max_length=200)
    kind: Literal["python", "sql", "shell", "report", "notebook", "dbt"]
    doc: str = ""
    after: list[str] = Field(default_factory=list)
    index: int | None = None
    code: str = Field(max_length=200)
    small: bool = True
    cache: bool = True
    retries: int = Field(default=0, ge=0, le=100)
    timeout_seconds: float | None = Field(default=None, gt=0)
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = None
    requirements: str | None = None
    network: Network | None = None
    replay: bool = True


class Begun(Strict):
    do: Literal["begin"]
    pipeline: str
    doc: str = ""


_PART = "^([0-9a-z]{10})?$"


class Started(Strict):
    do: Literal["start"]
    name: str
    arguments: dict[str, Json] = Field(default_factory=dict)
    upon: list[str] = Field(
        default_factory=list,
        description="Steps whose ends this page tells, and whose outputs are among these.",
    )
    part: str = Field(
        default="", pattern=_PART, description="It has begun with this credential from the worker's store."
    )
    began: int | None = Field(default=None, ge=0, description="When, in epoch milliseconds.")


class Checked(Strict):
    check: str
    table: str
    snapshot: str | None = None
    blocking: bool
    passed: bool
    wrong: int
    words: str = ""


class Built(Strict):
    name: str = Field(max_length=200)
    kind: Literal["model", "seed", "snapshot"]
    state: Literal["succeeded", "failed", "skipped"]
    table: str | None = Field(default=None, description="The one that it became; null: it became none.")
    reads: list[str] = Field(default_factory=list, description="The tables that it is made of.")
    seconds: float = Field(default=0, ge=0)
    words: str = ""
    sql: str = Field(default="", description="The query whose rows it has.")


class Finished(Strict):
    do: Literal["finish"] = "finish"
    name: str = ""
    attempt: int = Field(ge=0, le=2**31)
    state: Literal["succeeded", "failed"]
    output: Json = None
    error: str = ""
    log: str = ""
    seconds_ago: float | None = Field(default=None, ge=0, description="When it began.")
    checks: list[Checked] = Field(default_factory=list, max_length=1000)
    models: list[Built] = Field(
        default_factory=list, max_length=10_000, description="What those of a project of dbt came to."
    )
    settled: bool = Field(default=False, description="The worker has noted it and gone on from it.")
    part: str = Field(
        default="", pattern=_PART, description="As of `start`, for a step whose start is not told."
    )
    arguments: dict[str, Json] = Field(default_factory=dict, description="Of such a step.")
    began: int | None = Field(default=None, ge=0, description="In epoch milliseconds.")
    ended: int | None = Field(default=None, ge=0, description="In epoch milliseconds.")


class Skipped(Strict):
    do: Literal["skip"]
    name: str
    reason: str
    failed: bool = False


class Ended(Strict):
    do: Literal["end"]
    state: Literal["succeeded", "failed"]
    reason: str = ""
    output: Json = None


class Page(Strict):
    epoch: int = Field(ge=0, le=2**31)
    entries: list[
        Annotated[Called | Begun | Started | Finished | Skipped | Ended, Field(discriminator="do")]
    ] = Field(default_factory=list, max_length=1000)
    watch: list[str] = Field(default_factory=list, max_length=20_000)
    want: int = Field(
        default=0, ge=0, le=1000, description="How many credentials for steps to put into the worker's store."
    )
    look: list[tuple[str, str]] = Field(
        default_factory=list, max_length=1000, description="Steps, by name and code, to look for results of."
    )


def _plain(entry: BaseModel) -> dict[str, Json]:
    """The entry as the journal takes it: pages are long, and `model_dump` would copy all that was just validated."""
    told = dict(vars(entry))
    for name in ("checks", "models"):
        if told.get(name):
            told[name] = [one.model_dump() for one in told[name]]
    return told


class Nothing(Strict):
    pass


class Opening(Strict):
    noted: list[Annotated[Called | Finished, Field(discriminator="do")]] = Field(
        default_factory=list,
        max_length=60_000,
        description="What the worker before had noted on its disk, and perhaps not told: calls, and their ends.",
    )


class Rows(Strict):
    sql: str


class NewDeployment(NewRun):
    schedule: str | None = Field(default=None, description="Five fields of cron.")
    timezone: str = "UTC"
    catch_up: Literal["none", "last", "all"] = Field(
        default="last", description="Which moments of the schedule that passed unseen are made up for."
    )
    on_table: str | None = Field(default=None, description="Run when this table has a new snapshot.")
    on_prefix: str | None = Field(default=None, description="Run when an object comes: s3://bucket/prefix.")
    on_model: str | None = Field(
        default=None, description="Run when this registered model has a new version."
    )
    on_pipeline: str | None = Field(default=None, description="Run when a run of this pipeline succeeded.")
    overlap: Literal["queue", "skip", "cancel", "together"] = Field(
        default="queue", description="What becomes of a run that is due while another has not ended."
    )
    partition_of: str | None = Field(
        default=None, description="A pattern that finds in an arrived object's key the partition it is of."
    )


class NewHook(Strict):
    grace_seconds: int = Field(
        default=86_400, description="So long a secret that there was before is good yet."
    )


class Asked(Strict):
    parameters: dict[str, Json] = Field(default_factory=dict)
    partitions: list[str] | None = None


JOURNAL = re.compile(rb"/api/v1/projects/([^/]+)/pipelines/runs/([0-9]{1,18})/journal\Z")


def journal(room: Room, projects: Projects) -> Callable[..., Awaitable[Response]]:
    """Who answers a worker's page, once for every step of a chain: ``(scope, receive, project, run)``."""

    async def tell(scope: Scope, receive: Receive, project: str, run: str) -> Response:
        who = principal(scope)
        project_id = who.project_id if project == who.project else (await projects.get(who, project)).id
        page = await read_model(Request(scope, receive), Page, MAX_JOURNAL_BODY)
        entries = [_plain(entry) for entry in page.entries]
        place = Place(project_id, project)
        decisions, store, left = await room.runs.write(
            who, place, int(run), page.epoch, entries, page.watch, page.want, page.look
        )
        told = {"decisions": decisions, "store": store, "left": left}
        return Response(orjson.dumps(told), media_type="application/json")

    return tell


def router(
    room: Room, projects: Projects, objects: Objects, url: str, tell: Callable[..., Awaitable[Response]]
) -> APIRouter:
    """`url` is the instance's address, shown with webhooks; `tell` answers `journal`."""
    pipelines = room.runs
    api = APIRouter(tags=["pipelines"])
    base = "/projects/{project}/pipelines/runs"

    async def place_of(who: Principal, project: str) -> Place:
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.get(base)
    async def list_runs(
        who: Who,
        project: str,
        pipeline: Annotated[str | None, Query(description="Only this pipeline's.")] = None,
        state: Annotated[list[RunState] | None, Query()] = None,
        before: int | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """The project's runs, newest first; `next` is the `before` of the next page, null at the end."""
        place = await place_of(who, project)
        page = await pipelines.list(
            who, place.id, pipeline=pipeline, states=state or (), before=before, limit=limit
        )
        return {"runs": [_run(run) for run in page.runs], "next": page.more_before}

    @api.post(base, status_code=201, openapi_extra=body_of(NewRun))
    async def start_run(request: Request, who: Who, project: str) -> dict[str, object]:
        """Queue a run of a pipeline. Durable once this answers."""
        place = await place_of(who, project)
        body = await read_model(request, NewRun, MAX_RUN_BODY)
        asked = body.model_dump(exclude={"snapshot"})
        return _run(await pipelines.run(who, place.id, RunSpec(**asked, snapshot_id=body.snapshot)))

    @api.get(base + "/{run_id}")
    async def get_run(
        who: Who,
        project: str,
        run_id: int,
        wait: Annotated[float, Query(ge=0, description="Wait up to so many seconds for its end.")] = 0,
    ) -> dict[str, object]:
        """A run with its steps."""
        place = await place_of(who, project)
        if wait:
            run = await pipelines.wait(who, place.id, run_id, min(wait, MOST_SECONDS_OF_WAITING))
        else:
            run = await pipelines.get(who, place.id, run_id)
        found = await pipelines.steps(who, place.id, run_id)
        states = await pipelines.job_states(found)
        costs = await pipelines.costs(run, found) if may(who, "cost.read", place.id) else {}
        return {
            **_run(run),
            "cost": shown(sum(costs.values())) if costs else None,
            "partitions": None if run.partitions is None else partition_states(run, found),
            "steps": [
                {**_step(step, states), "cost": shown(costs[step.name]) if step.name in costs else None}
                for step in found
            ],
        }

    @api.post(base + "/{run_id}/cancel")
    async def cancel_run(who: Who, project: str, run_id: int) -> dict[str, object]:
        """End a run; for one that has ended, nothing changes."""
        place = await place_of(who, project)
        return _run(await pipelines.cancel(who, place.id, run_id))

    @api.post(base + "/{run_id}/retry")
    async def retry_run(who: Who, project: str, run_id: int) -> dict[str, object]:
        """Take a run that failed or was cancelled up again: only what did not go well is done."""
        place = await place_of(who, project)
        return _run(await pipelines.retry(who, place.id, run_id))

    @api.get(base + "/{run_id}/steps/{step:path}/log")
    async def read_step_log(who: Who, project: str, run_id: int, step: str) -> dict[str, object]:
        """What the last attempt of a step wrote: its `log`, or the `job` whose log has it."""
        place = await place_of(who, project)
        found, text = await pipelines.step_log(who, place.id, run_id, step)
        return {
            "name": found.name,
            "kind": found.kind,
            "state": found.state,
            "job": found.job_id,
            "log": text,
            "report": _has_report(found),
        }

    @api.get(base + "/{run_id}/steps/{step:path}/report")
    async def read_report(who: Who, project: str, run_id: int, step: str) -> Response:
        """The page that a report or a notebook made. It may run nothing and load nothing, wherever it is opened."""
        place = await place_of(who, project)
        bucket, key, etag = await pipelines.report(who, place.id, run_id, step)
        version = await objects.head(who, bucket, key)
        if version.etag != etag:
            raise NotFound(
                f"The report of step {step} was overwritten.",
                hint="Run it again: stratal pipeline run --no-cache",
                reason="no_such_report",
            )
        page = b"".join([chunk async for chunk in objects.read(who, version)])
        return Response(page, media_type="text/html", headers=_INERT)

    # -- deployed pipelines --------------------------------------------------------------------

    @api.get("/projects/{project}/pipelines")
    async def list_deployed(who: Who, project: str) -> dict[str, object]:
        """The deployed pipelines, by name."""
        place = await place_of(who, project)
        return {"pipelines": [_deployed(one) for one in await room.deployed.list(who, place.id)]}

    @api.put("/projects/{project}/pipelines/deployed/{name}", openapi_extra=body_of(NewDeployment))
    async def deploy(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Deploy a pipeline, in the place of an earlier one of that name."""
        place = await place_of(who, project)
        body = await read_model(request, NewDeployment, MAX_RUN_BODY)
        listens = ("on_table", "on_prefix", "on_model", "on_pipeline")
        when = ("schedule", "timezone", "catch_up", *listens, "overlap", "partition_of")
        asked = body.model_dump(exclude={"snapshot", "pipeline", "partitions", *when})
        spec = RunSpec(**asked, snapshot_id=body.snapshot, pipeline=name)
        triggers = Triggers(**{key: getattr(body, key) for key in when})
        return _deployed(await room.deployed.deploy(who, place.id, name, spec, triggers))

    @api.delete("/projects/{project}/pipelines/deployed/{name}", status_code=204)
    async def undeploy(who: Who, project: str, name: str) -> None:
        """Take a deployed pipeline back; its runs stay."""
        place = await place_of(who, project)
        await room.deployed.remove(who, place.id, name)

    @api.post(
        "/projects/{project}/pipelines/deployed/{name}/runs", status_code=201, openapi_extra=body_of(Asked)
    )
    async def trigger(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Run a deployed pipeline now: what a webhook calls. `parameters` go over those it was deployed with."""
        place = await place_of(who, project)
        body = await read_model(request, Asked, MAX_RUN_BODY)
        return _run(await room.deployed.trigger(who, place.id, name, body.parameters, body.partitions))

    @api.post("/projects/{project}/pipelines/deployed/{name}/hook", openapi_extra=body_of(NewHook))
    async def make_hook(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Let signed webhooks run it: their address and a new secret, which is shown this once."""
        place = await place_of(who, project)
        body = await read_model(request, NewHook, 1024)
        secret = await room.deployed.hook(who, place.id, name, body.grace_seconds)
        path = f"/hooks/{quote(place.name, safe='')}/{quote(name, safe='')}"
        return {"name": name, "url": f"{url}{path}", "secret": secret}

    @api.delete("/projects/{project}/pipelines/deployed/{name}/hook", status_code=204)
    async def drop_hook(who: Who, project: str, name: str) -> None:
        """Webhooks run it no more."""
        place = await place_of(who, project)
        await room.deployed.unhook(who, place.id, name)

    @api.get("/projects/{project}/pipelines/calendar/{name}")
    async def calendar(who: Who, project: str, name: str) -> dict[str, object]:
        """Every partition that runs of a pipeline made, by name, as the newest of them left it."""
        place = await place_of(who, project)
        return {"pipeline": name, "partitions": await pipelines.calendar(who, place.id, name)}

    # -- the run's worker ----------------------------------------------------------------------

    @api.post(base + "/{run_id}/open", openapi_extra=body_of(Opening))
    async def open_journal(request: Request, who: Who, project: str, run_id: int) -> dict[str, object]:
        """For the run's worker alone: begin, or go on; whoever opened it before is refused from now on."""
        place = await place_of(who, project)
        body = await read_model(request, Opening, MAX_JOURNAL_BODY)
        noted = [_plain(entry) for entry in body.noted]
        run, found = await pipelines.open(who, place.id, run_id, noted)
        return {
            "epoch": run.epoch,
            "file": run.file,
            "pipeline": run.pipeline,
            "parameters": dict(run.parameters),
            "parallel": run.parallel,
            "partitions": None if run.partitions is None else list(run.partitions),
            "steps": [
                {"name": step.name, "state": step.state, "reason": step.reason, "output": step.output}
                for step in found
                if step.state.ended
            ],
            "ask": run.replay_of is not None,
            "tried": [step.name for step in found if step.attempt > 0 and not step.state.ended],
        }

    @api.post(base + "/{run_id}/journal", openapi_extra=body_of(Page))
    async def write_journal(request: Request, project: str, run_id: int) -> Response:
        """For the run's worker alone: what was called, is ready or has ended; answers what to do."""
        return await tell(request.scope, request.receive, project, str(run_id))

    # -- a step that is a job of its own -----------------------------------------------------------

    @api.post(base + "/{run_id}/steps/{step:path}/begin", openapi_extra=body_of(Nothing))
    async def begin_step(
        request: Request, who: Who, project: str, run_id: int, step: str
    ) -> dict[str, object]:
        """For the step's job alone: what it has to do."""
        place = await place_of(who, project)
        await read_model(request, Nothing, 1024)
        run, found = await pipelines.begin_step(who, place.id, run_id, step)
        return {
            "file": run.file,
            "step": found.step,
            "attempt": found.attempt,
            "arguments": found.arguments,
        }

    @api.post(base + "/{run_id}/steps/{step:path}/finish", openapi_extra=body_of(Finished))
    async def finish_step(
        request: Request, who: Who, project: str, run_id: int, step: str
    ) -> dict[str, object]:
        """For the step's job alone: how it went."""
        place = await place_of(who, project)
        body = await read_model(request, Finished, MAX_RUN_BODY * 4)
        entry = {**body.model_dump(), "name": step}
        return await pipelines.finish_step(who, place, run_id, entry)

    # -- what a step writes --------------------------------------------------------------------

    @api.put(base + "/{run_id}/steps/{step:path}/tables/{table}", status_code=201)
    async def write_rows(
        request: Request,
        who: Who,
        project: str,
        run_id: int,
        step: str,
        table: str,
        attempt: Annotated[int, Query(ge=0, le=2**31)],
        number: Annotated[int, Query(ge=1, le=100_000, description="Which write of the attempt this is.")],
        format: Annotated[Literal["json", "arrow", "parquet", "csv"], Query()] = "json",
        mode: Literal["append", "extend", "replace", "upsert", "overwrite"] = "append",
        keys: Annotated[list[str] | None, Query()] = None,
        where: Annotated[str, Query(description="A JSON object: the values of the rows that give way.")] = "",
    ) -> dict[str, object]:
        """For the step's own credential alone: stage the rows of the body, shown to others when the step succeeds."""
        place = await place_of(who, project)
        return await pipelines.write_table(
            who, place, run_id, step, attempt, number, parse_table_name(table),
            Sourced(body=_body(request), format=format), mode, keys=keys or (), where=_where(where),
        )  # fmt: skip

    @api.post(base + "/{run_id}/steps/{step:path}/tables/{table}", status_code=201)
    async def write_query(
        who: Who,
        project: str,
        run_id: int,
        step: str,
        table: str,
        body: Rows,
        attempt: Annotated[int, Query(ge=0, le=2**31)],
        number: Annotated[int, Query(ge=1, le=100_000)],
        mode: Literal["append", "extend", "replace", "upsert", "overwrite"] = "append",
        keys: Annotated[list[str] | None, Query()] = None,
        where: str = "",
    ) -> dict[str, object]:
        """For the step's own credential alone: stage the rows of a query."""
        place = await place_of(who, project)
        return await pipelines.write_table(
            who, place, run_id, step, attempt, number, parse_table_name(table),
            Sourced(sql=body.sql), mode, keys=keys or (), where=_where(where),
        )  # fmt: skip

    return api


def _has_report(step: Step) -> bool:
    return step.kind in REPORTS and isinstance(step.output, dict) and "$object" in step.output


_INERT = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
"""A page of somebody's making: no scripts, no forms, an origin of nobody's."""


def _where(text: str) -> Mapping[str, Json]:
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except ValueError as error:
        raise Invalid("`where` is not JSON.", reason="bad_where") from error
    if not isinstance(found, dict) or any(isinstance(value, list | dict) for value in found.values()):
        raise Invalid("`where` is an object of plain values by column.", reason="bad_where")
    return found


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise Invalid(
            "The connection broke off before the whole body had arrived.", reason="incomplete_body"
        ) from error


def _deployed(one: Deployed) -> dict[str, object]:
    return {
        "name": one.name,
        "version": one.version,
        "file": one.spec.file,
        "parameters": dict(one.spec.parameters),
        "snapshot": one.spec.snapshot_id,
        "cwd": one.spec.cwd,
        "source": dict(one.spec.source),
        "requirements": one.spec.requirements.splitlines(),
        "network": one.spec.network,
        "parallel": one.spec.parallel,
        "schedule": one.triggers.schedule,
        "timezone": one.triggers.timezone,
        "catch_up": one.triggers.catch_up,
        "on_table": one.triggers.on_table,
        "on_prefix": one.triggers.on_prefix,
        "on_model": one.triggers.on_model,
        "on_pipeline": one.triggers.on_pipeline,
        "overlap": one.triggers.overlap,
        "partition_of": one.triggers.partition_of,
        "hook_made_at": None if one.hook_made_at is None else iso(one.hook_made_at),
        "next_at": None if one.next_at is None else iso(one.next_at),
        "deployed_at": iso(one.deployed_at),
        "deployed_by": one.deployed_by,
        "last_run": one.last_run,
        "last_state": one.last_state,
    }


def _run(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "name": run.pipeline,
        "pipeline": run.pipeline,
        "doc": run.doc,
        "project": run.project,
        "state": run.state,
        "reason": run.reason,
        "file": run.file,
        "parameters": dict(run.parameters),
        "trigger": run.trigger,
        "output": run.output,
        "snapshot": run.snapshot_id,
        "cwd": run.cwd,
        "source": dict(run.source),
        "requirements": run.requirements.splitlines(),
        "network": run.network,
        "parallel": run.parallel,
        "use_cache": run.use_cache,
        "replay_of": run.replay_of,
        "created_by": run.created_by,
        "created_at": iso(run.created_at),
        "started_at": None if run.started_at is None else iso(run.started_at),
        "ended_at": None if run.ended_at is None else iso(run.ended_at),
        "job": run.job_id,
        "states": {state.value: run.states[state.value] for state in StepState if state.value in run.states},
    }


def _step(step: Step, job_states: Mapping[int, str]) -> dict[str, object]:
    queued = step.job_id is not None and job_states.get(step.job_id) in {"queued", "starting"}
    return {
        "name": step.name,
        "state": "queued" if queued else step.state,
        "reason": step.reason,
        "step": step.step,
        "kind": step.kind,
        "doc": step.doc,
        "after": list(step.after),
        "attempt": step.attempt,
        "job": step.job_id,
        "workload": step.workload,
        "key": step.key,
        "code": step.code,
        "environment": step.environment,
        "arguments": step.arguments,
        "output": step.output,
        "error": step.error,
        "reads": [dict(read) for read in step.reads],
        "writes": [dict(write) for write in step.writes],
        "checks": [dict(check) for check in step.checks],
        "models": [{name: value for name, value in one.items() if name != "sql"} for one in step.models],
        "report": _has_report(step),
        "created_at": iso(step.created_at),
        "started_at": None if step.started_at is None else iso(step.started_at),
        "ended_at": None if step.ended_at is None else iso(step.ended_at),
    }
