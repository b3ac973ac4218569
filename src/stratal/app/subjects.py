"""What can be commented on, and how each is looked for: with the caller's own eyes."""

from stratal.ai.endpoints.service import Endpoints
from stratal.ai.functions.service import Functions
from stratal.ai.models.registered import RegisteredModels
from stratal.collab.reports.service import Reports
from stratal.collab.repositories.room import Shelf
from stratal.collab.runs import Runs
from stratal.collab.talk.model import Subjects
from stratal.collab.workspaces.model import check_path
from stratal.collab.workspaces.room import Studio
from stratal.compute.jobs import Jobs
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, parse_table_name
from stratal.identity.model import Principal
from stratal.kernel.errors import NotFound


def subjects(
    runs: Runs,
    models: RegisteredModels,
    lake: Lake,
    endpoints: Endpoints,
    jobs: Jobs,
    functions: Functions,
    apps: Functions,
    shelf: Shelf,
    studio: Studio,
    reports: Reports,
) -> Subjects:
    async def table(who: Principal, project_id: str, name: str) -> object:
        return await lake.catalog.find(who, Place(project_id, who.project), parse_table_name(name))

    async def job(who: Principal, project_id: str, number: str) -> object:
        if not number.isdecimal() or len(number) > 15:
            raise NotFound(f"There is no job {number[:40]!r}.", hint="Jobs have numbers: stratal jobs")
        return await jobs.get(who, project_id, int(number))

    async def notebook(who: Principal, project_id: str, of: str) -> object:
        workspace, _, path = of.partition("/")
        if await studio.workspaces.saves(who, project_id, workspace, path=check_path(path), limit=1):
            return of
        raise NotFound(
            f"Nothing was saved as {path[:200]!r} in the workspace {workspace[:100]!r}.",
            hint="A notebook is WORKSPACE/PATH, as in: eda/study.ipynb",
            reason="no_such_notebook",
        )

    return {
        "run": runs.get,
        "model": models.get,
        "table": table,
        "endpoint": endpoints.get,
        "job": job,
        "function": functions.get,
        "app": apps.get,
        "repository": shelf.repositories.get,
        "report": reports.get,
        "workspace": studio.workspaces.get,
        "notebook": notebook,
        "merge_request": shelf.merges.named,
    }
