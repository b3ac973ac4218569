"""``stratal runs`` and ``stratal models``."""

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
    epilog="Example: stratal models convert forest/1 && stratal deploy models:/forest/2 --name forest",
)
@click.argument("name", metavar="NAME/VERSION|NAME@ALIAS")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it is registered, or failed."
)
@project_option
@json_option
def convert_model(name: str, wait: bool, project: str | None, as_json: bool) -> None:
    """Convert a scikit-learn version to ONNX, registered as the next version once both answer the same.

    A job does it, and compares the answers on the rows of the model's input example. ONNX answers a row
    many times faster, and its replicas need no scikit-learn. To have each version of a model converted
    when it is registered, give the model the tag stratal.convert=onnx (with MLflow's client).
    """
    client = Client(project=project)
    base, slash, version = name.rpartition("/")
    if not slash:
        base, _, alias = name.partition("@")
        version = f"@{alias}"
    path = client.path(f"/models/{quote(base, safe='')}")
    asked = client.post(f"{path}/versions/{quote(version, safe='@')}/convert")
    if wait:
        asked = _converted(client, path, asked, quiet=as_json)
    if as_json:
        print_json(asked)
    elif not wait:
        click.echo(
            f"Job {asked['job']} converts {asked['uri']}. Follow it: stratal job logs -f {asked['job']}"
        )
    elif asked["converted"] is not None:
        click.echo(
            f"Registered {asked['converted']}. Serve it: stratal deploy {asked['converted']} --name NAME"
        )
    if wait and asked["converted"] is None:
        print_error(f"{asked['uri']} was not converted.", f"Its log: stratal job logs {asked['job']}")
        raise SystemExit(1)


def _converted(client: Client, path: str, asked: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Follow the job to its end; `converted` is the version that it registered, None for none."""
    if quiet:
        sdk.wait(client, int(asked["job"]))
    else:
        sdk.follow(client, int(asked["job"]))
    versions = client.get(path)["versions"]
    made = next((v["uri"] for v in versions if v["job"] == asked["job"]), None)
    return {**asked, "converted": made}


def _show_name(client: Client, name: str, as_json: bool) -> None:
    found = client.get(client.path(f"/models/{quote(name, safe='')}"))
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['name']}, created {found['created_at']} by {found['created_by']}")
    if found["description"]:
        click.echo(found["description"])
    print_table(
        ["Version", "Aliases", "Run", "Job", "Formats", "Created"],
        [
            (
                v["version"],
                ", ".join(f"@{a}" for a in v["aliases"]),
                v["run_id"],
                v["job"],
                ", ".join([*v["formats"], *v["labels"]]),
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
    if found["onnx"] is not None:
        click.echo(f"ONNX: {_form(found)}")
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
            for f in found["files"]
        ],
        empty="No files.",
        right=(1,),
    )


def _form(found: dict[str, Any]) -> str:
    """What is known of the version's ONNX form."""
    form = found["onnx"]
    match form["state"]:
        case "source":
            rows = (form["parity"] or {}).get("rows")
            return f"made of {form['converted_from']}" + (f", same answers on {rows} rows" if rows else "")
        case "made":
            return f"version {form['version']} answers the same"
        case "cannot":
            return f"none: {form['why']}"
        case "begun":
            return f"job {form['job']} converts it, or could not: stratal job show {form['job']}"
    return f"not converted: stratal models convert {found['name']}/{found['version']}"


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
