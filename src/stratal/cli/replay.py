"""``stratal replay``: earlier work done again, for people and for programs."""

from typing import Any

import click

from stratal.cli.output import json_option, print_json, project_option
from stratal.cli.shown import note
from stratal.sdk import Client

INTERRUPTED = 130
_SHOWN = 20

EPILOG = """
\b
  stratal replay 12                a run of a pipeline, step by step
  stratal replay 4f2a…             the training that logged this tracked run (32 hex digits)
  stratal replay job:7             a job

Exit code 0: the results are the same and every input is what it was; 1: not, and what is other is named.
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@project_option
@click.option(
    "--as-of-then",
    is_flag=True,
    help="Names may mean something newer by now: only what was read then counts, and it is read again.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="How far apart equal numbers may be, as a part of the larger (default 0: not at all).",
)
@click.option(
    "--ignore", multiple=True, metavar="NAME", help="Pass over results of this name; it may have * in it."
)
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def replay(
    run: str,
    project: str | None,
    as_of_then: bool,
    tolerance: float,
    ignore: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Do RUN again from the code, data and environment it had, and compare. Nothing that it does is seen by others."""
    client = Client(project=project)
    asked = {"of": run, "tolerance": tolerance, "ignore": list(ignore)}
    told: dict[str, Any] = client.post(client.path("/replays"), asked)
    place = client.path(f"/replays/{told['id']}")
    if wait:
        note(f"Replay {told['id']} of {run} has begun.")
        try:
            while told["state"] != "ended":
                told = client.get(place, wait=50)
        except KeyboardInterrupt:
            note(f"\nReplay {told['id']} goes on without you.")
            raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(told)
    elif not wait:
        click.echo(told["id"])
    else:
        _show(told, as_of_then)
    if wait:
        raise SystemExit(0 if _is_good(told, as_of_then) else 1)


def _is_good(told: dict[str, Any], as_of_then: bool) -> bool:
    return bool(told["reproduced"] and (told["inputs_unchanged"] or as_of_then))


def _show(told: dict[str, Any], as_of_then: bool) -> None:
    marks = {"same": ("●", "green"), "changed": ("○", "yellow")}
    for one in told["inputs"]:
        mark, colour = marks.get(one["state"], ("▲", "red"))
        words = f": {one['note']}" if one["note"] else ""
        click.echo(f"{click.style(mark, fg=colour)} {one['kind']:<12} {one['name']} {one['state']}{words}")
    same = [one for one in told["results"] if one["same"]]
    if same:
        click.echo(f"{click.style('●', fg='green')} {len(same)} results are the same")
        for one in [one for one in same if one["kind"] == "metric"][:_SHOWN]:
            click.echo(click.style(f"    {_name(one)} {one['after']}", dim=True))
    for one in told["differing"][:_SHOWN]:
        click.echo(
            f"{click.style('▲', fg='red')} {one['kind']} {_name(one)}: {one['before']} then, {one['after']} now"
        )
    if len(told["differing"]) > _SHOWN:
        click.echo(f"  … and {len(told['differing']) - _SHOWN} more (--json has all)")
    click.echo()
    click.echo(_verdict(told, as_of_then))


def _name(one: dict[str, Any]) -> str:
    return f"{one['of']}/{one['name']}" if one["of"] and one["of"] != one["name"] else str(one["name"])


def _verdict(told: dict[str, Any], as_of_then: bool) -> str:
    match told["verdict"]:
        case "reproduced" if told["inputs_unchanged"]:
            return "Reproduced: the same results from the same inputs."
        case "reproduced":
            names = ", ".join(one["name"] for one in told["altered"][:5])
            if as_of_then:
                return f"Reproduced from what was read then; {names} changed since."
            return (
                f"Reproduced from what was read then, but inputs changed since: {names}. "
                "If that is to be expected: --as-of-then."
            )
        case "altered":
            return f"Not repeated: what it read is not there as it was. {told['reason']}"
        case "failed":
            return f"Not reproduced: {told['reason']}"
        case _:
            return f"Not reproduced, these differ: {told['reason']}"
