"""``stratal transform``: a folder of SQL models, run as a pipeline."""

from pathlib import Path

import click

from stratal.app.settings import home_directory
from stratal.cli.output import json_option, print_error, print_json, print_table, project_option
from stratal.cli.pipelines import end_with, parameter
from stratal.sdk import Client
from stratal.sdk import pipeline_runs as sdk
from stratal.sdk.pipelines import transforms
from stratal.sdk.worktree import TreeError

EPILOG = """
\b
  models/mart/daily.sql makes the table mart.daily:
    -- check: not_null("day")
    select day, sum(km) km from {{ source('raw', 'trips') }} group by day
  models/mart/daily.test.sql beside it selects the rows that are wrong:
    select * from {{ this }} where km < 0

\b
  stratal transform models/ --list               what is there, in the order in which it runs
  stratal transform models/ --select daily+      one model and all that come of it
"""


@click.command(epilog=EPILOG)
@click.argument("folder", type=click.Path(path_type=Path))
@project_option
@click.option(
    "--select",
    "-s",
    multiple=True,
    metavar="MODEL",
    help="Only this model; +MODEL with all before it, MODEL+ with all after it.",
)
@click.option(
    "--set", "--param", "settings", multiple=True, metavar="K=V", help="A parameter: V is JSON, else text."
)
@click.option("--list", "only_list", is_flag=True, help="List the models and run nothing.")
@click.option("--parallel", type=click.IntRange(1, 64), help="At most so many models at once.")
@click.option("--no-cache", is_flag=True, help="Run every model, whatever earlier runs have left.")
@click.option("--wait/--detach", default=True, help="Wait until it has ended (default), or return at once.")
@json_option
def transform(
    folder: Path,
    project: str | None,
    select: tuple[str, ...],
    settings: tuple[str, ...],
    only_list: bool,
    parallel: int | None,
    no_cache: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Run the SQL models of FOLDER, each after those it refers to, with their tests. What has not changed is not run.

    A FOLDER with a dbt_project.yml is built by dbt, in one step with an environment of its own: its sources are tables here,
    its models become such, and its tests hold them back.

    Exit code: 0 when all succeeded, 1 when not, 130 after Ctrl-C, which leaves them running.
    """
    if sdk.is_dbt(folder):
        if only_list:
            print_error("What a project of dbt has, dbt lists.", f"dbt ls --project-dir {folder}")
            raise SystemExit(1)
    else:
        try:
            found = transforms.chosen_of(transforms.read(folder), select)
        except transforms.BadModel as error:
            print_error(str(error), "")
            raise SystemExit(1) from None
        if only_list:
            _list(found, as_json)
            return
    client = Client(project=project)
    try:
        run = sdk.start_models(
            client,
            folder,
            select=select,
            parameters=dict(parameter(text) for text in settings),
            parallel=parallel,
            use_cache=not no_cache,
            without=home_directory(),
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    except ValueError as error:
        print_error(str(error), "")
        raise SystemExit(1) from None
    end_with(client, run, wait, as_json)


def _list(found: list[transforms.Model], as_json: bool) -> None:
    if as_json:
        told = [
            {
                "table": model.table,
                "file": str(model.path),
                "mode": model.mode,
                "after": list(model.after),
                "sources": list(model.sources),
                "checks": [check.name for check in model.checks],
                "parameters": list(model.variables),
            }
            for model in found
        ]
        print_json({"models": told})
        return
    print_table(
        ["Table", "Mode", "After", "Sources", "Checks"],
        [
            (model.table, model.mode, ", ".join(model.after), ", ".join(model.sources), len(model.checks))
            for model in found
        ],
        empty="No models.",
    )
