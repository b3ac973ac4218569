"""``stratal run``."""

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stratal.app.settings import home_directory
from stratal.cli.output import human_bytes, json_option, print_error, print_json, project_option
from stratal.cli.shown import Duration, Gpus, Size, lasted, note, state_of
from stratal.sdk import Client
from stratal.sdk import jobs as sdk
from stratal.sdk.worktree import TreeError, WorkTree, read_worktree

NO_EXIT_CODE = 125
INTERRUPTED = 130
_LOOK_SECONDS = 0.5

RUN_EPILOG = """
\b
Examples:
  stratal run -- python train.py --epochs 3
  stratal run --with scikit-learn --with mlflow -- python train.py
  stratal run --requirements requirements.txt --memory 8GiB --cpus 2 -- python train.py
  stratal run --detach --name nightly --timeout 2h -- python -m pipeline
  stratal run --gpus h100:1 -- python train.py
  stratal run --nodes 2 --procs-per-node 4 --retries 3 -- python train.py
  stratal run --network open -- python download.py
  stratal run --retries 3 --grace 60s -- python train.py
  stratal run --array 0-9 --parallel 2 -- sh -c 'python fit.py --fold $STRATAL_ARRAY_INDEX'
  stratal run --git study@main -- python train.py
  stratal run --after 12,a3 --priority 10 -- python merge.py

\b
The code is the working tree as it lies there: in a git repository what git does not ignore (the whole
repository, also from a folder within it; the job starts in that folder), elsewhere all files. The job
works in a copy, removed when it ended: keep results in buckets, tables or runs.

\b
The platform's variables (see: stratal env) are set, with a key of the job's own. Where the sandbox
allows it, the job reaches the platform and nothing else, unless run with --network open.

\b
With --retries a failed attempt, or one whose end nobody saw, is followed by another after a pause of 1 s,
2 s, 4 s … (at most 5 min). What lies in $STRATAL_CHECKPOINT_DIR is there again in the next attempt.

\b
With --nodes or --procs-per-node the command is started as a gang, once for each process, with torchrun's
variables (RANK, WORLD_SIZE, MASTER_ADDR …). When one fails all end, and are tried again together.

\b
With --array the command runs once for each index, as jobs of their own; an array is named a3 (jobs: 12).
Exit code: 0 when all succeeded, else 1.

\b
Ctrl-C leaves the job running. Exit code: the job's own; 125 when it has none (it never started, was
stopped before, or nobody saw its end); 130 after Ctrl-C; 0 with --detach.
"""


@click.command(epilog=RUN_EPILOG, context_settings={"allow_interspersed_args": False})
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]...")
@project_option
@click.option("--name", help="A name for the job (default: the script's).")
@click.option("--cpus", type=float, help="Processors it gets (default 1).")
@click.option(
    "--memory", type=Size(), help="Memory it may use, e.g. 512MiB (default 4GiB, or half of the machine)."
)
@click.option(
    "--gpus",
    type=Gpus(),
    metavar="[TYPE:]N",
    help="GPUs it gets for itself, e.g. 1 or h100:2 (default none).",
)
@click.option(
    "--nodes",
    type=click.IntRange(1),
    help="Run a gang on so many nodes, all or none; --cpus, --memory and --gpus are each node's.",
)
@click.option("--procs-per-node", type=click.IntRange(1), help="Processes on each node of the gang.")
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
@click.option("--timeout", type=Duration(), help="Stop an attempt after so long, e.g. 90s, 30m, 2h.")
@click.option("--grace", type=Duration(), help="From SIGTERM to SIGKILL when it is stopped (default 10s).")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=0,
    help="Try it again so often when it fails or its end was not seen.",
)
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    help="Each point moves it ahead by ten minutes of waiting (default 0).",
)
@click.option(
    "--after",
    multiple=True,
    metavar="ID[,ID]",
    help="Start only when these jobs (12) and arrays (a3) have succeeded.",
)
@click.option("--array", metavar="INDICES", help="Run it for each index: 10 (0 to 9), 5-9, or 1,4,7-9.")
@click.option("--parallel", type=click.IntRange(1), help="At most so many of the array at once.")
@click.option(
    "--git",
    metavar="REPO[@REV]",
    help="Run a commit of a repository here (see: stratal repo), not this folder.",
)
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
    gpus: tuple[int, str | None] | None,
    nodes: int | None,
    procs_per_node: int | None,
    variables: tuple[str, ...],
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    upgrade_env: bool,
    network: str | None,
    timeout: float | None,
    grace: float | None,
    retries: int,
    priority: int,
    after: tuple[str, ...],
    array: str | None,
    parallel: int | None,
    git: str | None,
    no_code: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Run a command as a job, with this folder's code."""
    env = dict(variable_of(text) for text in variables)
    if git and no_code:
        raise click.UsageError("--git and --no-code exclude each other.")
    wanted = "".join(requirements_of(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        tree = None if no_code or git else read_worktree(Path.cwd(), without=home_directory())
        client = Client(project=project)
        if tree is not None:
            tell_code(tree)
        job = sdk.run(
            client,
            argv,
            tree=tree,
            git=git,
            name=name,
            cpus=cpus,
            memory_bytes=memory,
            gpus=gpus[0] if gpus else 0,
            gpu_type=gpus[1] if gpus else None,
            nodes=nodes,
            procs_per_node=procs_per_node,
            env=env,
            requirements=wanted,
            upgrade_environment=upgrade_env,
            network=network,
            timeout_seconds=timeout,
            grace_seconds=grace,
            retries=retries,
            priority=priority,
            after=[word.strip() for words in after for word in words.split(",") if word.strip()],
            array=array,
            parallel=parallel,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    except OSError as error:
        print_error(f"{error.filename or 'A file'} cannot be read: {error.strerror}.")
        raise SystemExit(1) from None
    if follow and job["array"]:
        _follow_array(client, job["array"], as_json)
    elif follow:
        _follow(client, job, as_json)
    elif as_json:
        print_json(job)
    elif job["array"]:
        click.echo(job["array"])
        note(f"Array {job['array']} ({job['name']}) is queued. Look at it: stratal job show {job['array']}")
    else:
        click.echo(job["id"])
        note(f"Job {job['id']} ({job['name']}) is queued. Follow it: stratal job logs -f {job['id']}")


def _follow(client: Client, job: dict[str, Any], as_json: bool) -> None:
    """Show the log until the end; ends this process with the job's exit code."""
    note(f"Job {job['id']} ({job['name']}) is queued.")
    try:
        job = sdk.follow(client, job["id"], _to_stderr if as_json else None)
    except KeyboardInterrupt:
        note(
            f"\nJob {job['id']} goes on without you. Follow it: stratal job logs -f {job['id']} · "
            f"stop it: stratal job stop {job['id']}"
        )
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(job)
    note(_verdict(job))
    raise SystemExit(NO_EXIT_CODE if job["exit_code"] is None else job["exit_code"])


def _follow_array(client: Client, name: str, as_json: bool) -> None:
    """Tell of each member as it ends; ends this process with 0 when all succeeded, else with 1."""
    note(f"Array {name} is queued. Its members' logs: stratal job logs ID")
    told: set[int] = set()
    try:
        while True:
            array = sdk.get_array(client, name)
            for member in reversed(sdk.list_jobs(client, array=name, states=sorted(sdk.ENDED), limit=1000)):
                if member["id"] not in told:
                    told.add(member["id"])
                    note(f"[{member['array_index']}] job {member['id']} {state_of(member)}")
            if array["ended"] and len(told) == array["size"]:
                break
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        note(f"\nArray {name} goes on without you. Stop it: stratal job stop {name}")
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(array)
    good = array["states"]["succeeded"]
    note(f"Array {name}: {good} of {array['size']} succeeded.")
    raise SystemExit(0 if good == array["size"] else 1)


def tell_code(tree: WorkTree) -> None:
    for line in tree.notes:
        note(line)
    source = tree.source
    count = f"{len(tree.entries)} file{'s' * (len(tree.entries) != 1)}"
    if source["kind"] == "git":
        at = f"commit {source['commit'][:12]}" if source["commit"] else "no commit yet"
        at += f" on {source['branch']}" if source["branch"] else ""
        at += ", with uncommitted changes" if source["dirty"] and source["commit"] else ""
        note(f"Code: {count}, {human_bytes(tree.size)}, {at}.")
    else:
        note(f"Code: {count}, {human_bytes(tree.size)}.")


def variable_of(text: str) -> tuple[str, str]:
    """The variable that ``K=V``, or ``K`` alone, sets: looked at here, before any code is sent."""
    name, given, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        shown = f"{name[:60]!r} cannot name a variable" if name else "the variable has no name"
        raise click.BadParameter(
            f"{shown}: say NAME=VALUE, with letters, digits and '_'.", param_hint="--env"
        )
    if given:
        return name, value
    if name not in os.environ:
        raise click.BadParameter(f"{name} is not set here: say {name}=VALUE.", param_hint="--env")
    return name, os.environ[name]


def requirements_of(path: Path, above: Sequence[Path] = ()) -> str:
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
        lines.append(line + "\n" if inner is None else requirements_of(inner, [*above, path.resolve()]))
    return "".join(lines)


def _to_stderr(chunk: bytes) -> None:
    sys.stderr.buffer.write(chunk)
    sys.stderr.buffer.flush()


def _verdict(job: dict[str, Any]) -> str:
    usage = job["usage"]
    words = f"Job {job['id']} {state_of(job)}"
    if job["exit_code"] is None and job["reason"]:
        return f"{words}: {job['reason']}"
    if job["started_at"]:
        words += (
            f" after {lasted(usage['wall_seconds'])} (processor {lasted(usage['cpu_seconds'])}, "
            f"peak memory {human_bytes(usage['peak_memory_bytes'])})"
        )
    if job["isolation"]:
        words += f", {job['isolation']['state']}"
    return words + "."
