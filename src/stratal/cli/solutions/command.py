"""``stratal solutions``: list, show, run, report, remove."""

import signal
import sys
import webbrowser
from pathlib import Path
from typing import Any

import click

from stratal.ai.solutions.catalogue import Catalogue, project_of
from stratal.ai.solutions.manifest import Solution
from stratal.app.settings import home_directory
from stratal.cli.output import json_option, print_json, print_table
from stratal.sdk import ApiError, Client

RUN_EPILOG = """
\b
Examples:
  stratal solutions run disease-diagnosis
  stratal solutions run fraud --tiny
  stratal solutions run fraud --tiny --plant leak     a gate must notice; exit code 3
  stratal solutions run ./my-fraud                    one of your own, from its folder

\b
Exit code 0: promoted, or refused as the solution declares that it will be, or (--tiny) the mechanics work;
3: refused; 1: it could not be run.
"""
_REMOVE_SECONDS = 600.0
_FAULTS = ["leak", "labels", "baseline", "checksum"]


@click.group(epilog="Examples: stratal solutions list · stratal solutions run disease-diagnosis")
def solutions() -> None:
    """Run ready solutions: from data to an endpoint, with a report and gates that can say no."""


@solutions.command("list")
@json_option
def list_solutions(as_json: bool) -> None:
    """List the solutions there are."""
    found = Catalogue().all()
    if as_json:
        print_json({"solutions": [_brief(one) for one in found]})
        return
    print_table(
        ["Field", "Name", "What it does"],
        [(one.field, one.name, one.summary) for one in found],
        empty="This installation holds no solutions.",
    )


@solutions.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what solution NAME is for, what it stands on, and what it must show."""
    found = _named(name)
    if as_json:
        print_json(_full(found))
        return
    click.echo(f"{click.style(found.title, bold=True)} ({found.field})\n{found.summary}\n")
    click.echo(f"For:      {found.intended_use}")
    click.echo(f"Not for:  {'; '.join(found.not_for)}")
    click.echo(f"          {found.disclaimer}\n")
    for source in found.sources:
        click.echo(
            f"Data:     {source.title} ({source.kind}; {source.licence}; personal data: {source.personal_data})"
        )
    for pulled in found.pulls:
        click.echo(f"Model:    {pulled.source} ({pulled.licence}), with --download")
    for reference in found.references:
        click.echo(
            f"Published: {reference.title}: {reference.value:g} ± {reference.tolerance:g}. {reference.source}"
        )
    click.echo(f"Gates:    {'; '.join(gate.title for gate in found.gates)}")
    if found.refusal:
        click.echo(f"Expected: to be refused. {found.refusal['why']}")
    click.echo(f"\nRun it:   stratal solutions run {name}")


@solutions.command(
    "copy", epilog="Example: stratal solutions copy fraud my-fraud · stratal solutions run ./my-fraud"
)
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def copy(name: str, folder: Path, as_json: bool) -> None:
    """Write the ready solution NAME as FOLDER, to make one of your own of it; it is called as FOLDER is."""
    made = Catalogue().copy(name, folder)
    if as_json:
        print_json({"name": made.name, "folder": str(made.folder)})
        return
    click.echo(
        f"{made.folder}\n\nNext:\n  Put your data, checks and gates into solution.toml and solution.py"
    )
    click.echo(f"  stratal solutions run {folder if folder.is_absolute() else f'./{folder}'} --tiny")


@solutions.command("run", epilog=RUN_EPILOG)
@click.argument("name")
@click.option(
    "--tiny", "size", flag_value="tiny", help="Judge the mechanics and planted faults only, quickly."
)
@click.option("--full", "size", flag_value="full", help="As the default, on all of the data there is.")
@click.option("--download", is_flag=True, help="Also use data that must be downloaded, under its own terms.")
@click.option("--accept-terms", is_flag=True, help="You agree to the terms of what --download fetches.")
@click.option("--plant", type=click.Choice(_FAULTS), help="Plant a fault that a gate must notice.")
@json_option
def run(
    name: str, size: str | None, download: bool, accept_terms: bool, plant: str | None, as_json: bool
) -> None:
    """Run solution NAME (or the one in the folder ./NAME) in a project of its own: data, model, gates, endpoint, report.

    Starts the platform if it is not running. A candidate that fails a gate is not promoted: the report is
    written all the same, and the simple baseline is served.
    """
    from stratal.cli.solutions.runner import Runner, Wanted, exit_code

    # Its job is stopped and its scratch removed then, as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    catalogue = Catalogue()
    solution = _named(name)
    if download:
        _may_download(solution, accept_terms)
    wanted = Wanted(size or "default", download, plant or "")
    runner = Runner(
        catalogue, solution, wanted, home_directory(), lambda text: click.echo(f"· {text}", err=True)
    )
    result = runner.run()
    if as_json:
        print_json(result)
    else:
        _show(solution, result)
    raise SystemExit(exit_code(result["verdict"]))


def _may_download(solution: Solution, accepted: bool) -> None:
    """Say no to --download where there is nothing to fetch, or where terms are still to be agreed to."""
    fetched = [source for source in solution.sources if source.kind == "downloaded"]
    if not fetched and not solution.pulls:
        raise click.UsageError(f"{solution.name} has nothing to download.")
    terms = [source for source in fetched if source.terms]
    if terms and not accepted:
        said = "\n".join(f"{one.title} ({one.origin}): {one.terms}" for one in terms)
        raise click.UsageError(f"{said}\nIf you agree to that, add --accept-terms.")


def _show(solution: Solution, result: dict[str, Any]) -> None:
    from stratal.cli.solutions.report import between, numbers

    click.echo()
    print_table(
        ["", "On", "Candidate", "Baseline", "Difference", "Oracle"],
        [
            (
                row["metric"].title,
                row["metric"].badge,
                *(between(row.get(part)) for part in ("candidate", "baseline", "difference", "oracle")),
            )
            for row in numbers(solution, result)
        ],
        empty="No numbers.",
        right=(2, 3, 4, 5),
    )
    click.echo()
    for gate in result["gates"]:
        mark = {"passed": click.style("●", fg="green"), "failed": click.style("▲", fg="red")}.get(
            gate["status"], "○"
        )
        click.echo(f"  {mark} {gate['title']}: {gate['status']}. {gate['said']}")
    good = result["verdict"] in {"promoted", "mechanics only"}
    click.echo(
        f"\n{click.style(str(result['verdict']).capitalize(), bold=True, fg='green' if good else 'red')}"
    )
    if result["mechanics_only"]:
        click.echo(f"No more than that: {result['mechanics_only']}")
    if result["expected_refusal"]:
        click.echo(f"This refusal was expected: {result['expected_refusal']}")
    served = result["served"]
    click.echo(
        f"Endpoint {served['endpoint']} serves the {served['role']}, version {served['version']}: {served['url']}"
    )
    click.echo(f"  {solution.disclaimer}\n\nNext:")
    tiny = " --tiny" if result["size"] == "tiny" else ""
    click.echo(f"  stratal solutions report {result['solution']}{tiny}")
    click.echo(f"  stratal why {served['prediction_id']}")
    click.echo(f"  stratal solutions remove {result['solution']}")


@solutions.command("report", epilog="Example: stratal solutions report fraud --output fraud.html")
@click.argument("name")
@click.option("--tiny", is_flag=True, help="The newest tiny run's.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it.")
@click.option("--open", "show_it", is_flag=True, help="Show it in a browser.")
@json_option
def report(name: str, tiny: bool, output: Path | None, show_it: bool, as_json: bool) -> None:
    """Write the newest report of solution NAME into a file, or with --json print its result."""
    name = _run_as(Client(), name)[0]
    client = Client(project=project_of(name, tiny=tiny))
    try:
        if as_json:
            print_json(client.get(client.path("/solution")))
            return
        with client.stream("GET", client.path("/solution/report")) as answer:
            page = answer.read()
    except ApiError as error:
        if error.status != 404:
            raise
        raise ApiError(
            404, "no_report", f"{name} has not been run here.", f"Run it: stratal solutions run {name}"
        ) from None
    target = output or Path(f"{name}{'-tiny' if tiny else ''}-report.html")
    target.write_bytes(page)
    click.echo(str(target))
    if show_it:
        webbrowser.open(target.absolute().as_uri())


@solutions.command("remove", epilog="Example: stratal solutions remove fraud")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove all that runs of solution NAME made: data, models, endpoints, predictions, reports, bytes included."""
    client = Client()
    name, removed = _run_as(client, name)
    for project in removed:
        # Much is overwritten and deleted before it answers.
        client.request("DELETE", f"/projects/{project}", timeout=_REMOVE_SECONDS)
    if as_json:
        print_json({"name": name, "removed": removed})
    else:
        click.echo(
            f"Removed {', '.join(removed)} and everything in it." if removed else f"{name} left nothing here."
        )


def _named(name: str) -> Solution:
    """The ready solution of that name, or one's own in that folder: whatever has a slash is a path."""
    return Catalogue().own(Path(name)) if "/" in name else Catalogue().get(name)


def _run_as(client: Client, name: str) -> tuple[str, list[str]]:
    """What the solution is called, and those of its projects that there are.

    One's own is known by its name, too, where it was run: its folder may be gone. Raises `NotFound`.
    """
    name = _named(name).name if "/" in name else name
    there = {project["name"] for project in client.get("/projects")["projects"]}
    found = [project for project in (project_of(name), project_of(name, tiny=True)) if project in there]
    return (name, found) if found else (Catalogue().get(name).name, [])


def _brief(one: Solution) -> dict[str, Any]:
    return {"name": one.name, "title": one.title, "field": one.field, "summary": one.summary}


def _full(one: Solution) -> dict[str, Any]:
    from stratal.ai.solutions.shown import shown

    return shown(one)
