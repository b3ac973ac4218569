"""``stratal why``: the chain of a prediction, for people and for programs."""

from typing import Any

import click

from stratal.cli.output import json_option, print_json
from stratal.sdk import Client

_MARKS = {"verified": ("●", "green"), "broken": ("▲", "red"), "unproven": ("○", "yellow")}
_SHOWN = 12


@click.command(epilog="Exit code 0: verified; 1: broken or unproven. Example: stratal why pr_0kx…")
@click.argument("prediction_id")
@click.option(
    "--hashes", "all_hashes", is_flag=True, help="Show every hash, not only those that are not verified."
)
@json_option
def why(prediction_id: str, all_hashes: bool, as_json: bool) -> None:
    """Explain the prediction PREDICTION_ID: every link back to data and code, every hash computed again now."""
    from urllib.parse import quote

    answer = Client().get(f"/predictions/{quote(prediction_id, safe='')}/why")
    if as_json:
        print_json(answer)
    else:
        _show(answer, all_hashes)
    raise SystemExit(0 if answer["verified"] else 1)


def _show(answer: dict[str, Any], all_hashes: bool) -> None:
    for link in answer["chain"]:
        click.echo(f"{_mark(link['status'])} {click.style(link['kind'], bold=True):<26} {link['name']}")
        for fact in link["facts"]:
            click.echo(click.style(f"    {fact['name']:<12} {fact['value']}", dim=True))
        _show_hashes(link["hashes"], all_hashes)
    click.echo()
    click.echo(f"{_mark(answer['status'])} {answer['verdict']}")
    if answer["other_inputs"]:
        click.echo(f"{_mark('unproven')} other inputs possible: {', '.join(answer['other_inputs'])}")
    else:
        click.echo(f"{_mark('verified')} nothing else was readable for the job")


def _show_hashes(hashes: list[dict[str, Any]], all_hashes: bool) -> None:
    bad = [h for h in hashes if h["status"] != "verified"]
    good = len(hashes) - len(bad)
    if good and not all_hashes:
        click.echo(click.style(f"    {'hashes':<12} {good} verified", dim=True))
    shown = hashes if all_hashes else bad[:_SHOWN]
    for h in shown:
        note = f" ({h['note']})" if h["note"] else ""
        click.echo(f"    {_mark(h['status'])} {h['status']:<10} {h['what']}{note}")
        if h["recorded"] and (all_hashes or h["status"] == "broken"):
            click.echo(f"        recorded   {h['recorded']}")
            click.echo(f"        recomputed {h['recomputed'] or 'nothing'}")
    if len(bad) > len(shown):
        click.echo(f"    … and {len(bad) - len(shown)} more (--hashes shows all)")


def _mark(status: str) -> str:
    mark, colour = _MARKS[status]
    return click.style(mark, fg=colour)
