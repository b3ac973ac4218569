"""``stratal run``, ``jobs`` and ``job``."""

import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from stratal.app.settings import home_directory
from stratal.cli.output import human_bytes, json_option, print_error, print_json, print_table, project_option
from stratal.sdk import Client
from stratal.sdk import jobs as sdk
from stratal.sdk.worktree import TreeError, WorkTree, read_worktree

STATES = ["queued", "starting", "running", "succeeded", "failed", "stopped", "unknown"]
NO_EXIT_CODE = 125
INTERRUPTED = 130
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_STOP_SECONDS = 30.0

RUN_EPILOG = """
\b
Examples:
  stratal run -- python train.py --epochs 3
  stratal run --with scikit-learn --with mlflow -- python train.py
  stratal run --requirements requirements.txt --memory 8GiB --cpus 2 -- python train.py
  stratal run --detach --name nightly --timeout 2h -- python -m pipeline
  stratal run --network open -- python download.py

\b
The code is the working tree as it lies there: in a git repository what git does not ignore (the whole
repository, also from a folder within it; the job starts in that folder), elsewhere all files. The job
works in a copy, removed when it ended: keep results in buckets, tables or runs.

\b
The platform's variables (see: stratal env) are set, with a key of the job's own. Where the sandbox
allows it, the job reaches the platform and nothing else, unless run with --network open.

\b
Ctrl-C leaves the job running. Exit code: the job's own; 125 when it has none (it never started, was
stopped before, or nobody saw its end); 130 after Ctrl-C; 0 with --detach.
"""


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip(), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size like 512MiB or 4GiB.", param, ctx)
        return int(float(match[1]) * _BYTES[match[2].lower()])


class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip(), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a time like 90s, 30m, 2h or 1d.", param, ctx)
        return float(match[1]) * _SECONDS[match[2].lower()]


@click.command(epilog=RUN_EPILOG, context_settings={"allow_interspersed_args": False})
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]...")
@project_option
@click.option("--name", help="A name for the job (default: the script's).")
@click.option("--cpus", type=float, help="Processors it gets (default 1).")
@click.option(
    "--memory", type=_Size(), help="Memory it may use, e.g. 512MiB (default 4GiB, or half of the machine)."
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="K=V",
    help="A variable for the job; K alone passes yours on.",
)
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install.",
)
@click.option(
    "--with", "packages", multiple=True, metavar="PKG", help="A package to install, e.g. 'pandas>=2'."
)
@click.option(
    "--upgrade-env", is_flag=True, help="Resolve the requirements anew instead of as the last time."
)
@click.option(
    "--network",
    type=click.Choice(["platform", "open"]),
    help="What it may reach: the platform only (default), or everything.",
)
@click.option("--timeout", type=_Duration(), help="Stop it after so long, e.g. 90s, 30m, 2h.")
@click.option("--no-code", is_flag=True, help="Send no files: the job starts in an empty folder.")
@click.option(
    "--follow/--detach", default=True, help="Show its log until it ends (default), or return at once."
)
@json_option
def run(
    argv: tuple[str, ...],
    project: str | None,
    name: str | None,
    cpus: float | None,
    memory: int | None,
    variables: tuple[str, ...],
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    upgrade_env: bool,
    network: str | None,
    timeout: float | None,
    no_code: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Run a command as a job, with this folder's code."""
    env = dict(_variable(text) for text in variables)
    wanted = "".join(_requirements(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        tree = None if no_code else read_worktree(Path.cwd(), without=home_directory())
        client = Client(project=project)
        if tree is not None:
            _tell(tree)
        job = sdk.run(
            client,
            argv,
            tree=tree,
            name=name,
            cpus=cpus,
            memory_bytes=memory,
            env=env,
            requirements=wanted,
            upgrade_environment=upgrade_env,
            network=network,
            timeout_seconds=timeout,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    except OSError as error:
        print_error(f"{error.filename or 'A file'} cannot be read: {error.strerror}.")
        raise SystemExit(1) from None
    if follow:
        _follow(client, job, as_json)
    elif as_json:
        print_json(job)
    else:
        click.echo(job["id"])
        _note(f"Job {job['id']} ({job['name']}) is queued. Follow it: stratal job logs -f {job['id']}")


def _follow(client: Client, job: dict[str, Any], as_json: bool) -> None:
    """Show the log until the end; ends this process with the job's exit code."""
    _note(f"Job {job['id']} ({job['name']}) is queued.")
    try:
        job = sdk.follow(client, job["id"], _to_stderr if as_json else None)
    except KeyboardInterrupt:
        _note(
            f"\nJob {job['id']} goes on without you. Follow it: stratal job logs -f {job['id']} · "
            f"stop it: stratal job stop {job['id']}"
        )
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(job)
    _note(_verdict(job))
    raise SystemExit(NO_EXIT_CODE if job["exit_code"] is None else job["exit_code"])


def _tell(tree: WorkTree) -> None:
    for note in tree.notes:
        _note(note)
    source = tree.source
    count = f"{len(tree.entries)} file{'s' * (len(tree.entries) != 1)}"
    if source["kind"] == "git":
        at = f"commit {source['commit'][:12]}" if source["commit"] else "no commit yet"
        at += f" on {source['branch']}" if source["branch"] else ""
        at += ", with uncommitted changes" if source["dirty"] and source["commit"] else ""
        _note(f"Code: {count}, {human_bytes(tree.size)}, {at}.")
    else:
        _note(f"Code: {count}, {human_bytes(tree.size)}.")


def _variable(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if given:
        return name, value
    if name not in os.environ:
        raise click.BadParameter(f"{name} is not set here: say {name}=VALUE.", param_hint="--env")
    return name, os.environ[name]


def _requirements(path: Path, above: Sequence[Path] = ()) -> str:
    """The file's lines, those of files it refers to (``-r``) in their place."""
    if path.resolve() in above:
        raise click.BadParameter(f"{path} refers to itself.", param_hint="--requirements")
    lines = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}", param_hint="--requirements") from None
    for line in text.splitlines():
        match = re.match(r"\s*(?:-r|--requirement)[\s=]\s*(\S+)", line)
        inner = path.parent / match[1] if match else None
        lines.append(line + "\n" if inner is None else _requirements(inner, [*above, path.resolve()]))
    return "".join(lines)


def _to_stderr(chunk: bytes) -> None:
    sys.stderr.buffer.write(chunk)
    sys.stderr.buffer.flush()


def _note(text: str) -> None:
    click.echo(click.style(text, dim=True), err=True)


def _verdict(job: dict[str, Any]) -> str:
    usage = job["usage"]
    words = f"Job {job['id']} {_state(job)}"
    if job["exit_code"] is None and job["reason"]:
        return f"{words}: {job['reason']}"
    if job["started_at"]:
        words += (
            f" after {_lasted(usage['wall_seconds'])} (processor {_lasted(usage['cpu_seconds'])}, "
            f"peak memory {human_bytes(usage['peak_memory_bytes'])})"
        )
    if job["isolation"]:
        words += f", {job['isolation']['state']}"
    return words + "."


# -- stratal jobs --------------------------------------------------------------------------------------


@click.command(epilog="Examples: stratal jobs · stratal jobs --state running · stratal jobs --json")
@project_option
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only jobs in this state (repeatable).",
)
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="At most so many, newest first.",
)
@json_option
def jobs(project: str | None, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the project's jobs, newest first."""
    found = sdk.list_jobs(Client(project=project), states=states, limit=limit)
    if as_json:
        print_json({"jobs": found})
        return
    rows = [
        (job["id"], job["name"], _state(job), _ago(job["queued_at"]), _took(job), _command(job))
        for job in found
    ]
    print_table(
        ["Id", "Name", "State", "Asked", "Took", "Command"],
        rows,
        empty="No jobs yet. Run one with: stratal run -- python train.py",
        right=(0, 4),
    )
    if len(found) == limit:
        _note(f"The newest {limit}; for more: --limit")


@click.group(epilog="Examples: stratal job show 12 · stratal job logs -f 12 · stratal job stop 12")
def job() -> None:
    """Look at one job, read its log, stop it."""


@job.command("show")
@click.argument("job_id", type=click.IntRange(1), metavar="ID")
@project_option
@json_option
def show_job(job_id: int, project: str | None, as_json: bool) -> None:
    """Show everything about job ID."""
    found = sdk.get(Client(project=project), job_id)
    if as_json:
        print_json(found)
        return
    print_table(["Job", str(found["id"])], _details(found), empty="")


@job.command("logs")
@click.argument("job_id", type=click.IntRange(1), metavar="ID")
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@json_option
def job_logs(job_id: int, project: str | None, follow: bool, as_json: bool) -> None:
    """Print the log of job ID. Ctrl-C ends the printing, not the job."""
    client = Client(project=project)
    if as_json:
        found = sdk.wait(client, job_id) if follow else sdk.get(client, job_id)
        text = sdk.logs(client, job_id).decode(errors="replace")
        print_json({"id": job_id, "state": found["state"], "exit_code": found["exit_code"], "log": text})
    elif follow:
        sdk.get(client, job_id)
        sdk.follow(client, job_id)
    else:
        for chunk in sdk.read_logs(client, job_id):
            sys.stdout.buffer.write(chunk)


@job.command("stop")
@click.argument("job_id", type=click.IntRange(1), metavar="ID")
@project_option
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended (default), or only ask.")
@json_option
def stop_job(job_id: int, project: str | None, wait: bool, as_json: bool) -> None:
    """Stop job ID: SIGTERM, and SIGKILL ten seconds later."""
    client = Client(project=project)
    found = sdk.stop(client, job_id)
    if wait and found["state"] not in sdk.ENDED:
        found = sdk.wait(client, job_id, seconds=_STOP_SECONDS)
    if as_json:
        print_json(found)
    elif found["state"] in sdk.ENDED:
        click.echo(f"Job {job_id} {_state(found)}.")
    else:
        click.echo(f"Job {job_id} was asked to stop.")


# -- words ---------------------------------------------------------------------------------------------


def _state(found: dict[str, Any]) -> str:
    """The state, with the exit code where it says more."""
    code = found["exit_code"]
    return f"{found['state']} (exit code {code})" if code else str(found["state"])


def _details(found: dict[str, Any]) -> list[tuple[str, object]]:
    usage, source, isolation = found["usage"], found["source"], found["isolation"]
    rows: list[tuple[str, object]] = [
        ("Name", found["name"]),
        ("State", _state(found)),
        ("Reason", found["reason"]),
        ("Command", _command(found, whole=True)),
        ("Project", found["project"]),
        ("Asked for by", found["created_by"]),
        ("Asked", f"{_ago(found['queued_at'])} ({found['queued_at']})"),
        ("Started", found["started_at"] and f"{_ago(found['started_at'])} ({found['started_at']})"),
        ("Took", _took(found)),
        ("May use", f"{found['cpus']:g} cpus, {human_bytes(found['memory_bytes'])}"),
    ]
    if found["started_at"]:
        used = f"processor {_lasted(usage['cpu_seconds'])}, peak memory {human_bytes(usage['peak_memory_bytes'])}"
        rows.append(("Used", used))
    if found["timeout_seconds"]:
        rows.append(("Time limit", _lasted(found["timeout_seconds"])))
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
        if isolation["other_inputs"]:
            words += "; other inputs possible: " + ", ".join(isolation["other_inputs"])
        rows.append(("Isolation", words))
    return [(label, value) for label, value in rows if value not in (None, "")]


def _command(found: dict[str, Any], *, whole: bool = False) -> str:
    text = shlex.join(found["argv"])
    return text if whole or len(text) <= 60 else text[:57] + "…"


def _parsed(stamp: str) -> float:
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()


def _ago(stamp: str) -> str:
    seconds = max(0.0, time.time() - _parsed(stamp))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now" if seconds < 5 else f"{seconds:.0f} s ago"


def _took(found: dict[str, Any]) -> str:
    if not found["started_at"]:
        return ""
    end = _parsed(found["ended_at"]) if found["ended_at"] else time.time()
    return _lasted(max(0.0, end - _parsed(found["started_at"])))


def _lasted(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
