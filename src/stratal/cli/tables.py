"""``stratal tables``."""

from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.sdk import ApiError, Client

_CHUNK = 1024 * 1024


@click.group(
    invoke_without_command=True,
    epilog="Examples: stratal tables · stratal tables import clinic.patients patients.parquet · "
    "stratal tables show clinic.patients",
)
@project_option
@json_option
@click.pass_context
def tables(ctx: click.Context, project: str | None, as_json: bool) -> None:
    """List, show, import, verify and drop tables; a name is NAMESPACE.TABLE, or TABLE in 'default'."""
    if ctx.invoked_subcommand is None:
        _list(project, as_json)


@tables.command("ls")
@project_option
@json_option
def list_tables(project: str | None, as_json: bool) -> None:
    """List the project's tables."""
    _list(project, as_json)


def _list(project: str | None, as_json: bool) -> None:
    client = Client(project=project)
    answer = client.get(client.path("/tables"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Table", "Rows", "Size", "Snapshot", "Changed"],
        [
            (t["name"], _count(t["rows"]), _size(t["bytes"]), t["snapshot_id"], t["updated_at"])
            for t in answer["tables"]
        ],
        empty="No tables. Make one with: stratal tables import NAMESPACE.TABLE FILE.parquet",
        right=(1, 2),
    )


@tables.command("lineage")
@click.argument("name")
@project_option
@json_option
def table_lineage(name: str, project: str | None, as_json: bool) -> None:
    """Show which columns a table's columns come from, as far as queries of pipelines made it."""
    client = Client(project=project)
    told = client.get(client.path(f"/tables/{quote(name, safe='')}/lineage"))
    if as_json:
        print_json(told)
        return
    if told["unknown"]:
        click.echo(f"Of the columns of {name} nothing is known: {told['unknown']}.")
        return

    def words(places: list[dict[str, str]]) -> str:
        return ", ".join(f"{place['table']}.{place['column']}" for place in places)

    print_table(
        ["Column", "From", "In the beginning"],
        [(one["name"], words(one["sources"]) or "no column", words(one["roots"])) for one in told["columns"]],
        empty="It has no columns.",
    )


@tables.command("show")
@click.argument("name")
@click.option("--files", is_flag=True, help="Also list the files of the current snapshot.")
@project_option
@json_option
def show_table(name: str, files: bool, project: str | None, as_json: bool) -> None:
    """Show a table's columns and snapshots."""
    client = Client(project=project)
    table = client.get(_path(client, name))
    if files and table["snapshot_id"] is not None:
        table["snapshot_files"] = client.get(_path(client, name) + "/files")["files"]
    if as_json:
        print_json(table)
        return
    click.echo(
        f"{table['name']}: {_count(table['rows'])} rows, {_size(table['bytes'])}, at {table['location']}\n"
    )
    print_table(
        ["Column", "Type", "Required"],
        [(c["name"], c["type"], "yes" if c["required"] else "") for c in table["columns"]],
        empty="No columns.",
    )
    click.echo()
    print_table(
        ["Snapshot", "Operation", "Rows", "Committed", "By"],
        [
            (
                s["snapshot_id"] + (" *" if s["current"] else ""),
                s["operation"],
                _count(s["summary"].get("total-records")),
                s["committed_at"],
                s["committed_by"],
            )
            for s in table["snapshots"]
        ],
        empty="No snapshots: nothing was ever written to it.",
        right=(2,),
    )
    if files:
        click.echo()
        print_table(
            ["File", "Kind", "Rows", "Size"],
            [
                (f["name"], f["kind"], _count(f["rows"]), _size(f["bytes"]))
                for f in table.get("snapshot_files", [])
            ],
            empty="No files.",
            right=(2, 3),
        )


@tables.command("import")
@click.argument("name")
@click.argument("source", metavar="FILE|s3://BUCKET/KEY")
@click.option("--append", "mode", flag_value="append", help="Add the rows to a table that is there.")
@click.option("--replace", "mode", flag_value="replace", help="Put the rows in place of all others.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["parquet", "csv", "json", "arrow"]),
    help="What the file is (default: by its content and name).",
)
@project_option
@json_option
def import_table(
    name: str, source: str, mode: str | None, format_: str | None, project: str | None, as_json: bool
) -> None:
    """Make the table NAME of a file's rows, its columns and their types taken from the file.

    FILE lies here and is sent; s3://BUCKET/KEY is an object of the project already.
    """
    client = Client(project=project)
    path = _path(client, name) + "/import"
    try:
        if source.startswith(("s3://", "s3a://")):
            body = {"source": source, "format": format_, "mode": mode or "create"}
            made = client.request("POST", path, json=body, timeout=None)
        else:
            made = _send(client, path, Path(source), mode or "create", format_)
    except ApiError as error:
        if error.code == "table_exists":
            error.hint = "Add to it with --append, or put the rows in its place with --replace."
        raise
    if as_json:
        print_json(made)
        return
    click.echo(
        f"Imported {_count(made['imported_rows'])} rows into {made['name']}, which now has "
        f"{_count(made['rows'])} (snapshot {made['snapshot_id']})."
    )


def _send(client: Client, path: str, file: Path, mode: str, format_: str | None) -> dict[str, Any]:
    if not file.is_file():
        raise click.BadParameter(f"There is no file {str(file)!r} here.", param_hint="FILE")
    params = {"mode": mode, "filename": file.name} | ({"format": format_} if format_ else {})
    with file.open("rb") as body:
        return client.request("PUT", path, params=params, content=_chunks(body), timeout=None)


def _chunks(file: IO[bytes]) -> Any:
    while chunk := file.read(_CHUNK):
        yield chunk


@tables.command("verify")
@click.argument("name")
@click.option("--snapshot", help="Which snapshot (default: the current one).")
@project_option
@json_option
@click.pass_context
def verify_table(
    ctx: click.Context, name: str, snapshot: str | None, project: str | None, as_json: bool
) -> None:
    """Hash every file of a snapshot again; exits with 1 when one is not what was committed."""
    client = Client(project=project)
    params = {"snapshot": snapshot} if snapshot else {}
    found = client.request("GET", _path(client, name) + "/verify", params=params, timeout=None)
    if as_json:
        print_json(found)
    else:
        print_table(
            ["File", "Kind", "Status"],
            [(f["name"], f["kind"], f["status"]) for f in found["files"]],
            empty="No files.",
        )
    if not found["verified"]:
        ctx.exit(1)


@tables.command("drop")
@click.argument("name")
@click.option("--keep-files", is_flag=True, help="Leave the table's bytes in the lake's bucket.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@project_option
@json_option
def drop_table(name: str, keep_files: bool, yes: bool, project: str | None, as_json: bool) -> None:
    """Drop a table, bytes included. This cannot be undone."""
    if not yes:
        click.confirm(f"Drop table {name!r} for good?", abort=True)
    client = Client(project=project)
    client.request("DELETE", _path(client, name), params={"keep_files": keep_files})
    if as_json:
        print_json({"name": name, "dropped": True})
    else:
        click.echo(f"Dropped {name}.")


def _path(client: Client, name: str) -> str:
    if "/" in name or not name.strip("."):
        raise click.BadParameter(f"{name[:80]!r} is not like NAMESPACE.TABLE.", param_hint="NAME")
    return client.path(f"/tables/{quote(name, safe='')}")


def _count(value: Any) -> str:
    return "" if value is None else f"{int(value):,}"


def _size(value: Any) -> str:
    return "" if value is None else human_bytes(int(value))
