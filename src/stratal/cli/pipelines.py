"""``stratal pipeline``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from stratal.app.settings import home_directory
from stratal.cli.output import json_option, print_error, print_json, print_table, project_option
from stratal.cli.shown import Duration, ago, lasted, note
from stratal.sdk import Client, jobs
from stratal.sdk import pipeline_runs as sdk
from stratal.sdk.worktree import TreeError

_LOOK_SECONDS = 0.5
INTERRUPTED = 130
_LISTENS = ("on_table", "on_prefix", "on_model", "on_pipeline")

EPILOG = """
\b
A pipeline is a Python file:
  import stratal
  @stratal.step
  def ingest(day):
      return stratal.table("raw.trips").replace([{"day": day, "km": 3.2}])
  @stratal.pipeline
  def nightly(day="2024-01-01"):
      ingest(day)

\b
  python nightly.py                              without a server, when the file calls nightly() itself
  stratal pipeline run nightly.py --set day=2024-01-02
  stratal pipeline show 1                        every step: did it run, and why
"""


@click.group(epilog=EPILOG)
def pipeline() -> None:
    """Run pipelines and look at their runs, step by step."""


@pipeline.command("run")
@click.argument("target", metavar="FILE[:NAME]")
@project_option
@click.option(
    "--set", "--param", "settings", multiple=True, metavar="K=V", help="A parameter: V is JSON, else text."
)
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install (beside the file's own inline metadata).",
)
@click.option("--with", "packages", multiple=True, metavar="PKG", help="A package to install.")
@click.option(
    "--network",
    type=click.Choice(["platform", "open"]),
    help="What its steps may reach: the platform only (default), or everything.",
)
@click.option("--parallel", type=click.IntRange(1, 64), help="At most so many small steps at once.")
@click.option("--no-cache", is_flag=True, help="Run every step, whatever earlier runs have left.")
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def run_pipeline(
    target: str,
    project: str | None,
    settings: tuple[str, ...],
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    network: str | None,
    parallel: int | None,
    no_cache: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Run the pipeline NAME of FILE (without NAME its only one), with this folder's code.

    Exit code: 0 when it succeeded, 1 when not, 130 after Ctrl-C, which leaves it running.
    """
    file, name = _target(target)
    wanted = "".join(path.read_text() + "\n" for path in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        run = sdk.start(
            Client(project=project),
            file,
            pipeline=name,
            parameters=dict(parameter(text) for text in settings),
            requirements=wanted,
            network=network,
            parallel=parallel,
            use_cache=not no_cache,
            without=home_directory(),
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    end_with(Client(project=project), run, wait, as_json)


@pipeline.command("backfill")
@click.argument("target", metavar="FILE[:NAME]")
@project_option
@click.option("--from", "first", metavar="DATE", help="The first day, e.g. 2024-01-01.")
@click.option("--to", "last", metavar="DATE", help="The last day, included.")
@click.option(
    "--partition", "named", multiple=True, metavar="NAME", help="A partition by its name (may be repeated)."
)
@click.option(
    "--set", "--param", "settings", multiple=True, metavar="K=V", help="A parameter: V is JSON, else text."
)
@click.option("--parallel", type=click.IntRange(1, 64), help="At most so many small steps at once.")
@click.option("--no-cache", is_flag=True, help="Make every partition anew.")
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def backfill(
    target: str,
    project: str | None,
    first: str | None,
    last: str | None,
    named: tuple[str, ...],
    settings: tuple[str, ...],
    parallel: int | None,
    no_cache: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Run a pipeline once for each partition: days, or names. Those that fail are named, and hold up no other.

    `stratal pipeline retry RUN` makes only these again.
    """
    file, name = _target(target)
    partitions = list(named)
    if first or last:
        try:
            partitions = [*sdk.days(first or last or "", last or first or ""), *partitions]
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--from") from None
    if not partitions:
        raise click.UsageError("Say which partitions: --from DATE --to DATE, or --partition NAME.")
    client = Client(project=project)
    try:
        run = sdk.start(
            client,
            file,
            pipeline=name,
            parameters=dict(parameter(text) for text in settings),
            parallel=parallel,
            use_cache=not no_cache,
            partitions=partitions,
            without=home_directory(),
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    end_with(client, run, wait, as_json)


@pipeline.command("deploy")
@click.argument("target", metavar="FILE:NAME")
@project_option
@click.option("--schedule", metavar="CRON", help="When it runs, e.g. '0 3 * * *' (03:00 every day).")
@click.option("--timezone", default="UTC", help="Whose clock that is, e.g. Europe/Berlin (default UTC).")
@click.option(
    "--catch-up",
    type=click.Choice(["none", "last", "all"]),
    default="last",
    help="Which of the times that passed while the platform was down are made up for (default last).",
)
@click.option("--on-table", metavar="NS.TABLE", help="Run it when the table has a new snapshot.")
@click.option(
    "--on-prefix", metavar="S3://BUCKET/PREFIX", help="Run it when an object comes below the prefix."
)
@click.option("--on-model", metavar="NAME", help="Run it when the registered model has a new version.")
@click.option(
    "--on-pipeline", metavar="NAME", help="Run it when a run of another deployed pipeline succeeded."
)
@click.option(
    "--overlap",
    type=click.Choice(["queue", "skip", "cancel", "together"]),
    default="queue",
    help="When it is due while it still runs: wait (default), leave it out, end the other, or run beside it.",
)
@click.option(
    "--partition-of",
    metavar="PATTERN",
    help="Make only the partitions of what arrived; e.g. 'day=(\\d{4}-\\d\\d-\\d\\d)' finds them in its keys.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="K=V",
    help="A parameter; {date}, {hour} and {time} are when it was due.",
)
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install (beside the file's own inline metadata).",
)
@click.option("--network", type=click.Choice(["platform", "open"]), help="What its steps may reach.")
@click.option("--parallel", type=click.IntRange(1, 64), help="At most so many small steps at once.")
@json_option
def deploy_pipeline(
    target: str,
    project: str | None,
    schedule: str | None,
    timezone: str,
    catch_up: str,
    on_table: str | None,
    on_prefix: str | None,
    on_model: str | None,
    on_pipeline: str | None,
    overlap: str,
    partition_of: str | None,
    settings: tuple[str, ...],
    requirements: tuple[Path, ...],
    network: str | None,
    parallel: int | None,
    as_json: bool,
) -> None:
    """Deploy pipeline NAME of FILE: this folder's code, as it is now, is what its triggers run."""
    file, name = _target(target)
    if not name:
        raise click.UsageError("Say which pipeline: FILE.py:NAME.")
    try:
        made = sdk.deploy(
            Client(project=project),
            file,
            name,
            parameters=dict(parameter(text) for text in settings),
            requirements="".join(path.read_text() + "\n" for path in requirements),
            network=network,
            parallel=parallel,
            schedule=schedule,
            timezone=timezone,
            catch_up=catch_up,
            on_table=on_table,
            on_prefix=on_prefix,
            on_model=on_model,
            on_pipeline=on_pipeline,
            overlap=overlap,
            partition_of=partition_of,
            without=home_directory(),
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    if as_json:
        print_json(made)
        return
    when = [f"due next {made['next_at']}"] if made["next_at"] else []
    when += [f"on {made[key]}" for key in _LISTENS if made[key]]
    click.echo(
        f"Pipeline {name} is deployed, version {made['version']}" + (f": {', '.join(when)}." if when else ".")
    )


@pipeline.command("deployed")
@project_option
@json_option
def list_deployed(project: str | None, as_json: bool) -> None:
    """List what is deployed, and when it is due."""
    found = sdk.deployed(Client(project=project))
    if as_json:
        print_json({"pipelines": found})
        return
    print_table(
        ["Pipeline", "Version", "Runs", "Due next", "Last run"],
        [
            (
                one["name"],
                one["version"],
                (one["schedule"] and f"{one['schedule']} {one['timezone']}")
                or next((one[key] for key in _LISTENS if one[key]), "by name"),
                one["next_at"] or "",
                f"{one['last_run']} {one['last_state']}" if one["last_run"] else "",
            )
            for one in found
        ],
        empty="No pipeline is deployed. Deploy one: stratal pipeline deploy FILE.py:NAME --schedule '0 3 * * *'",
    )


@pipeline.command("undeploy")
@click.argument("name")
@project_option
@json_option
def undeploy_pipeline(name: str, project: str | None, as_json: bool) -> None:
    """Take a deployed pipeline back. Its runs stay."""
    sdk.undeploy(Client(project=project), name)
    if as_json:
        print_json({"name": name, "deployed": False})
    else:
        click.echo(f"Pipeline {name} is not deployed any more.")


@pipeline.command("hook")
@click.argument("name")
@project_option
@click.option(
    "--grace",
    type=Duration(),
    default="1d",
    show_default=True,
    help="So long the secret that it had is good yet; 0: no longer.",
)
@click.option("--remove", is_flag=True, help="Webhooks run it no more.")
@json_option
def hook(name: str, project: str | None, grace: float, remove: bool, as_json: bool) -> None:
    """Let signed webhooks run a deployed pipeline: prints their address and a new secret, which is shown this once.

    Deliveries are signed as Standard Webhooks has it (libraries in most languages). Asked again, the secret is replaced.
    """
    client = Client(project=project)
    if remove:
        sdk.unhook(client, name)
        if as_json:
            print_json({"name": name, "hook": False})
        else:
            click.echo(f"Webhooks run pipeline {name} no more.")
        return
    made = sdk.hook(client, name, grace_seconds=round(grace))
    if as_json:
        print_json(made)
        return
    click.echo(f"Address: {made['url']}\nSecret:  {made['secret']}")
    note("The secret is not shown again. Send POST with webhook-id, webhook-timestamp and webhook-signature.")


@pipeline.command("calendar")
@click.argument("name", metavar="PIPELINE")
@project_option
@json_option
def calendar(name: str, project: str | None, as_json: bool) -> None:
    """Show every partition that runs of a pipeline made, as the newest left it; days as a calendar."""
    found = sdk.calendar(Client(project=project), name)
    if as_json:
        print_json({"pipeline": name, "partitions": found})
        return
    if not found:
        click.echo(
            f"No run of {name} made partitions. Make some: stratal pipeline backfill FILE.py --from DATE"
        )
        return
    for month, line in months(found):
        click.echo(f"{month}  {line}")
    others = [one for one in found if not _is_day(one["name"])]
    rows = [(one["name"], one["state"], one["run"], one["times"]) for one in others]
    if rows:
        print_table(["Partition", "State", "Run", "Made"], rows, empty="", right=(2, 3))
    click.echo("■ made  ✗ not well  ▶ being made  · not made")
    bad = [one for one in found if one["state"] in {"failed", "cancelled", "skipped"}]
    for one in bad[:20]:
        click.echo(f"{one['name']}: {one['state']} in run {one['run']}")


def months(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each month with a mark for each of its days."""
    from calendar import monthrange

    marks = {"succeeded": "■", "cached": "■", "running": "▶", "waiting": "▶"}
    days = {one["name"]: marks.get(one["state"], "✗") for one in found if _is_day(one["name"])}
    told = []
    for month in sorted({day[:7] for day in days}):
        last = monthrange(int(month[:4]), int(month[5:]))[1]
        told.append((month, "".join(days.get(f"{month}-{day:02}", "·") for day in range(1, last + 1))))
    return told


def _is_day(name: str) -> bool:
    from datetime import date

    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


@pipeline.command("trigger")
@click.argument("name")
@project_option
@click.option(
    "--set", "--param", "settings", multiple=True, metavar="K=V", help="A parameter: V is JSON, else text."
)
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def trigger_pipeline(
    name: str, project: str | None, settings: tuple[str, ...], wait: bool, as_json: bool
) -> None:
    """Run a deployed pipeline now."""
    client = Client(project=project)
    run = sdk.trigger(client, name, parameters=dict(parameter(text) for text in settings))
    end_with(client, run, wait, as_json)


@pipeline.command("ls")
@project_option
@click.option("--pipeline", "name", help="Only this pipeline's.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, help="How many (default 20).")
@json_option
def list_runs(project: str | None, name: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    found = sdk.list_runs(Client(project=project), pipeline=name, limit=limit)
    if as_json:
        print_json({"runs": found})
        return
    print_table(
        ["Run", "Pipeline", "State", "Steps", "Trigger", "Asked", "Took"],
        [
            (
                run["id"],
                run["pipeline"] or run["file"],
                run["state"],
                _counts(run["states"]),
                run["trigger"],
                ago(run["created_at"]),
                _took(run),
            )
            for run in found
        ],
        empty="No pipeline has run here. Run one: stratal pipeline run FILE.py",
        right=(0,),
    )


@pipeline.command("show")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@project_option
@json_option
def show_run(run_id: int, project: str | None, as_json: bool) -> None:
    """Show a run: each step, whether it ran, and why."""
    client = Client(project=project)
    found = sdk.get(client, run_id)
    if as_json:
        print_json(found)
        return
    _print_run(found)
    for _, line in _held_up(client, found):
        click.echo(line)


@pipeline.command("logs")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@click.argument("step", required=False)
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@json_option
def run_logs(run_id: int, step: str | None, project: str | None, follow: bool, as_json: bool) -> None:
    """Print the log of a run's worker, in which every small step's lines are, or of one STEP."""
    client = Client(project=project)
    if step is not None:
        told = sdk.step_log(client, run_id, step)
        text = told["log"]
        if text is None:
            text = jobs.logs(client, told["job"]).decode(errors="replace") if told["job"] else ""
        if as_json:
            print_json({**told, "log": text})
        else:
            click.echo(text, nl=False)
        return
    run = sdk.get(client, run_id)
    while follow and run["job"] is None and run["state"] not in sdk.ENDED:
        time.sleep(_LOOK_SECONDS)
        run = sdk.get(client, run_id)
    if as_json:
        text = "" if run["job"] is None else jobs.logs(client, run["job"]).decode(errors="replace")
        print_json({"id": run_id, "state": run["state"], "job": run["job"], "log": text})
    elif run["job"] is not None:
        for chunk in jobs.read_logs(client, run["job"], follow=follow):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


@pipeline.command("report")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@click.argument("step", required=False)
@project_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to FILE.")
@json_option
def run_report(
    run_id: int, step: str | None, project: str | None, output: Path | None, as_json: bool
) -> None:
    """Print the report (HTML) that STEP of a run made, or write it to a file; without STEP the run's only one."""
    client = Client(project=project)
    made = [s["name"] for s in sdk.get(client, run_id)["steps"] if s["report"]]
    if step is None and len(made) != 1:
        known = f"say which: {', '.join(made)}" if made else "none of its steps made one"
        print_error(f"Run {run_id} has {len(made)} reports.", known.capitalize() + ".")
        raise SystemExit(1)
    chosen = step or made[0]
    page = sdk.report(client, run_id, chosen)
    if output is not None:
        output.write_bytes(page)
    if as_json:
        where = None if output is None else str(output)
        print_json({"run": run_id, "step": chosen, "bytes": len(page), "file": where})
    elif output is not None:
        click.echo(f"Wrote {output} ({len(page)} bytes).")
    else:
        sys.stdout.buffer.write(page)


@pipeline.command("openlineage")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@project_option
def run_openlineage(run_id: int, project: str | None) -> None:
    """Print a run and its steps as OpenLineage events, one a line: for catalogues that collect lineage."""
    client = Client(project=project)
    with client.stream("GET", client.path(f"/pipelines/runs/{run_id}/openlineage")) as answer:
        for chunk in answer.iter_bytes():
            sys.stdout.buffer.write(chunk)


@pipeline.command("cancel")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@project_option
@json_option
def cancel_run(run_id: int, project: str | None, as_json: bool) -> None:
    """End a run. What its steps had not finished leaves nothing behind."""
    run = sdk.cancel(Client(project=project), run_id)
    if as_json:
        print_json(run)
    else:
        click.echo(f"Run {run_id} {run['state']}.")


@pipeline.command("retry")
@click.argument("run_id", type=click.IntRange(1), metavar="RUN")
@project_option
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def retry_run(run_id: int, project: str | None, wait: bool, as_json: bool) -> None:
    """Take a run that failed or was cancelled up again: only what did not go well is done."""
    client = Client(project=project)
    end_with(client, sdk.retry(client, run_id), wait, as_json)


# -- words ---------------------------------------------------------------------------------------------


def end_with(client: Client, run: dict[str, Any], wait: bool, as_json: bool) -> None:
    """Wait for the run when asked to, say how it went, and end this process accordingly."""
    if not wait:
        if as_json:
            print_json(run)
        else:
            click.echo(run["id"])
            note(f"Run {run['id']} is queued. Look at it: stratal pipeline show {run['id']}")
        return
    note(f"Run {run['id']} is queued.")
    try:
        run = _follow(client, run["id"])
    except KeyboardInterrupt:
        note(
            f"\nRun {run['id']} goes on without you. Look at it: stratal pipeline show {run['id']} · "
            f"end it: stratal pipeline cancel {run['id']}"
        )
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(run)
    else:
        _print_run(run)
    raise SystemExit(0 if run["state"] == "succeeded" else 1)


def _follow(client: Client, run_id: int) -> dict[str, Any]:
    """Tell of each step as it ends, and of what holds the run up before any, until it has ended."""
    told: set[str] = set()
    while True:
        run = sdk.get(client, run_id, wait=2)
        for what, line in _held_up(client, run):
            if what not in told:
                told.add(what)
                note(line)
        for step in run["steps"]:
            if step["ended_at"] and step["name"] not in told:
                told.add(step["name"])
                note(
                    f"  {step['name']}: {step['state']}" + (f" ({step['reason']})" if step["reason"] else "")
                )
        if run["state"] in sdk.ENDED:
            return run


def _held_up(client: Client, run: dict[str, Any]) -> list[tuple[str, str]]:
    """What the job that is to carry the run out waits for, as long as none does: which thing, and a line about it."""
    if run["state"] != "queued" or run["job"] is None:
        return []
    found = jobs.why(client, run["job"])
    lines = [(str(wait["what"]), f"  It waits for {wait['words']}.") for wait in found["waits_for"]]
    if found["reason"]:
        lines.insert(0, (found["reason"], f"  Its job: {found['reason']} (stratal job logs {run['job']})."))
    return lines


def _target(text: str) -> tuple[Path, str]:
    if Path(text).is_file() or ":" not in text:
        return Path(text), ""
    file, _, name = text.rpartition(":")
    return Path(file), name


def parameter(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise click.BadParameter(f"{text!r} is not K=V.", param_hint="--set")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _took(thing: dict[str, Any]) -> str:
    if not thing["started_at"]:
        return ""
    from datetime import UTC, datetime

    end = datetime.fromisoformat(thing["ended_at"]) if thing["ended_at"] else datetime.now(UTC)
    return lasted((end - datetime.fromisoformat(thing["started_at"])).total_seconds())


def _print_run(run: dict[str, Any]) -> None:
    click.echo(f"Run {run['id']} of {run['pipeline'] or run['file']}: {run['state']}")
    if run["reason"]:
        click.echo(f"  {run['reason']}")
    steps = run["steps"]
    if run["partitions"] is not None:
        counts: dict[str, int] = {}
        for partition in run["partitions"]:
            counts[partition["state"]] = counts.get(partition["state"], 0) + 1
        click.echo(f"  {len(run['partitions'])} partitions: {_counts(counts)}")
        steps = [step for step in steps if step["state"] not in {"succeeded", "cached"}]
    print_table(
        ["Step", "State", "Why", "Took", "Cost"],
        [(step["name"], step["state"], step["reason"], _took(step), step["cost"] or "") for step in steps],
        empty="It has called no step yet." if not run["steps"] else "Every step went well.",
    )
    for step in run["steps"]:
        if step.get("models"):
            click.echo(f"Models of {step['name']}:")
            print_table(
                ["Model", "State", "Table", "Made of", "Seconds", "Why"],
                [
                    (
                        one["name"],
                        one["state"],
                        one["table"] or "",
                        ", ".join(one["reads"]),
                        f"{one['seconds']:g}",
                        one["words"],
                    )
                    for one in step["models"]
                ],
                empty="",
            )
        for check in step["checks"]:
            if not check["passed"]:
                kind = "failed" if check["blocking"] else "warns"
                click.echo(f"Check {check['check']} of {check['table']} {kind}: {check['words']}")
    if run["output"] is not None:
        click.echo(f"It returned {json.dumps(run['output'], ensure_ascii=False)}")
