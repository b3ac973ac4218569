"""The tools: what each is for, what it takes, and the one request (or two) of the native API that it makes."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from pydantic import Field

from stratal.gateway.mcp.arguments import Arguments

Json = dict[str, Any]
LOG_BYTES = 16 << 10
MOST_LOG_BYTES = 256 << 10
_WAIT = 50


class Api(Protocol):
    """The native API as the caller of a tool may use it. Raises `Refused`; a text comes as text."""

    async def get(self, path: str, *, last: int | None = None, **query: object) -> Any: ...

    async def post(self, path: str, body: Mapping[str, object]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Tool:
    """`changes` something or only looks; `call` gets the API, the project's path, and the checked arguments."""

    name: str
    description: str
    takes: type[Arguments]
    call: Callable[[Api, str, Any], Awaitable[Any]]
    changes: bool = False


def segment(value: object) -> str:
    return quote(str(value), safe="")


class Search(Arguments):
    words: str = Field(description="All of them must be in the name or the id.", max_length=200)
    kinds: list[str] = Field(
        default_factory=list,
        description="Only such: job, run, experiment, sweep, table, model, endpoint, function, bucket, "
        "repository, pipeline, pipeline run.",
    )
    limit: int = Field(30, ge=1, le=100)


async def search(api: Api, base: str, asked: Search) -> Any:
    return await api.get(f"{base}/search", q=asked.words, kind=asked.kinds, limit=asked.limit)


class Table(Arguments):
    table: str = Field(description="Its name with its namespace: sales.orders")


async def describe_table(api: Api, base: str, asked: Table) -> Any:
    return await api.get(f"{base}/tables/{segment(asked.table)}")


class Nothing(Arguments):
    pass


async def list_tables(api: Api, base: str, asked: Nothing) -> Any:
    return await api.get(f"{base}/tables")


class Sql(Arguments):
    statement: str = Field(description="One SELECT (DuckDB's dialect) over the project's tables.")
    params: list[str | int | float | bool | None] = Field(
        default_factory=list, description="Values for ? or $1, $2 … in the statement."
    )
    limit: int = Field(200, ge=1, le=10_000, description="At most so many rows.")


async def sql(api: Api, base: str, asked: Sql) -> Any:
    body = {
        "sql": asked.statement,
        "params": asked.params,
        "format": "json",
        "limit": asked.limit,
        "reads_only": True,
        "timeout_seconds": 120,
        "project": base.removeprefix("/projects/"),
    }
    return await api.post("/sql", body)


class Runs(Arguments):
    filter: str = Field("", description="As MLflow writes it: metrics.auc > 0.9 and params.model = 'gbm'")
    order_by: list[str] = Field(default_factory=list, description="metrics.auc DESC, for one.")
    limit: int = Field(20, ge=1, le=200)


async def list_runs(api: Api, base: str, asked: Runs) -> Any:
    return await api.get(f"{base}/runs", filter=asked.filter, order_by=asked.order_by, limit=asked.limit)


class Run(Arguments):
    run: str = Field(description="The run's id.")


async def get_run(api: Api, base: str, asked: Run) -> Any:
    return await api.get(f"{base}/runs/{segment(asked.run)}", points=50)


class Jobs(Arguments):
    states: list[str] = Field(
        default_factory=list, description="Only such: queued, starting, running, succeeded, failed, stopped."
    )
    limit: int = Field(20, ge=1, le=100)


async def list_jobs(api: Api, base: str, asked: Jobs) -> Any:
    return await api.get(f"{base}/jobs", state=asked.states, limit=asked.limit)


class Job(Arguments):
    job: int = Field(ge=1)
    wait_seconds: int = Field(0, ge=0, le=_WAIT, description="Wait so long for its end.")


async def get_job(api: Api, base: str, asked: Job) -> Any:
    told = await api.get(f"{base}/jobs/{asked.job}", wait=asked.wait_seconds)
    if told["state"] == "queued":
        told["waits_for"] = (await api.get(f"{base}/jobs/{asked.job}/why"))["waits_for"]
    return told


class JobLog(Arguments):
    job: int = Field(ge=1)
    last_bytes: int = Field(LOG_BYTES, ge=1, le=MOST_LOG_BYTES, description="Only the end of it.")


async def job_log(api: Api, base: str, asked: JobLog) -> Any:
    return await api.get(f"{base}/jobs/{asked.job}/logs", last=asked.last_bytes)


class NewJob(Arguments):
    command: list[str] = Field(
        min_length=1, description='The program and its arguments: ["python", "train.py"]'
    )
    repository: str | None = Field(
        None, description="The project's git repository whose code it runs in; absent: an empty folder."
    )
    revision: str = Field("", description="A branch, tag or commit of it; absent: where HEAD is.")
    requirements: list[str] = Field(default_factory=list, description='Packages: ["pandas>=2"]')
    name: str | None = None
    cpus: float | None = Field(None, gt=0)
    memory_mib: int | None = Field(None, gt=0)
    timeout_seconds: float | None = Field(None, gt=0)


async def submit_job(api: Api, base: str, asked: NewJob) -> Any:
    body: Json = {
        "argv": asked.command,
        "name": asked.name,
        "requirements": "\n".join(asked.requirements),
        "cpus": asked.cpus,
        "memory_bytes": None if asked.memory_mib is None else asked.memory_mib << 20,
        "timeout_seconds": asked.timeout_seconds,
    }
    if asked.repository is not None:
        place = f"{base}/repositories/{segment(asked.repository)}/snapshots"
        made = await api.post(place, {"revision": asked.revision})
        body["snapshot"] = made["id"]
        body["source"] = {
            "kind": "git", "commit": made["commit"], "branch": made["branch"], "remote": made["remote"],
        }  # fmt: skip
    return await api.post(f"{base}/jobs", body)


class OneJob(Arguments):
    job: int = Field(ge=1)


async def stop_job(api: Api, base: str, asked: OneJob) -> Any:
    return await api.post(f"{base}/jobs/{asked.job}/stop", {})


class Model(Arguments):
    model: str


async def get_model(api: Api, base: str, asked: Model) -> Any:
    return await api.get(f"{base}/models/{segment(asked.model)}")


async def list_endpoints(api: Api, base: str, asked: Nothing) -> Any:
    return await api.get(f"{base}/endpoints")


class Endpoint(Arguments):
    endpoint: str


async def get_endpoint(api: Api, base: str, asked: Endpoint) -> Any:
    return await api.get(f"{base}/endpoints/{segment(asked.endpoint)}")


async def endpoint_log(api: Api, base: str, asked: Endpoint) -> Any:
    return await api.get(f"{base}/endpoints/{segment(asked.endpoint)}/logs", last=LOG_BYTES)


class Predict(Arguments):
    endpoint: str
    rows: list[dict[str, Any]] | None = Field(None, description='Rows by column: [{"age": 41, "sex": "f"}]')
    inputs: Any = Field(None, description="Or arrays, as the model's signature names them.")


async def predict(api: Api, base: str, asked: Predict) -> Any:
    body: Json = {"inputs": asked.inputs} if asked.rows is None else {"dataframe_records": asked.rows}
    return await api.post(f"{base}/endpoints/{segment(asked.endpoint)}/invocations", body)


class Deploy(Arguments):
    endpoint: str = Field(description="The endpoint's name; a new one is made.")
    model: str = Field(description="models:/NAME/VERSION or models:/NAME@alias")
    traffic: Annotated[int, Field(ge=0, le=100)] = Field(
        100, description="The percentage of requests that the new revision gets."
    )


async def deploy(api: Api, base: str, asked: Deploy) -> Any:
    body: Json = {"name": asked.endpoint, "model": asked.model}
    if asked.traffic != 100:
        body["traffic"] = asked.traffic
    return await api.post(f"{base}/endpoints", body)


class Why(Arguments):
    prediction: str = Field(description="The id that came with a prediction: pr_…")


async def why(api: Api, base: str, asked: Why) -> Any:
    return await api.get(f"/predictions/{segment(asked.prediction)}/why")


TOOLS: Sequence[Tool] = (
    Tool("search", "Find things of the project by words of their names or ids.", Search, search),
    Tool("list_tables", "The project's tables with their sizes.", Nothing, list_tables),
    Tool("describe_table", "A table's columns, types and newest snapshot.", Table, describe_table),
    Tool("sql", "Read the project's tables with one SQL statement. Nothing can be written with it.", Sql, sql),
    Tool("list_runs", "Runs with their latest metrics and their parameters, newest first.", Runs, list_runs),
    Tool("get_run", "A run with everything logged to it.", Run, get_run),
    Tool("list_jobs", "The project's jobs, newest first.", Jobs, list_jobs),
    Tool("get_job", "A job: its state, and what it waits for while it is queued.", Job, get_job),
    Tool("job_log", "The end of what a job has written.", JobLog, job_log),
    Tool("submit_job", "Queue a job. It spends the project's budget.", NewJob, submit_job, True),
    Tool("stop_job", "Ask a job to stop.", OneJob, stop_job, True),
    Tool("get_model", "A registered model with its versions, newest first.", Model, get_model),
    Tool("list_endpoints", "The endpoints: deployed models that answer.", Nothing, list_endpoints),
    Tool("get_endpoint", "An endpoint's state, revisions, latency, and the columns it takes.", Endpoint,
         get_endpoint),
    Tool("endpoint_log", "The end of what an endpoint's newest replica has written.", Endpoint, endpoint_log),
    Tool("predict", "Ask an endpoint. The answer's prediction_id can be given to why.", Predict, predict),
    Tool("deploy", "Deploy a model version to an endpoint, which answers when it is ready.", Deploy, deploy,
         True),
    Tool("why", "Explain a prediction: every link back to model, run, code and data, hashed again.", Why, why),
)  # fmt: skip
