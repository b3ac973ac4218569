"""What can be commented on, and how each is looked for: with the caller's own eyes."""

from stratal.ai.endpoints.service import Endpoints
from stratal.ai.functions.service import Functions
from stratal.ai.models.registered import RegisteredModels
from stratal.collab.repositories.room import Shelf
from stratal.collab.runs import Runs
from stratal.collab.talk.model import Subjects
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
) -> Subjects:
    async def table(who: Principal, project_id: str, name: str) -> object:
        return await lake.catalog.find(who, Place(project_id, who.project), parse_table_name(name))

    async def job(who: Principal, project_id: str, number: str) -> object:
        if not number.isdecimal() or len(number) > 15:
            raise NotFound(f"There is no job {number[:40]!r}.", hint="Jobs have numbers: stratal jobs")
        return await jobs.get(who, project_id, int(number))

    return {
        "run": runs.get,
        "model": models.get,
        "table": table,
        "endpoint": endpoints.get,
        "job": job,
        "function": functions.get,
        "app": apps.get,
        "repository": shelf.repositories.get,
        "merge_request": shelf.merges.named,
    }
