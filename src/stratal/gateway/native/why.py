"""``/api/v1/predictions/{id}/why`` and ``…/impact``: where an answer came from, and what came of data."""

from dataclasses import asdict
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from stratal.ai.explain.columns import Origins
from stratal.ai.explain.impact import Affected, Impact
from stratal.ai.explain.model import Explanation, Hash, Link
from stratal.ai.explain.room import Tellings
from stratal.ai.explain.why import Why
from stratal.data.lake.model import Place, parse_table_name
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]


def router(why: Why, impact: Impact, tellings: Tellings, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["lineage"])

    @api.get("/projects/{project}/tables/{name}/lineage")
    async def columns(who: Who, project: str, name: str) -> dict[str, object]:
        """Which columns each column of a table comes from, as far as queries of pipelines made it."""
        place = await projects.get(who, project)
        found = await tellings.columns.of(who, Place(place.id, place.name), parse_table_name(name))
        return _origins(found)

    @api.get("/projects/{project}/pipelines/runs/{run_id}/openlineage")
    async def events(who: Who, project: str, run_id: int) -> Response:
        """A run and its steps as OpenLineage events, one a line."""
        place = await projects.get(who, project)
        found = await tellings.events(who, Place(place.id, place.name), run_id)
        lines = b"".join(orjson.dumps(event) + b"\n" for event in found)
        return Response(lines, media_type="application/x-ndjson")

    @api.get("/projects/{project}/impact")
    async def downstream(
        who: Who,
        project: str,
        of: Annotated[str, Query(description="ns.table, ns.table@snapshot or s3://bucket/key")],
    ) -> dict[str, object]:
        """Everything downstream of a table, one snapshot of it, or an object: from steps to predictions."""
        place = await projects.get(who, project)
        return _affected(await impact.of(who, place.id, of))

    @api.get("/predictions/{prediction_id}/why")
    async def explain(who: Who, prediction_id: str) -> dict[str, object]:
        """The chain from this prediction to the bytes and code that made it, every hash computed again just now."""
        return _explanation(await why.explain(who, prediction_id))

    return api


def _origins(found: Origins) -> dict[str, object]:
    return {
        "table": found.table,
        "snapshot": found.snapshot,
        "unknown": found.unknown or None,
        "columns": [
            {
                "name": column.name,
                "sources": [{"table": table, "column": source} for table, source in column.sources],
                "roots": [{"table": table, "column": source} for table, source in column.roots],
            }
            for column in found.columns
        ],
    }


def _affected(found: Affected) -> dict[str, object]:
    return {
        "of": found.of,
        "steps": [asdict(step) for step in found.steps],
        "jobs": [{"id": id_, "name": name} for id_, name in found.jobs],
        "tables": [asdict(table) for table in found.tables],
        "objects": found.objects,
        "runs": [{"id": id_, "name": name} for id_, name in found.runs],
        "models": found.models,
        "endpoints": [asdict(endpoint) for endpoint in found.endpoints],
        "predictions": found.predictions,
    }


def _explanation(explanation: Explanation) -> dict[str, object]:
    return {
        "prediction_id": explanation.prediction_id,
        "project": explanation.project,
        "verified": explanation.status == "verified",
        "status": explanation.status,
        "verdict": explanation.verdict,
        "other_inputs": list(explanation.other_inputs),
        "chain": [_link(link) for link in explanation.chain],
    }


def _link(link: Link) -> dict[str, object]:
    return {
        "kind": link.kind,
        "id": link.id,
        "name": link.name,
        "status": link.status,
        "readable": link.readable,
        "facts": [{"name": name, "value": value} for name, value in link.facts],
        "hashes": [_hash(h) for h in link.hashes],
    }


def _hash(h: Hash) -> dict[str, object]:
    return {
        "what": h.what,
        "recorded": h.recorded,
        "recomputed": h.recomputed,
        "status": h.status,
        "note": h.note,
    }
