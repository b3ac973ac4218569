"""``/api/v1/cost``, ``usage`` and ``prices``: what it cost, row by row, and what it costs. Amounts are decimal strings."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid
from stratal.ledger.cost import MOST_ROWS, Cost, Costs, Report, Row
from stratal.ledger.prices import Price, Prices
from stratal.ledger.units import RESOURCES, resource_of, shown

Who = Annotated[Principal, Depends(caller)]
By = Literal["project", "user", "job", "endpoint", "function", "app", "workload", "resource", "day"]
When = Annotated[str | None, Query(max_length=40, description="A day (2026-12-01) or a time, in UTC.")]


class NewPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="As in the list, e.g. cpu_hour, or gpu_hour:h100.")
    price: str = Field(description="A decimal, e.g. 0.04.")
    since: str | None = Field(default=None, description="From when on: a day or time to come; absent: now.")


def router(projects: Projects, costs: Costs, prices: Prices) -> APIRouter:
    api = APIRouter(tags=["cost"])

    @api.get("/cost")
    async def report_all(
        who: Who, by: By = "project", since: When = None, until: When = None
    ) -> dict[str, object]:
        """What was spent: of every project for an admin, else of the key's own. Absent `since`: this month."""
        return _report(await costs.report(who, None, by, _moment(since), _moment(until)), prices.currency)

    @api.get("/projects/{project}/cost")
    async def report_project(
        who: Who, project: str, by: By = "job", since: When = None, until: When = None
    ) -> dict[str, object]:
        """What the project spent."""
        place = await projects.get(who, project)
        return _report(await costs.report(who, place.id, by, _moment(since), _moment(until)), prices.currency)

    @api.get("/usage")
    async def list_all_usage(
        who: Who,
        since: When = None,
        until: When = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 1000,
    ) -> dict[str, object]:
        """The ledger's rows, oldest first; `next` is the `after` of the next page, null at the end."""
        page = await costs.rows(who, None, _moment(since), _moment(until), after=_cursor(after), limit=limit)
        return _rows(*page, prices.currency)

    @api.get("/projects/{project}/usage")
    async def list_usage(
        who: Who,
        project: str,
        since: When = None,
        until: When = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 1000,
    ) -> dict[str, object]:
        """The ledger's rows of one project."""
        place = await projects.get(who, project)
        page = await costs.rows(
            who, place.id, _moment(since), _moment(until), after=_cursor(after), limit=limit
        )
        return _rows(*page, prices.currency)

    @api.get("/prices")
    async def list_prices(who: Who) -> dict[str, object]:
        """Every price that is, was, and will be."""
        found = await prices.list(who)
        return {"currency": prices.currency, "prices": [_price(price) for price in found]}

    @api.post("/prices", status_code=201)
    async def set_price(who: Who, body: NewPrice) -> dict[str, object]:
        """Set what something costs, from now or from a moment to come."""
        return _price(await prices.set(who, body.name, body.price, _moment(body.since)))

    @api.delete("/prices/{name}", status_code=204)
    async def remove_price(
        who: Who, name: str, since: Annotated[str, Query(max_length=40, description="When it begins.")]
    ) -> None:
        """Take back a price that has not begun."""
        moment = _moment(since)
        assert moment is not None
        await prices.remove(who, name, moment)

    return api


def _moment(text: str | None) -> int | None:
    """Epoch milliseconds of a day or a time; without a zone it is UTC. Raises `Invalid`."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{text!r} is no day or time.",
            hint="Write 2026-12-01 or 2026-12-01T08:00:00Z.",
            reason="bad_time",
        ) from None


def _cursor(text: str | None) -> tuple[int, str, str] | None:
    if text is None:
        return None
    try:
        moment, source, resource = orjson.loads(text)
        if isinstance(moment, int) and isinstance(source, str) and isinstance(resource, str):
            return min(max(moment, 0), 2**62), source, resource
    except (ValueError, TypeError):
        pass
    raise Invalid("`after` is what `next` was in the page before.", reason="bad_cursor")


def _report(report: Report, currency: str) -> dict[str, object]:
    so_far = report.so_far
    return {
        "currency": currency,
        "by": report.by,
        "since": iso(report.span.since),
        "until": None if report.span.until is None else iso(report.span.until),
        "total": shown(report.total),
        "costs": [_cost(cost) for cost in report.costs],
        "so_far": None
        if so_far is None
        else {"total": shown(sum(cost.amount for cost in so_far)), "costs": [_cost(cost) for cost in so_far]},
    }


def _cost(cost: Cost) -> dict[str, object]:
    told: dict[str, object] = {"name": cost.name, "cost": shown(cost.amount)}
    if cost.label:
        told |= {"label": cost.label}
    if cost.project:
        told |= {"project": cost.project}
    for resource in RESOURCES:
        kinds = [name for name in cost.quantities if name.partition(":")[0] == resource]
        if kinds:
            told[RESOURCES[resource].shown] = _quantity(resource, sum(cost.quantities[k] for k in kinds))
    types = {name.partition(":")[2]: q for name, q in sorted(cost.quantities.items()) if name[:4] == "gpu:"}
    if types:
        told["gpu_seconds_by_type"] = {type_: _quantity("gpu", q) for type_, q in types.items()}
    return told


def _quantity(resource: str, quantity: int) -> int | float:
    scale = resource_of(resource).scale
    return quantity if scale == 1 else quantity / scale


def _rows(rows: Sequence[Row], after: tuple[int, str, str] | None, currency: str) -> dict[str, object]:
    return {
        "currency": currency,
        "usage": [_row(row) for row in rows],
        "next": None if after is None else orjson.dumps(list(after)).decode(),
    }


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.source,
        "resource": row.resource,
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "project": row.project,
        "person": row.person,
        "workload": row.workload,
        "label": row.name,
        "quantity": row.quantity,
        "price": shown(row.price),
        "cost": shown(row.amount),
    }


def _price(price: Price) -> dict[str, object]:
    return {
        "name": price.name,
        "price": shown(price.nano),
        "since": None if price.since == 0 else iso(price.since),
        "until": None if price.until is None else iso(price.until),
        "set_at": iso(price.set_at),
        "set_by": price.set_by,
    }
