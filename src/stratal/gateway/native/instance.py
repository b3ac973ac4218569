"""``/api/v1/instance/settings``: how this instance was told to run, for its admins to read."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends

from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.permissions import require

Who = Annotated[Principal, Depends(caller)]


def router(settings: Sequence[dict[str, object]]) -> APIRouter:
    """`settings` as they were at the start, secrets left out."""
    api = APIRouter(tags=["instance"])

    @api.get("/instance/settings")
    async def read_settings(who: Who) -> dict[str, object]:
        """What the instance runs with, and where each setting was said, if anywhere. Admins only."""
        require(who, "instance.manage", who.project_id)
        return {"settings": list(settings)}

    return api
