"""The demo's command line and what it shows."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from stratal.app.settings import home_directory
from stratal.cli.demo.story import PROJECT, Story
from stratal.cli.output import json_option, print_error, print_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@click.command(epilog="Examples: stratal demo · stratal demo --json · stratal demo --remove")
@click.option(
    "--remove", is_flag=True, help="Remove everything the demo made: project, data, model, endpoint."
)
@json_option
def demo(remove: bool, as_json: bool) -> None:
    """Go from real data to a prediction that can be explained, in a project called 'demo'.

    The Wisconsin breast-cancer data goes up through S3, becomes an Iceberg table, is profiled by SQL,
    trains a model in a job, is registered and deployed, answers a request, and `stratal why` shows the
    chain. Starts the platform if it is not running and leaves it running.
    """
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


def _tell(story: Story, *, quiet: bool) -> dict[str, Any]:
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
