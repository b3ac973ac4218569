"""``stratal jobs`` and ``job``."""

import re
import sys
import time
from typing import Any

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.cli.shown import ago, command_of, lasted, name_of, note, state_of, took
from stratal.sdk import Client
from stratal.sdk import jobs as sdk

STATES = ["queued", "starting", "running", "succeeded", "failed", "stopped", "unknown"]
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.3


@click.command(epilog="Examples: stratal jobs · stratal jobs --state running · stratal jobs --json")
@project_option
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only jobs in this state (repeatable).",
)
@click.option("--array", "array", metavar="ARRAY", help="Only the members of this array, e.g. a3.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="At most so many, newest first.",
)
@json_option
def jobs(project: str | None, states: tuple[str, ...], array: str | None, limit: int, as_json: bool) -> None:
    """List the project's jobs, newest first."""
    found = sdk.list_jobs(Client(project=project), states=states, array=array, limit=limit)
    if as_json:
        print_json({"jobs": found})
        return
    rows = [
        (job["id"], name_of(job), state_of(job), ago(job["queued_at"]), took(job), command_of(job))
        for job in found
    ]
    print_table(
        ["Id", "Name", "State", "Asked", "Took", "Command"],
        rows,
        empty="No jobs yet. Run one with: stratal run -- python train.py",
        right=(0, 4),
    )
    if len(found) == limit:
        note(f"The newest {limit}; for more: --limit")


class _Target(click.ParamType):  # type: ignore[type-arg]
    """``12`` is a job, ``a3`` an array."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"a?[1-9]\d{0,14}", str(value), re.ASCII):
            self.fail(f"{value!r} is no job (12) and no array (a3).", param, ctx)
        return str(value)


class _Job(click.ParamType):  # type: ignore[type-arg]
    """A job's number."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        word = str(value)
        if re.fullmatch(r"[1-9]\d{0,14}", word, re.ASCII):
            return int(word)
        if re.fullmatch(r"a[1-9]\d{0,14}", word, re.ASCII):
            why = f"{word} is an array: its jobs have numbers of their own (stratal job show {word})."
        else:
            why = f"{word[:60]!r} is no job's number, such as 12. List them with: stratal jobs"
        raise click.BadParameter(why, ctx=ctx, param=param)


@click.group(
    epilog="Examples: stratal job show 12 · stratal job why 12 · stratal job logs -f 12 · stratal job stop a3"
)
def job() -> None:
    """Look at one job or array, read its log, stop it."""


@job.command("show")
@click.argument("target", type=_Target(), metavar="ID")
@project_option
@json_option
def show_job(target: str, project: str | None, as_json: bool) -> None:
    """Show everything about job ID (12), or an array (a3) with its members."""
    client = Client(project=project)
    if target.startswith("a"):
        _show_array(client, target, as_json)
        return
    found = sdk.get(client, int(target))
    attempts = sdk.attempts(client, int(target))
    if as_json:
        print_json({**found, "attempts": attempts})
        return
    print_table(["Job", str(found["id"])], _details(found), empty="")
    if len(attempts) > 1:
        click.echo()
        rows = [(a["number"], state_of(a), a["reason"], ago(a["starting_at"]), took(a)) for a in attempts]
        print_table(["Attempt", "State", "Reason", "Begun", "Took"], rows, empty="", right=(0, 4))


def _show_array(client: Client, name: str, as_json: bool) -> None:
    array = sdk.get_array(client, name)
    members = list(reversed(sdk.list_jobs(client, array=name, limit=1000)))
    if as_json:
        print_json({**array, "jobs": members})
        return
    counted = ", ".join(f"{count} {state}" for state, count in array["states"].items() if count)
    click.echo(f"Array {array['id']} ({array['name']}), {array['size']} members: {counted}")
    rows = [(m["array_index"], m["id"], state_of(m), m["reason"], took(m)) for m in members]
    print_table(["Index", "Job", "State", "Reason", "Took"], rows, empty="", right=(0, 1, 4))


@job.command("why")
@click.argument("job_id", type=_Job(), metavar="ID")
@project_option
@json_option
def why_job(job_id: int, project: str | None, as_json: bool) -> None:
    """Say what job ID waits for right now."""
    found = sdk.why(Client(project=project), job_id)
    if as_json:
        print_json(found)
        return
    click.echo(f"Job {job_id} is {found['state']}" + (f": {found['reason']}" if found["reason"] else "."))
    for wait in found["waits_for"]:
        click.echo(f"  waits for {wait['words']}")
        if wait.get("ahead"):
            click.echo(f"  ({wait['ahead']} wait before it)")
    if not found["waits_for"] and found["state"] == "queued":
        click.echo("  starts any moment")


@job.command("logs")
@click.argument("job_id", type=_Job(), metavar="ID")
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=click.IntRange(0), help="One process's of a gang, in --attempt or the last.")
@click.option(
    "--attempt", type=click.IntRange(1), help="One attempt's alone (default: all, one after another)."
)
@json_option
def job_logs(
    job_id: int, project: str | None, follow: bool, rank: int | None, attempt: int | None, as_json: bool
) -> None:
    """Print the log of job ID. Ctrl-C ends the printing, not the job."""
    client = Client(project=project)
    if as_json:
        found = sdk.wait(client, job_id) if follow else sdk.get(client, job_id)
        text = sdk.logs(client, job_id, attempt=attempt, rank=rank).decode(errors="replace")
        print_json({"id": job_id, "state": found["state"], "exit_code": found["exit_code"], "log": text})
    elif follow and attempt is None and rank is None:
        sdk.get(client, job_id)
        sdk.follow(client, job_id)
    else:
        for chunk in sdk.read_logs(client, job_id, attempt=attempt, rank=rank, follow=follow):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


@job.command("stop")
@click.argument("target", type=_Target(), metavar="ID")
@project_option
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended (default), or only ask.")
@json_option
def stop_job(target: str, project: str | None, wait: bool, as_json: bool) -> None:
    """Stop job ID (12) or every member of an array (a3): SIGTERM, and SIGKILL after the grace."""
    client = Client(project=project)
    if target.startswith("a"):
        _stop_array(client, target, wait, as_json)
        return
    found = sdk.stop(client, int(target))
    if wait and found["state"] not in sdk.ENDED:
        found = sdk.wait(client, found["id"], seconds=_STOP_SECONDS + found["grace_seconds"])
    if as_json:
        print_json(found)
    elif found["state"] in sdk.ENDED:
        click.echo(f"Job {target} {state_of(found)}.")
    else:
        click.echo(f"Job {target} was asked to stop.")


def _stop_array(client: Client, name: str, wait: bool, as_json: bool) -> None:
    array = sdk.stop_array(client, name)
    deadline = time.monotonic() + _STOP_SECONDS
    while wait and not array["ended"] and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        array = sdk.get_array(client, name)
    if as_json:
        print_json(array)
    else:
        click.echo(f"Array {name} {'has ended' if array['ended'] else 'was asked to stop'}.")


# -- words ---------------------------------------------------------------------------------------------


def _each(found: dict[str, Any]) -> str:
    if not found["nodes"]:
        return ""
    return f" on each of {found['nodes']} nodes, {found['procs_per_node']} processes on each"


def _details(found: dict[str, Any]) -> list[tuple[str, object]]:
    usage, source, isolation = found["usage"], found["source"], found["isolation"]
    rows: list[tuple[str, object]] = [
        ("Name", found["name"]),
        ("State", state_of(found)),
        ("Reason", found["reason"]),
        ("Attempt", f"{found['attempt']} of {found['retries'] + 1}" if found["retries"] else None),
        ("Array", found["array"] and f"{found['array']}, index {found['array_index']}"),
        ("After", ", ".join(str(one) for one in found["after"])),
        ("Priority", found["priority"] or None),
        ("Command", command_of(found, whole=True)),
        ("Project", found["project"]),
        ("Asked for by", found["created_by"]),
        ("Asked", f"{ago(found['queued_at'])} ({found['queued_at']})"),
        ("Started", found["started_at"] and f"{ago(found['started_at'])} ({found['started_at']})"),
        ("Took", took(found)),
        ("May use", f"{found['cpus']:g} cpus, {human_bytes(found['memory_bytes'])}{_each(found)}"),
    ]
    if found["gpus"]:
        rows.append(
            ("GPUs", f"{found['gpus']} {found['gpu_type'] or ''} {' '.join(found['gpu_uuids'])}".strip())
        )
        if usage["gpu_seconds"]:
            busy = usage["gpu_busy_seconds"] / usage["gpu_seconds"]
            peak = human_bytes(usage["gpu_peak_memory_bytes"])
            rows.append(
                ("GPUs used", f"held {lasted(usage['gpu_seconds'])}, busy {busy:.0%}, peak memory {peak}")
            )
    if found["started_at"]:
        used = (
            f"processor {lasted(usage['cpu_seconds'])}, peak memory {human_bytes(usage['peak_memory_bytes'])}"
        )
        rows.append(("Used", used))
    if found["timeout_seconds"]:
        rows.append(("Time limit", f"{lasted(found['timeout_seconds'])} for an attempt"))
    rows.append(("Grace", lasted(found["grace_seconds"])))
    if found["checkpoint_bytes"] is not None:
        rows.append(("Checkpoint", human_bytes(found["checkpoint_bytes"])))
    rows.append(("Variables", "\n".join(f"{name}={value}" for name, value in found["env"].items())))
    rows.append(("Requirements", "\n".join(found["requirements"])))
    rows.append(("Environment", found["environment"]))
    rows.append(("Code", found["snapshot"]))
    if source["kind"] == "git":
        commit = source["commit"] or "none yet"
        rows.append(("Commit", commit + (f" on {source['branch']}" if source["branch"] else "")))
        rows.append(("Repository", source["remote"]))
        if source["dirty"]:
            changed = f"{human_bytes(source['diff_bytes'])} of diff" + (
                ", cut" if source["diff_truncated"] else ""
            )
            rows.append(("Uncommitted", f"{changed}, {len(source['untracked'])} untracked files"))
    if isolation:
        words = isolation["state"]
        if isolation["start"] == "forked":
            words += "; forked from a warm interpreter"
        if isolation["other_inputs"]:
            words += "; other inputs possible: " + ", ".join(isolation["other_inputs"])
        rows.append(("Isolation", words))
    return [(label, value) for label, value in rows if value not in (None, "")]
