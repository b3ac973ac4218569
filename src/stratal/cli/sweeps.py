"""``stratal sweep``: search parameters, look at searches, stop them."""

import shutil
from pathlib import Path
from typing import Any

import click

from stratal.app.settings import home_directory
from stratal.cli.output import json_option, print_error, print_json, print_table, project_option
from stratal.cli.run import INTERRUPTED, requirements_of, tell_code, variable_of
from stratal.cli.shown import Duration, Gpus, Size, ago, command_of, note, took
from stratal.sdk import Client
from stratal.sdk import sweeps as sdk
from stratal.sdk.worktree import TreeError, read_worktree

_STOP_SECONDS = 60.0

START_EPILOG = """
\b
Examples:
  stratal sweep train.py --param lr=log:1e-4..1e-1 --param depth=int:2..8 --metric val_auc --trials 30
  stratal sweep train.py --param kind=choice:a,b --metric loss --direction minimize --parallel 2 --prune
  stratal sweep train.py --param depth=int:2..8 --metric auc --with scikit-learn --with mlflow --register churn
  stratal sweep --param lr=log:1e-4..1e-1 --metric auc -- python fit.py optimizer.lr={lr}

\b
What can be searched: float:0..1, log:1e-4..1e-1, int:2..8, intlog:16..4096, choice:a,b; float and int also
in steps, int:2..8:2. A trial gets its parameters as arguments (--lr=0.01 behind the command, or where it
says {lr}) and as variables ($STRATAL_PARAM_LR, all of them as JSON in $STRATAL_PARAMS).

\b
The script logs the metric with MLflow, best with a step: mlflow.log_metric("val_auc", value, step=epoch).
With --prune a trial is stopped when at the same step its metric is worse than the median of earlier ones.
With --register the model that the best trial logged becomes the next version of that name.

\b
Each trial is a job (stratal jobs) and a run (stratal runs) below the sweep's own. The search outlives the
server. Ctrl-C leaves it going. Exit code: 0 when it ended well, else 1; 130 after Ctrl-C; 0 with --detach.
"""


class _Group(click.Group):
    """``stratal sweep train.py`` means ``stratal sweep start train.py``."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, "start")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Group,
    epilog="Examples: stratal sweep train.py --param lr=log:1e-4..1e-1 --metric auc · stratal sweep ls",
)
def sweep() -> None:
    """Search the parameters with which a script does best."""


class _Parameter(click.ParamType):  # type: ignore[type-arg]
    """``lr=log:1e-4..1e-1`` → its name and its range, checked."""

    name = "parameter"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, given, text = str(value).partition("=")
        if not given:
            self.fail(f"{value!r} names no range: say {name}=log:1e-4..1e-1, for example.", param, ctx)
        try:
            sdk.parameter(name, text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return name, text


@sweep.command("start", epilog=START_EPILOG)
@click.argument("argv", nargs=-1, required=True, metavar="SCRIPT.py | -- COMMAND [ARGS]...")
@click.option(
    "--param",
    "space",
    type=_Parameter(),
    multiple=True,
    required=True,
    metavar="NAME=RANGE",
    help="A parameter and where to search it (repeatable).",
)
@click.option("--metric", required=True, help="The metric to do best in, as the script logs it.")
@click.option(
    "--direction",
    type=click.Choice(["maximize", "minimize"]),
    default="maximize",
    help="Is more better (default), or less?",
)
@click.option("--trials", type=click.IntRange(1, 1000), default=20, help="How many to try (default 20).")
@click.option(
    "--parallel", type=click.IntRange(1, 100), default=1, help="At most so many at once (default 1)."
)
@click.option("--prune", is_flag=True, help="Stop trials that fall behind.")
@click.option("--register", "register_as", metavar="NAME", help="Register the best trial's model as NAME.")
@click.option("--experiment", help="Where its runs go (default: an experiment called like the sweep).")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="For the same search again.")
@project_option
@click.option("--name", help="A name for the sweep (default: the script's).")
@click.option("--cpus", type=float, help="Processors of each trial (default 1).")
@click.option("--memory", type=Size(), help="Memory of each trial, e.g. 512MiB.")
@click.option("--gpus", type=Gpus(), metavar="[TYPE:]N", help="GPUs of each trial, e.g. 1 or h100:2.")
@click.option("--nodes", type=click.IntRange(1), help="Each trial is a gang on so many nodes.")
@click.option("--procs-per-node", type=click.IntRange(1), help="Processes on each node of a trial's gang.")
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="K=V",
    help="A variable for the trials; K alone passes yours on.",
)
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install.",
)
@click.option("--with", "packages", multiple=True, metavar="PKG", help="A package to install, e.g. mlflow.")
@click.option(
    "--network",
    type=click.Choice(["platform", "open"]),
    help="What trials may reach: the platform only (default), or everything.",
)
@click.option("--timeout", type=Duration(), help="Stop a trial after so long, e.g. 30m.")
@click.option(
    "--retries", type=click.IntRange(0, 100), default=0, help="Try a trial again so often when its job fails."
)
@click.option(
    "--priority", type=click.IntRange(-1000, 1000), default=0, help="Of the trials' jobs (default 0)."
)
@click.option("--no-code", is_flag=True, help="Send no files: trials start in an empty folder.")
@click.option(
    "--follow/--detach", default=True, help="Tell of each trial as it ends (default), or return at once."
)
@json_option
def start(
    argv: tuple[str, ...],
    space: tuple[tuple[str, str], ...],
    metric: str,
    direction: str,
    trials: int,
    parallel: int,
    prune: bool,
    register_as: str | None,
    experiment: str | None,
    seed: int | None,
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
    network: str | None,
    timeout: float | None,
    retries: int,
    priority: int,
    no_code: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Search the parameters with which a script does best, with this folder's code."""
    if len(dict(space)) < len(space):
        raise click.BadParameter("a parameter is named twice.", param_hint="--param")
    env = dict(variable_of(text) for text in variables)
    wanted = "".join(requirements_of(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        tree = None if no_code else read_worktree(Path.cwd(), without=home_directory())
        client = Client(project=project)
        if tree is not None:
            tell_code(tree)
        made = sdk.begin(
            client,
            _command(argv, no_code=no_code),
            dict(space),
            metric,
            tree=tree,
            name=name,
            direction=direction,
            trials=trials,
            parallel=parallel,
            prune=prune,
            seed=seed,
            register_as=register_as,
            experiment=experiment,
            cpus=cpus,
            memory_bytes=memory,
            gpus=gpus[0] if gpus else 0,
            gpu_type=gpus[1] if gpus else None,
            nodes=nodes,
            procs_per_node=procs_per_node,
            env=env,
            requirements=wanted,
            network=network,
            timeout_seconds=timeout,
            retries=retries,
            priority=priority,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    except OSError as error:
        print_error(f"{error.filename or 'A file'} cannot be read: {error.strerror}.")
        raise SystemExit(1) from None
    if follow:
        _follow(client, made, as_json)
    elif as_json:
        print_json(made)
    else:
        click.echo(made["id"])
        note(f"Sweep {made['id']} ({made['name']}) has begun. Look at it: stratal sweep show {made['id']}")


def _command(argv: tuple[str, ...], *, no_code: bool) -> list[str]:
    """A script alone is run with Python; a word that is neither a script nor a program is a mistake."""
    first = argv[0]
    if first.endswith(".py"):
        if not no_code and not Path(first).is_file():
            raise click.UsageError(f"There is no script {first} here.")
        return ["python", *argv]
    if len(argv) == 1 and not Path(first).exists() and shutil.which(first) is None:
        raise click.UsageError(f"There is no script or command {first!r}. See: stratal sweep --help")
    return list(argv)


def _follow(client: Client, made: dict[str, Any], as_json: bool) -> None:
    note(
        f"Sweep {made['id']} ({made['name']}) has begun: {made['trials']} trials, {made['parallel']} at once."
    )
    try:
        ended = sdk.wait(client, made["id"], _tell)
    except KeyboardInterrupt:
        note(f"\nSweep {made['id']} goes on without you. Stop it: stratal sweep stop {made['id']}")
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        print_json(ended)
    note(_verdict(ended))
    raise SystemExit(0 if ended["state"] == "succeeded" else 1)


def _tell(trial: dict[str, Any]) -> None:
    value = "" if trial["value"] is None else f" {_figure(trial['value'])}"
    why = f": {trial['reason']}" if trial["state"] != "succeeded" and trial["reason"] else ""
    note(f"[{trial['number']}] {trial['state']}{value} with {_params(trial)} (job {trial['job']}){why}")


def _verdict(found: dict[str, Any]) -> str:
    words = f"Sweep {found['id']} {found['state']}."
    if found["best"]:
        best = found["best"]
        words += (
            f" Best {found['metric']} {_figure(best['value'])} in trial {best['number']}: {_params(best)}."
        )
    if found["version"]:
        words += f" Registered as {found['register_as']}/{found['version']}."
    return words + (f" {found['reason']}" if found["reason"] else "")


@sweep.command("ls")
@project_option
@click.option("--limit", default=100, type=click.IntRange(1, 1000), help="At most so many, newest first.")
@json_option
def list_sweeps(project: str | None, limit: int, as_json: bool) -> None:
    """List the project's sweeps, newest first."""
    found = sdk.list_sweeps(Client(project=project), limit=limit)
    if as_json:
        print_json({"sweeps": found})
        return
    rows = [
        (
            one["id"],
            one["name"],
            one["state"],
            f"{_ended(one)} of {one['trials']}",
            one["metric"],
            _figure(one["best"]["value"]) if one["best"] else "",
            ago(one["created_at"]),
        )
        for one in found
    ]
    print_table(
        ["Id", "Name", "State", "Trials", "Metric", "Best", "Begun"],
        rows,
        empty="No sweeps yet. Begin one with: stratal sweep train.py --param lr=log:1e-4..1e-1 --metric auc",
        right=(0, 5),
    )


@sweep.command("show")
@click.argument("sweep_id", type=click.IntRange(1), metavar="ID")
@project_option
@json_option
def show_sweep(sweep_id: int, project: str | None, as_json: bool) -> None:
    """Show sweep ID: what is searched, and what each trial came to."""
    found = sdk.get(Client(project=project), sweep_id)
    if as_json:
        print_json(found)
        return
    facts: list[tuple[str, object]] = [
        ("Name", found["name"]),
        ("State", found["state"] + (f": {found['reason']}" if found["reason"] else "")),
        ("Command", command_of(found, whole=True)),
        *((parameter["name"], _range(parameter)) for parameter in found["space"]),
        ("Metric", f"{found['metric']}, {found['direction']}"),
        ("Trials", f"{_ended(found)} of {found['trials']}, at most {found['parallel']} at once"),
        ("Begun", f"{ago(found['created_at'])} by {found['created_by']}"),
        ("Run", f"{found['run']} in experiment {found['experiment']}"),
    ]
    if found["best"]:
        best = found["best"]
        facts.append(("Best", f"{_figure(best['value'])} in trial {best['number']}: {_params(best)}"))
    if found["version"]:
        facts.append(("Registered", f"models:/{found['register_as']}/{found['version']}"))
    print_table(["Sweep", str(found["id"])], facts, empty="")
    click.echo()
    names = [parameter["name"] for parameter in found["space"]]
    rows = [
        (
            one["number"],
            one["job"],
            one["state"],
            "" if one["value"] is None else _figure(one["value"]),
            *(_figure(one["params"].get(name, "")) for name in names),
            took({"started_at": one["begun_at"], "ended_at": one["ended_at"]}),
            one["reason"],
        )
        for one in found["tried"]
    ]
    heads = ["Trial", "Job", "State", found["metric"], *names, "Took", "Reason"]
    print_table(heads, rows, empty="No trial has begun.", right=(0, 1, *range(3, 5 + len(names))))


@sweep.command("stop")
@click.argument("sweep_id", type=click.IntRange(1), metavar="ID")
@project_option
@json_option
def stop_sweep(sweep_id: int, project: str | None, as_json: bool) -> None:
    """Begin no more trials of sweep ID and stop those that run."""
    client = Client(project=project)
    found = sdk.stop(client, sweep_id)
    if found["state"] == "stopping":
        found = sdk.wait(client, sweep_id, seconds=_STOP_SECONDS)
    if as_json:
        print_json(found)
        return
    click.echo(f"Sweep {sweep_id} {found['state']}.")


def _ended(found: dict[str, Any]) -> int:
    return sum(count for state, count in found["states"].items() if state != "running")


def _params(trial: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in trial["params"].items())


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _range(parameter: dict[str, Any]) -> str:
    if parameter["kind"] == "choice":
        return "one of " + ", ".join(parameter["choices"])
    step = f" in steps of {parameter['step']:g}" if parameter["step"] else ""
    over = ", over its logarithm" if parameter["kind"] in {"log", "intlog"} else ""
    return f"{parameter['low']:g} to {parameter['high']:g}{step}{over}"
