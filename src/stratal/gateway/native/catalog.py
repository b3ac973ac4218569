"""``/api/v1/catalog``: pre-trained models, and pulling one into a project."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.ai.catalog.model import Entry, Label, Port, Task
from stratal.ai.catalog.service import Catalog
from stratal.ai.catalog.upstream import Upstream
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]


class PullBody(Strict):
    source: str = Field(description="hf:org/name@revision, of the hub that the server is set to.")
    name: str | None = Field(None, description="The model's name here; absent: its own.")
    only: str | None = Field(
        None, max_length=200, description="Of the files of weights those like this: *Q4_K_M*."
    )
    allow_pickle: bool = Field(False, description="Take files that carry a pickle too; an owner may.")


def router(projects: Projects, catalog: Catalog, upstream: Upstream) -> APIRouter:
    """Routes of the catalogue. It is the same for every project; what is pulled belongs to one."""
    api = APIRouter(tags=["catalog"])

    @api.get("/catalog")
    async def list_catalog(who: Who) -> dict[str, object]:
        """Every task, and the models that do it here."""
        entries = catalog.entries(who)
        return {"tasks": [_task(task, entries) for task in catalog.tasks(who)]}

    @api.get("/catalog/{name}")
    async def get_entry(who: Who, name: str) -> dict[str, object]:
        """An entry by its name, or by its task's."""
        entry = catalog.find(who, name)
        task = next(one for one in catalog.tasks(who) if one.name == entry.task)
        return {
            **_entry(entry),
            "inputs": _ports(task.inputs),
            "outputs": _ports(task.outputs),
            "options": _ports((*task.options, *entry.options)),
        }

    @api.post("/projects/{project}/catalog/pulls", status_code=201, openapi_extra=body_of(PullBody))
    async def pull_upstream(request: Request, who: Who, project: str) -> dict[str, object]:
        """Makes a model of the hub that the server is set to a version here, pinned to the hub's commit."""
        place = await projects.get(who, project)
        body = await read_model(request, PullBody, 1 << 16)
        found = await upstream.pull(
            who, place.id, body.source, name=body.name, pickles=body.allow_pickle, only=body.only
        )
        made = found.version
        return {
            "name": made.name,
            "version": made.version,
            "uri": made.uri,
            "id": made.id,
            "commit": found.commit,
            "files": len(made.files),
            "labels": list(made.facts.labels),
            "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
        }

    @api.post("/projects/{project}/catalog/{name}/pull", status_code=201)
    async def pull_entry(who: Who, project: str, name: str) -> dict[str, object]:
        """Makes the entry a model of the project; the version that it is when it is there already."""
        place = await projects.get(who, project)
        made = await catalog.pull(who, place.id, name)
        return {"name": made.name, "version": made.version, "uri": made.uri, "id": made.id}

    return api


def _task(task: Task, entries: tuple[Entry, ...]) -> dict[str, object]:
    found = [_entry(entry) for entry in entries if entry.task == task.name]
    return {
        "name": task.name,
        "title": task.title,
        "inputs": _ports(task.inputs),
        "outputs": _ports(task.outputs),
        "options": _ports(task.options),
        "label": found[0]["label"] if found else Label.NEEDS_MODEL.value,
        "needs": task.needs,
        "entries": found,
    }


def _ports(ports: tuple[Port, ...]) -> list[dict[str, str]]:
    return [{"name": port.name, "datatype": port.datatype, "meaning": port.meaning} for port in ports]


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "task": entry.task,
        "title": entry.title,
        "label": entry.label.value,
        "source": entry.source,
        "revision": entry.revision,
        "licence": entry.licence,
        "size": entry.size,
        "languages": entry.languages,
        "limits": list(entry.limits),
        "requirements": list(entry.requirements),
        "checksums": entry.checksums,
        "trusts_first": entry.hub is not None,
        "measured": [
            {"metric": m.metric, "value": m.value, "sample": m.sample, "command": m.command}
            for m in entry.measured
        ],
    }
