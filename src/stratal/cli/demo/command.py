"""The demo's command line and what it shows."""

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import click

from stratal.app.settings import home_directory
from stratal.cli.demo.overspend import Overspend
from stratal.cli.demo.story import PROJECT, Step, Story
from stratal.cli.output import json_option, print_error, print_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@click.group(
    invoke_without_command=True,
    epilog="Examples: stratal demo · stratal demo --json · stratal demo --remove · stratal demo overspend",
)
@click.option(
    "--remove", is_flag=True, help="Remove everything the demo made: project, data, model, endpoint."
)
@json_option
@click.pass_context
def demo(context: click.Context, remove: bool, as_json: bool) -> None:
    """Go from real data to a prediction that can be explained, in a project called 'demo'.

    The Wisconsin breast-cancer data goes up through S3, becomes an Iceberg table, is profiled by SQL,
    trains a model in a job, is registered and deployed, answers a request, and `stratal why` shows the
    chain. Starts the platform if it is not running and leaves it running.
    """
    if context.invoked_subcommand is not None:
        return
    story = Story(home_directory())
    if remove:
        _remove(story, as_json)
        return
    result = _tell(story, quiet=as_json)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if not result["verified"]:
        raise SystemExit(1)


def _remove(story: Story, as_json: bool) -> None:
    removed = story.remove()
    if as_json:
        print_json({"removed": removed, "project": PROJECT})
    else:
        click.echo(
            f"Removed project {PROJECT!r} and everything in it." if removed else "There is no demo to remove."
        )


@demo.command(epilog="Examples: stratal demo overspend · stratal demo overspend --json")
@json_option
def overspend(as_json: bool) -> None:
    """Have a budget of 0.01 stop a job that would never end, on a platform of its own, removed afterwards.

    The job is warned of, gets its grace and saves a checkpoint, new work is refused, and the ledger's rows add
    up to what `stratal cost` shows. It takes about half a minute.
    """
    story = Overspend()
    try:
        result = _tell(story, quiet=as_json)
    finally:
        story.close()
    if as_json:
        print_json(result)
    else:
        click.echo(f"\n  {result['refused']}\n  The demo's platform is removed.")
    if not (result["state"] == "failed" and result["refused_status"] == 429 and result["sums_agree"]):
        print_error("The budget did not do what it says.")
        raise SystemExit(1)


class _Told(Protocol):
    """What is told step by step."""

    result: dict[str, Any]

    def steps(self) -> Iterator[tuple[str, str, Step]]: ...


def _tell(story: _Told, *, quiet: bool) -> dict[str, Any]:
    """Run the steps, showing live what each is at; without a terminal a line when each is done."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=quiet)
    timings: dict[str, float] = {}
    columns = (
        SpinnerColumn(finished_text="[green]●[/]"),
        TextColumn("{task.description}", table_column=Column(overflow="ellipsis", no_wrap=True)),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for name, title, step in story.steps():
            line = progress.add_task(title, total=None)
            began = time.monotonic()
            try:
                said = step(partial(_say, progress, line, title))
            except BaseException:
                progress.update(line, description=f"[red]{title}: failed[/]")
                progress.stop_task(line)
                raise
            timings[name] = round(time.monotonic() - began, 3)
            progress.update(line, description=f"{title}: {said}", total=1, completed=1)
            if not console.is_terminal:
                console.print(f"● {title}: {said}  ({timings[name]:.1f} s)", soft_wrap=True, highlight=False)
    return {**story.result, "timings": timings, "seconds": round(sum(timings.values()), 3)}


def _say(progress: "Progress", line: "TaskID", title: str, text: str) -> None:
    progress.update(line, description=f"{title}: {text}")


def _show(result: dict[str, Any]) -> None:
    verdict = result["verdict"]
    if result["other_inputs"]:
        verdict += f"; other inputs possible: {', '.join(result['other_inputs'])}"
    rows = (
        (
            "Cross-validated AUC",
            f"{result['auc']:.4f}  [{result['auc_low']:.4f}, {result['auc_high']:.4f}] 95 %",
        ),
        ("Held-out AUC", f"{result['held_out_auc']:.4f}"),
        ("Data", f"{result['rows']} patients, {result['malignant']} malignant"),
        ("Table", f"{result['table']} @ snapshot {result['snapshot_id']}"),
        ("Model", f"{result['model']} version {result['model_version']}, made by job {result['job_id']}"),
        ("Run", result["run_id"]),
        ("Prediction", f"{result['prediction_id']}: {result['prediction']}"),
        ("Chain", click.style(verdict, fg="green" if result["verified"] else "red")),
        (
            "Time",
            f"{result['seconds']:.1f} s: " + ", ".join(f"{n} {s:.1f}" for n, s in result["timings"].items()),
        ),
        ("Console", result["console"]),
    )
    click.echo()
    for label, value in rows:
        click.echo(f"  {click.style(f'{label:<20}', bold=True)} {value}")
    click.echo("\nNext:")
    click.echo(f"  stratal why {result['prediction_id']}")
    click.echo(
        '  eval "$(stratal env --project demo)"     your own boto3, pyiceberg and mlflow, pointed here'
    )
    click.echo("  stratal demo --remove")
    if not result["verified"]:
        print_error("The chain did not verify.", f"See: stratal why {result['prediction_id']}")
