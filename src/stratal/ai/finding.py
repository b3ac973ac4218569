"""Finding things of a project by words of their names: one read over every room's names, written by none of them.

It stands in the highest mission room because it reads the rows of all; what may be found is what the caller
may list, kind by kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Column, ColumnElement, Connection, Select, Text, cast, func, literal, or_, select, true

from stratal.ai.endpoints.tables import endpoints
from stratal.ai.functions.tables import functions
from stratal.ai.models.tables import registered_models
from stratal.ai.retrieval.tables import indexes
from stratal.ai.sweeps.tables import sweeps
from stratal.collab.reports.tables import reports
from stratal.collab.repositories.tables import merge_requests, repositories
from stratal.collab.tables import experiments, runs
from stratal.collab.workspaces.tables import workspaces
from stratal.compute.tables import jobs
from stratal.data.lake.tables import tables
from stratal.data.objects.tables import buckets
from stratal.data.pipelines.tables import pipelines
from stratal.data.pipelines.tables import runs as pipeline_runs
from stratal.identity.model import Principal
from stratal.identity.permissions import may
from stratal.kernel.database import Database

MOST = 100
_WORDS = 8
_PER_KIND = 20


@dataclass(frozen=True, slots=True)
class Found:
    """One thing: its `id` is what its own pages, commands and routes call it."""

    kind: str
    id: str
    name: str
    at: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where things of a kind are: `id` as people call them, `name` as it is shown, both looked through."""

    kind: str
    action: str
    project: Column[str]
    id: ColumnElement[str]
    name: ColumnElement[str]
    at: Column[int]
    there: ColumnElement[bool] | None = None


_merge = (
    select(repositories.c.name + literal("!") + cast(merge_requests.c.number, Text))
    .where(repositories.c.id == merge_requests.c.repository_id)
    .scalar_subquery()
)
"""As in ``study!3``."""
_table_name = tables.c.namespace + literal(".") + tables.c.name

KINDS: Sequence[_Kind] = (
    _Kind("job", "jobs.read", jobs.c.project_id, cast(jobs.c.id, Text), jobs.c.name, jobs.c.queued_at),
    _Kind("run", "runs.read", runs.c.project_id, runs.c.id, runs.c.name, runs.c.created_at,
          runs.c.lifecycle == "active"),
    _Kind("experiment", "runs.read", experiments.c.project_id, cast(experiments.c.id, Text),
          experiments.c.name, experiments.c.updated_at, experiments.c.lifecycle == "active"),
    _Kind("sweep", "sweeps.read", sweeps.c.project_id, cast(sweeps.c.id, Text), sweeps.c.name,
          sweeps.c.created_at),
    _Kind("table", "tables.read", tables.c.project_id, _table_name, _table_name, tables.c.updated_at,
          tables.c.dropped_at.is_(None)),
    _Kind("model", "models.read", registered_models.c.project_id, registered_models.c.name,
          registered_models.c.name, registered_models.c.updated_at),
    _Kind("endpoint", "endpoints.read", endpoints.c.project_id, endpoints.c.name, endpoints.c.name,
          endpoints.c.created_at, endpoints.c.removed_at.is_(None)),
    _Kind("function", "functions.read", functions.c.project_id, functions.c.name, functions.c.name,
          functions.c.created_at, functions.c.removed_at.is_(None) & (functions.c.kind == "function")),
    _Kind("app", "apps.read", functions.c.project_id, functions.c.name, functions.c.name,
          functions.c.created_at, functions.c.removed_at.is_(None) & (functions.c.kind == "app")),
    _Kind("bucket", "objects.read", buckets.c.project_id, buckets.c.name, buckets.c.name,
          buckets.c.created_at),
    _Kind("repository", "repositories.read", repositories.c.project_id, repositories.c.name,
          repositories.c.name, repositories.c.created_at),
    _Kind("merge request", "repositories.read", merge_requests.c.project_id, _merge, merge_requests.c.title,
          merge_requests.c.created_at),
    _Kind("workspace", "workspaces.read", workspaces.c.project_id, workspaces.c.name, workspaces.c.name,
          workspaces.c.created_at, workspaces.c.removed_at.is_(None)),
    _Kind("report", "reports.read", reports.c.project_id, reports.c.name, reports.c.name, reports.c.updated_at),
    _Kind("index", "indexes.read", indexes.c.project_id, indexes.c.name, indexes.c.name, indexes.c.created_at),
    _Kind("pipeline", "pipelines.read", pipelines.c.project_id, pipelines.c.name, pipelines.c.name,
          pipelines.c.deployed_at),
    _Kind("pipeline run", "pipelines.read", pipeline_runs.c.project_id, cast(pipeline_runs.c.id, Text),
          pipeline_runs.c.pipeline, pipeline_runs.c.created_at),
)  # fmt: skip


class Finding:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, who: Principal, project_id: str, words: str, *, kinds: Sequence[str] = (), limit: int = MOST
    ) -> list[Found]:
        """What the caller may see whose name or id has every one of the words, whatever their case.

        Of each kind at most 20, the newest first; an exact name or id before all others.
        """
        asked = words.lower().split()[:_WORDS]
        if not asked:
            return []
        chosen = [
            one for one in KINDS if (not kinds or one.kind in kinds) and may(who, one.action, project_id)
        ]

        def read(c: Connection) -> list[Found]:
            return [
                Found(one.kind, *row) for one in chosen for row in c.execute(_query(one, project_id, asked))
            ]

        found = await self._database.read(read)
        exact = " ".join(asked)
        found.sort(key=lambda one: exact not in {one.id.lower(), one.name.lower()})
        return found[:limit]


def _query(one: _Kind, project_id: str, words: Sequence[str]) -> Select[str, str, int]:
    has = [
        or_(
            func.lower(one.name).contains(word, autoescape=True),
            func.lower(one.id).contains(word, autoescape=True),
        )
        for word in words
    ]
    return (
        select(one.id, one.name, one.at)
        .where(one.project == project_id, true() if one.there is None else one.there, *has)
        .order_by(one.at.desc())
        .limit(_PER_KIND)
    )
