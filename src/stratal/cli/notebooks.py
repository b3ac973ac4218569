"""``stratal notebook``: run a notebook as a job."""

import json
from pathlib import Path

import click

from stratal.app.settings import home_directory
from stratal.cli.output import json_option, print_error, print_json, project_option
from stratal.cli.run import _follow, requirements_of, tell_code
from stratal.cli.shown import Duration, Size, note
from stratal.sdk import Client, notebooks
from stratal.sdk.worktree import TreeError, read_worktree


@click.group(epilog="Example: stratal notebook run study.ipynb --param rate=0.1 --with pandas")
def notebook() -> None:
    """Notebooks as jobs. To work in one, see: stratal workspace."""


@notebook.command("run", epilog="Example: stratal notebook run study.ipynb --param rate=0.1 --with pandas")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="NOTEBOOK")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="K=V",
    help="A parameter: a number, true, false, null or JSON where V is that, else a text.",
)
@click.option("--name", help="The job's name (default: the notebook's).")
@click.option("--bucket", help="Where its output is kept (default: PROJECT-notebooks).")
@click.option("--cpus", type=float, help="Processors it needs.")
@click.option("--memory", type=Size(), help="Memory it may use.")
@click.option("--timeout", type=Duration(), help="End it after so long.")
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
@click.option("--follow/--no-follow", default=True, show_default=True, help="Show its log until it ends.")
@project_option
@json_option
def run(
    path: Path,
    parameters: tuple[str, ...],
    name: str | None,
    bucket: str | None,
    cpus: float | None,
    memory: int | None,
    timeout: float | None,
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    follow: bool,
    project: str | None,
    as_json: bool,
) -> None:
    """Run NOTEBOOK as a job with this folder's code, its parameters in a cell behind the one tagged `parameters`.

    What came of it is kept, also when a cell failed: as NOTEBOOK/JOB.ipynb and NOTEBOOK/JOB.html in the bucket.
    """
    given = dict(_parameter(text) for text in parameters)
    wanted = "".join(requirements_of(file) for file in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        tree = read_worktree(path.resolve().parent, without=home_directory())
        client = Client(project=project)
        tell_code(tree)
        job = notebooks.run(
            client,
            path,
            given,
            requirements=wanted,
            bucket=bucket,
            tree=tree,
            name=name,
            cpus=cpus,
            memory_bytes=memory,
            timeout_seconds=timeout,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    output = job["output"]
    note(f"Its output will be: stratal objects get {output['bucket']}/{output['key']}")
    if follow:
        _follow(client, job, as_json)
    elif as_json:
        print_json(job)
    else:
        click.echo(job["id"])


def _parameter(text: str) -> tuple[str, object]:
    name, given, value = text.partition("=")
    if not given or not name.isidentifier():
        raise click.BadParameter("say NAME=VALUE, NAME as in Python.", param_hint="--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
