"""``/api/v1/predictions/{id}/why``: the explanation, as JSON."""

from typing import Annotated

from fastapi import APIRouter, Depends

from stratal.ai.explain.model import Explanation, Hash, Link
from stratal.ai.explain.why import Why
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal

Who = Annotated[Principal, Depends(caller)]


def router(why: Why) -> APIRouter:
    api = APIRouter(tags=["predictions"])

    @api.get("/predictions/{prediction_id}/why")
    async def explain(who: Who, prediction_id: str) -> dict[str, object]:
        """The chain from this prediction to the bytes and code that made it, every hash computed again just now."""
        return _explanation(await why.explain(who, prediction_id))

    return api


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
