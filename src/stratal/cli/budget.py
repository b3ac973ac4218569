"""``stratal budget``: what projects may spend in a month."""

from typing import Any

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_EPILOG = """
\b
Examples:
  stratal budget set radiology 5.00/month          warn at 80 %, then refuse new work
  stratal budget set radiology 5.00/month --stop   and stop what runs, each with its grace
  stratal budget ls

\b
Months are calendar months in UTC. Reading and deleting stay possible when a budget is used up.
"""


class _Amount(click.ParamType):  # type: ignore[type-arg]
    """``5.00/month``."""

    name = "amount/month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        amount, slash, unit = str(value).partition("/")
        if slash and unit != "month":
            self.fail(f"{value!r}: a budget is for a month, e.g. 5.00/month.", param, ctx)
        return amount


@click.group(epilog=_EPILOG)
def budget() -> None:
    """What a project may spend in a month."""


@budget.command("set", epilog="Example: stratal budget set radiology 5.00/month --stop")
@click.argument("project")
@click.argument("amount", type=_Amount())
@click.option("--stop", is_flag=True, help="Stop what runs when it is used up, each with its grace.")
@json_option
def set_budget(project: str, amount: str, stop: bool, as_json: bool) -> None:
    """Set what PROJECT may spend in a calendar month (instance admins only)."""
    client = Client(project=project)
    made = client.request("PUT", client.path("/budget"), json={"amount": amount, "stop": stop})
    if as_json:
        print_json(made)
    else:
        then = "refused, and what runs is stopped" if made["stop"] else "refused"
        click.echo(
            f"{project} may spend {made['amount']} {made['currency']} a month ({made['spent']} spent in "
            f"{made['month']}). Then new work is {then}."
        )


@budget.command("ls", epilog="Example: stratal budget ls --json")
@json_option
def list_budgets(as_json: bool) -> None:
    """List the budgets, and what of them is spent this month."""
    answer = Client().get("/budgets")
    if as_json:
        print_json(answer)
    else:
        _print(answer["budgets"])


@budget.command("show", epilog="Example: stratal budget show -p radiology")
@project_option
@json_option
def show_budget(project: str | None, as_json: bool) -> None:
    """Show the project's budget, and what of it is spent this month."""
    client = Client(project=project)
    found = client.get(client.path("/budget"))
    if as_json:
        print_json(found)
    else:
        _print([found])


@budget.command("rm", epilog="Example: stratal budget rm radiology")
@click.argument("project")
@json_option
def remove_budget(project: str, as_json: bool) -> None:
    """Let PROJECT spend what it likes (instance admins only)."""
    client = Client(project=project)
    client.request("DELETE", client.path("/budget"))
    if as_json:
        print_json({"project": project, "removed": True})
    else:
        click.echo(f"{project} has no budget any more.")


def _print(found: list[dict[str, Any]]) -> None:
    print_table(
        ["Project", "Month", "Budget", "Spent", "Left", "When used up", "State"],
        [
            (
                one["project"],
                one["month"],
                f"{one['amount']} {one['currency']}",
                one["spent"],
                one["left"],
                "refuse and stop" if one["stop"] else "refuse",
                one["state"],
            )
            for one in found
        ],
        empty="No project has a budget. Set one with: stratal budget set PROJECT 5.00/month",
        right=(2, 3, 4),
    )
