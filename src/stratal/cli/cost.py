"""``stratal cost`` and ``prices``: what was spent on what, and what things cost."""

from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_HOUR = 3600
_ALL = 10_000

COST_EPILOG = """
\b
Examples:
  stratal cost                                    this month, by project
  stratal cost --by job --since 2026-11-01 --until 2026-12-01
  stratal cost --by endpoint --project radiology
  stratal cost --rows --json                      the ledger's rows, which add up to the total

\b
Times are UTC. What still runs and is not in the ledger yet is shown apart, as "so far", at today's prices.
An instance admin sees every project (or the one given with --project), anybody else their key's own.
"""


@click.command(epilog=COST_EPILOG)
@click.option(
    "--by",
    type=click.Choice(
        ["project", "user", "job", "endpoint", "function", "app", "workload", "resource", "day"]
    ),
    default="project",
    show_default=True,
    help="What to tell apart.",
)
@click.option("--since", metavar="TIME", help="From this day or time on. Default: the month's begin.")
@click.option("--until", metavar="TIME", help="Up to this day or time, not included.")
@click.option("--rows", is_flag=True, help="The ledger's rows themselves.")
@project_option
@json_option
def cost(
    by: str, since: str | None, until: str | None, rows: bool, project: str | None, as_json: bool
) -> None:
    """Show what was spent, by project, user, job, endpoint, function or app."""
    client = Client(project=project)
    base = "" if project is None else client.path("")
    if rows:
        _rows(client, base, since, until, as_json)
        return
    report = client.get(f"{base}/cost", by=by, since=since, until=until)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    currency = report["currency"]
    click.echo(f"From {_day(report['since'])} to {_day(report['until']) if report['until'] else 'now'} (UTC)")
    print_table(
        [
            report["by"].capitalize(),
            "CPU h",
            "GPU h",
            "GiB h",
            "Fetched",
            "Stored GiB d",
            f"Cost ({currency})",
        ],
        [_line(cost) for cost in report["costs"]],
        empty="Nothing was spent.",
        right=(1, 2, 3, 4, 5, 6),
    )
    click.echo(click.style(f"Total: {report['total']} {currency}", bold=True))
    so_far = report["so_far"]
    if so_far is None:
        click.echo("What runs now cannot be told: its engine does not answer.", err=True)
    elif so_far["costs"]:
        click.echo(f"\nSo far, by what runs and is not in the ledger yet: {so_far['total']} {currency}")


def _line(cost: dict[str, Any]) -> tuple[str, ...]:
    name = f"{cost['name']}  {cost['label']}" if cost.get("label") else cost["name"]
    if cost.get("project") and cost["project"] != cost["name"]:
        name += f"  ({cost['project']})"
    return (
        name,
        _figure(cost.get("cpu_seconds", 0) / _HOUR),
        _figure(cost.get("gpu_seconds", 0) / _HOUR),
        _figure(cost.get("memory_kib_seconds", 0) / 2**20 / _HOUR),
        _size(cost.get("bytes_sent", 0)),
        _figure(cost.get("stored_mib_seconds", 0) / 2**10 / 86_400),
        cost["cost"],
    )


def _figure(value: float) -> str:
    return "" if not value else f"{value:.4f}" if value < 10 else f"{value:.1f}"


def _size(count: int) -> str:
    from stratal.cli.output import human_bytes

    return human_bytes(count) if count else ""


def _day(text: str) -> str:
    return text.removesuffix("T00:00:00.000Z")


def _rows(client: Client, base: str, since: str | None, until: str | None, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    after, currency = None, ""
    while True:
        page = client.get(f"{base}/usage", since=since, until=until, after=after, limit=_ALL)
        found += page["usage"]
        after, currency = page["next"], page["currency"]
        if after is None:
            break
    if as_json:
        print_json({"currency": currency, "usage": found})
        return
    print_table(
        ["From", "Project", "Person", "Workload", "Resource", "Quantity", "Price", f"Cost ({currency})"],
        [
            (
                r["started_at"],
                r["project"],
                r["person"],
                r["workload"],
                r["resource"],
                r["quantity"],
                r["price"],
                r["cost"],
            )
            for r in found
        ],
        empty="Nothing was used.",
        right=(5, 6, 7),
    )


@click.group(
    epilog="Examples: stratal prices ls · stratal prices set cpu_hour 0.04 --from 2026-12-01 · "
    "stratal prices set gpu_hour:h100 2.80"
)
def prices() -> None:
    """List and set what things cost, from which day on."""


@prices.command("ls", epilog="Example: stratal prices ls --json")
@json_option
def list_prices(as_json: bool) -> None:
    """List every price that is, was, and will be."""
    answer = Client().get("/prices")
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Price of", f"{answer['currency']}", "From", "Until", "Set by"],
        [
            (p["name"], p["price"], _day(p["since"] or "the beginning"), _day(p["until"] or ""), p["set_by"])
            for p in answer["prices"]
        ],
        empty="There are no prices: everything is free.",
        right=(1,),
    )


@prices.command("set", epilog="Example: stratal prices set cpu_hour 0.04 --from 2026-12-01")
@click.argument("name")
@click.argument("price")
@click.option("--from", "since", metavar="TIME", help="The day or time it begins (UTC). Default: now.")
@json_option
def set_price(name: str, price: str, since: str | None, as_json: bool) -> None:
    """Set what NAME costs (instance admins only): cpu_hour, gpu_hour, gpu_hour:TYPE, memory_gib_hour, wall_hour,
    storage_gib_month, transfer_in_gib or transfer_out_gib. Costs that were told do not change."""
    made = Client().post("/prices", {"name": name, "price": price, "since": since})
    if as_json:
        print_json(made)
    else:
        click.echo(f"{made['name']} costs {made['price']} from {_day(made['since'])} on.")


@prices.command("rm", epilog="Example: stratal prices rm cpu_hour --from 2026-12-01")
@click.argument("name")
@click.option("--from", "since", metavar="TIME", required=True, help="When it would begin.")
@json_option
def remove_price(name: str, since: str, as_json: bool) -> None:
    """Take back a price that has not begun (instance admins only)."""
    Client().request("DELETE", f"/prices/{quote(name, safe=':')}", params={"since": since})
    if as_json:
        print_json({"name": name, "since": since, "removed": True})
    else:
        click.echo(f"{name} will not change then.")
