"""``/api/v1/projects/{project}/features``: views of features, published by steps and looked up by key."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.data.features.service import MOST_KEYS, Definition, FeatureViews, Found, View
from stratal.data.lake.model import Place
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
Json = Any
MAX_BODY = 1024 * 1024


class NewView(Strict):
    table: str = Field(description="namespace.table")
    on: list[str] = Field(min_length=1, max_length=20, description="The columns of the key.")
    known_at: str = Field(description="The column that says since when a row was known.")
    features: list[str] | None = Field(default=None, description="Its features; absent: all other columns.")
    snapshot: str | None = Field(
        default=None,
        description="The table's snapshot; absent: as it is now. Text, since it is a long number.",
    )


class Keys(Strict):
    keys: list[dict[str, str | int | float | bool]] = Field(max_length=MOST_KEYS)


def router(features: FeatureViews, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["features"])
    base = "/projects/{project}/features"

    async def place_of(who: Principal, project: str) -> Place:
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.get(base)
    async def list_views(who: Who, project: str) -> dict[str, object]:
        """The published views, by name."""
        place = await place_of(who, project)
        return {"views": [_view(one) for one in await features.list(who, place.id)]}

    @api.put(base + "/{view}", openapi_extra=body_of(NewView))
    async def publish(request: Request, who: Who, project: str, view: str) -> dict[str, object]:
        """Serve of each key the newest row of a table, in the place of what the view served before."""
        place = await place_of(who, project)
        body = await read_model(request, NewView, MAX_BODY)
        definition = Definition(body.table, body.on, body.known_at, body.features)
        return _view(await features.publish(who, place, view, definition, body.snapshot))

    @api.get(base + "/{view}")
    async def get_view(who: Who, project: str, view: str) -> dict[str, object]:
        """What a view serves, and of which snapshot."""
        place = await place_of(who, project)
        return _view(await features.get(who, place.id, view))

    @api.get(base + "/{view}/row")
    async def look_up_one(request: Request, who: Who, project: str, view: str) -> dict[str, object]:
        """The features of one key: a query parameter for each column of it. `features` is null when nothing is known."""
        place = await place_of(who, project)
        served, (found,) = await features.lookup(who, place.id, view, [dict(request.query_params)])
        return {"snapshot": served.snapshot_id, **_found(found)}

    @api.post(base + "/{view}/lookup", openapi_extra=body_of(Keys))
    async def look_up(request: Request, who: Who, project: str, view: str) -> dict[str, object]:
        """The features of several keys, in their order."""
        place = await place_of(who, project)
        body = await read_model(request, Keys, MAX_BODY)
        served, found = await features.lookup(who, place.id, view, body.keys)
        return {"snapshot": served.snapshot_id, "rows": [_found(one) for one in found]}

    @api.delete(base + "/{view}", status_code=204)
    async def remove(who: Who, project: str, view: str) -> None:
        """Serve the view no more."""
        place = await place_of(who, project)
        await features.remove(who, place.id, view)

    return api


def _view(view: View) -> dict[str, object]:
    return {
        "name": view.name,
        "table": view.definition.table,
        "on": list(view.definition.on),
        "known_at": view.definition.known_at,
        "features": None if view.definition.features is None else list(view.definition.features),
        "snapshot": view.snapshot_id,
        "keys": view.row_count,
        "published_at": iso(view.published_at),
        "published_by": view.published_by,
    }


def _found(found: Found) -> dict[str, Json]:
    return {
        "key": dict(found.key),
        "known_at": found.known_at,
        "features": None if found.features is None else dict(found.features),
    }
