"""``stratal runs`` and ``stratal models``."""

import time
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.catalog import commands as catalog
from stratal.cli.output import (
    human_bytes,
    json_option,
    print_error,
    print_json,
    print_table,
    project_option,
)
from stratal.sdk import Client
from stratal.sdk import jobs as sdk

_SHOWN_METRICS = 4
_POLL_SECONDS = 0.5


@click.group(
    invoke_without_command=True,
    epilog='Examples: stratal runs · stratal runs ls --filter "metrics.auc > 0.9" --order-by "metrics.auc DESC" '
    "· stratal runs show ID",
)
@project_option
@json_option
@click.pass_context
def runs(ctx: click.Context, project: str | None, as_json: bool) -> None:
    """List and show runs: what was tried, and how it went. Scripts log them with mlflow."""
    if ctx.invoked_subcommand is None:
        _list_runs(project, as_json, "", (), 100)


@runs.command("ls")
@click.option("--filter", "text", default="", metavar="FILTER", help="As mlflow writes it: metrics.auc > 0.9")
@click.option("--order-by", multiple=True, metavar="FIELD", help="For example: metrics.auc DESC")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@project_option
@json_option
def list_runs(text: str, order_by: tuple[str, ...], limit: int, project: str | None, as_json: bool) -> None:
    """List the project's runs, newest first."""
    _list_runs(project, as_json, text, order_by, limit)


def _list_runs(project: str | None, as_json: bool, text: str, order_by: tuple[str, ...], limit: int) -> None:
    client = Client(project=project)
    answer = client.get(
        client.path("/runs"), filter=text or None, order_by=list(order_by) or None, limit=limit
    )
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Run", "Id", "Experiment", "State", "Started", "Metrics"],
        [
            (r["name"], r["id"], r["experiment"], r["state"], r["started_at"], _metrics(r["metrics"]))
            for r in answer["runs"]
        ],
        empty='No runs. Log one with mlflow: eval "$(stratal env)" points it here.',
    )


@runs.command("show")
@click.argument("run_id")
@project_option
@json_option
def show_run(run_id: str, project: str | None, as_json: bool) -> None:
    """Show a run: its params, metrics, tags and artifacts."""
    client = Client(project=project)
    run = client.get(client.path(f"/runs/{quote(run_id, safe='')}"))
    files = client.get(client.path(f"/runs/{quote(run_id, safe='')}/artifacts"))["artifacts"]
    if as_json:
        print_json({**run, "artifacts": files})
        return
    click.echo(f"{run['name']} ({run['id']}) of experiment {run['experiment']}: {run['state']}")
    made = f" in job {run['job']}" if run["job"] else ""
    click.echo(
        f"started {run['started_at']}{made} by {run['created_by']}, ended {run['ended_at'] or 'not yet'}"
    )
    _section("Params", run["params"])
    _section("Metrics", run["metrics"])
    _section("Tags", run["tags"])
    if files:
        click.echo("\nArtifacts")
        for file in files:
            size = "" if file["directory"] else f"  {human_bytes(file['size'])}"
            click.echo(f"  {file['path']}{'/' if file['directory'] else ''}{size}")


@click.group(
    invoke_without_command=True,
    epilog="Examples: stratal models · stratal models show cancer/1 · stratal models catalog · stratal models try ocr",
)
@project_option
@json_option
@click.pass_context
def models(ctx: click.Context, project: str | None, as_json: bool) -> None:
    """List and show registered models, which scripts register with mlflow; and pre-trained ones."""
    if ctx.invoked_subcommand is None:
        _list_models(project, as_json)


for _command in (catalog.catalog, catalog.pull, catalog.deploy, catalog.try_, catalog.bench):
    models.add_command(_command)


@models.command("ls")
@project_option
@json_option
def list_models(project: str | None, as_json: bool) -> None:
    """List the project's registered models."""
    _list_models(project, as_json)


def _list_models(project: str | None, as_json: bool) -> None:
    client = Client(project=project)
    answer = client.get(client.path("/models"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Model", "Latest", "Aliases", "Changed"],
        [
            (
                m["name"],
                m["latest_version"],
                ", ".join(f"@{a} → {v}" for a, v in m["aliases"].items()),
                m["updated_at"],
            )
            for m in answer["models"]
        ],
        empty="No registered models. Register one with mlflow: log_model(…, registered_model_name=…).",
        right=(1,),
    )


@models.command("show")
@click.argument("name")
@click.option("--verify", is_flag=True, help="Hash the version's stored files again.")
@project_option
@json_option
def show_model(name: str, verify: bool, project: str | None, as_json: bool) -> None:
    """Show the model NAME, or one version: NAME/VERSION or NAME@ALIAS."""
    client = Client(project=project)
    base, slash, version = name.rpartition("/")
    if not slash:
        base, at, alias = name.partition("@")
        version = f"@{alias}" if at else ""
    if not version:
        if verify:
            raise click.UsageError("--verify is for one version: NAME/VERSION or NAME@ALIAS.")
        _show_name(client, base, as_json)
        return
    path = client.path(f"/models/{quote(base, safe='')}/versions/{quote(version, safe='@')}")
    found = client.get(path)
    if verify:
        found["verification"] = client.get(f"{path}/verify")
    if as_json:
        print_json(found)
    else:
        _show_version(found)


@models.command(
    "convert",
    epilog="Example: stratal models convert forest/1 && stratal deploy models:/forest/1 --name forest",
)
@click.argument("name", metavar="NAME/VERSION|NAME@ALIAS")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it is converted, or cannot be."
)
@project_option
@json_option
def convert_model(name: str, wait: bool, project: str | None, as_json: bool) -> None:
    """Convert a scikit-learn version to ONNX now: a form of it, kept once both answer the same.

    A job does it, and compares the answers on the rows of the model's input example. ONNX answers a row
    many times faster, and its replicas load no scikit-learn; endpoints deployed after that serve it. Versions that are
    registered with an input example are converted by themselves when there is nothing else to do; the tag
    stratal.convert=none on the model (with MLflow's client) has that not done.
    """
    client = Client(project=project)
    base, slash, version = name.rpartition("/")
    if not slash:
        base, _, alias = name.partition("@")
        version = f"@{alias}"
    path = client.path(f"/models/{quote(base, safe='')}/versions/{quote(version, safe='@')}")
    asked = client.post(f"{path}/convert")
    if wait:
        asked["form"] = _converted(client, path, asked, quiet=as_json)
    form = asked["form"]
    if as_json:
        print_json(asked)
    elif form["state"] == "made":
        click.echo(f"{asked['uri']} has an ONNX form: {_compared(form)}.")
        click.echo(f"Serve it: stratal deploy {asked['uri']} --name NAME")
    elif not wait:
        click.echo(
            f"Job {asked['job']} converts {asked['uri']}. Follow it: stratal job logs -f {asked['job']}"
        )
    if wait and form["state"] != "made":
        print_error(
            f"{asked['uri']} was not converted: {form['why']}", f"Its log: stratal job logs {asked['job']}"
        )
        raise SystemExit(1)


def _converted(client: Client, path: str, asked: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Follow the job to its end; what came of the form."""
    form: dict[str, Any] = asked["form"]
    if form["state"] == "converting":
        if quiet:
            sdk.wait(client, int(asked["job"]))
        else:
            sdk.follow(client, int(asked["job"]))
    while form["state"] == "converting":  # its job has ended, which is noted in a moment
        form = next(f for f in client.get(path)["forms"] if f["kind"] == form["kind"])
        time.sleep(_POLL_SECONDS)
    return form


def _show_name(client: Client, name: str, as_json: bool) -> None:
    found = client.get(client.path(f"/models/{quote(name, safe='')}"))
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['name']}, created {found['created_at']} by {found['created_by']}")
    if found["description"]:
        click.echo(found["description"])
    print_table(
        ["Version", "Aliases", "Run", "Job", "Formats", "Forms", "Created"],
        [
            (
                v["version"],
                ", ".join(f"@{a}" for a in v["aliases"]),
                v["run_id"],
                v["job"],
                ", ".join([*v["formats"], *v["labels"]]),
                ", ".join(f"{form['kind']}: {form['state']}" for form in v["forms"]),
                v["created_at"],
            )
            for v in found["versions"]
        ],
        empty="No versions.",
    )


def _show_version(found: dict[str, Any]) -> None:
    aliases = "".join(f" @{alias}" for alias in found["aliases"])
    click.echo(f"{found['uri']}{aliases}, created {found['created_at']} by {found['created_by']}")
    click.echo(f"run {found['run_id'] or 'none'}, job {found['job'] or 'none'}")
    click.echo(
        f"flavors {', '.join(found['flavors']) or 'unknown'}; formats {', '.join(found['formats']) or 'unknown'}"
    )
    for form in found["forms"]:
        click.echo(f"{form['kind'].upper()}: {_form(form)}")
    for label in found["labels"]:
        click.echo(click.style(label, fg="yellow"))
    states = {check["path"]: check["state"] for check in found.get("verification", {}).get("files", [])}
    print_table(
        ["File", "Size", "SHA-256", *(["State"] if states else [])],
        [
            (
                f["path"],
                human_bytes(f["size"]),
                f["sha256"],
                *([states.get(f["path"])] if states else []),
            )
            for f in [*found["files"], *(file for form in found["forms"] for file in form["files"])]
        ],
        empty="No files.",
        right=(1,),
    )


def _form(form: dict[str, Any]) -> str:
    """What became of a form."""
    match form["state"]:
        case "made":
            by = f", made by job {form['job']}" if form["job"] else ""
            return f"{human_bytes(form['size'])}, {_compared(form)}{by}"
        case "converting":
            return f"job {form['job']} is at it: stratal job logs -f {form['job']}"
        case "waiting":
            return "converted when there is nothing else to do"
    return f"none ({form['state']}): {form['why']}"


def _compared(form: dict[str, Any]) -> str:
    parity = form["parity"]
    return f"the same answers on {parity['rows']} rows ({parity['real_rows']} logged), at most {parity['apart']:.2g} apart"


def _metrics(metrics: dict[str, object]) -> str:
    shown = [f"{key}={_short(value)}" for key, value in list(metrics.items())[:_SHOWN_METRICS]]
    more = len(metrics) - len(shown)
    return "  ".join([*shown, *([f"+{more}"] if more > 0 else [])])


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _section(title: str, values: dict[str, object]) -> None:
    if values:
        click.echo(f"\n{title}")
        for key, value in values.items():
            click.echo(f"  {key} = {_short(value)}")
