"""``/api/v1/budgets`` and a project's ``budget``: what may be spent a month, and what is. Amounts are decimal strings."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.ledger.budgets import Budgets, Standing
from stratal.ledger.units import shown

Who = Annotated[Principal, Depends(caller)]
_MAX_BODY = 1 << 16
_WORDS = {0: "ok", 80: "warned", 100: "used up"}


class NewBudget(Strict):
    amount: str = Field(description="What may be spent in a calendar month (UTC): a decimal, e.g. 5.00.")
    stop: bool = Field(default=False, description="Stop what runs when it is used up.")


def router(projects: Projects, budgets: Budgets) -> APIRouter:
    api = APIRouter(tags=["cost"])

    @api.get("/budgets")
    async def list_budgets(who: Who) -> dict[str, object]:
        """Every project's budget for an admin, else the one of the key's own."""
        return {"budgets": [_shown(found, budgets.currency) for found in await budgets.list(who)]}

    @api.get("/projects/{project}/budget")
    async def get_budget(who: Who, project: str) -> dict[str, object]:
        """The project's budget, and what of it is spent this month."""
        place = await projects.get(who, project)
        return _shown(await budgets.get(who, place.id), budgets.currency)

    @api.put("/projects/{project}/budget", openapi_extra=body_of(NewBudget))
    async def set_budget(request: Request, who: Who, project: str) -> dict[str, object]:
        """Set what the project may spend a month (instance admins only)."""
        place = await projects.get(who, project)
        body = await read_model(request, NewBudget, _MAX_BODY)
        return _shown(await budgets.set(who, place.id, body.amount, stops=body.stop), budgets.currency)

    @api.delete("/projects/{project}/budget", status_code=204)
    async def remove_budget(who: Who, project: str) -> None:
        """Let the project spend what it likes (instance admins only)."""
        place = await projects.get(who, project)
        await budgets.remove(who, place.id)

    return api


def _shown(standing: Standing, currency: str) -> dict[str, object]:
    budget = standing.budget
    return {
        "project": standing.project,
        "month": standing.month,
        "amount": shown(budget.amount),
        "spent": shown(standing.spent),
        "left": shown(max(0, budget.amount - standing.spent)),
        "currency": currency,
        "stop": budget.stops,
        "state": _WORDS[standing.level],
        "set_at": iso(budget.set_at),
        "set_by": budget.set_by,
    }
