"""Tables: the list, one table with its columns, snapshots and first rows, and a snapshot's proof."""

from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_PREVIEW_ROWS = 20

COLUMNS = (
    Column("name", "Table", lambda table: table["name"]),
    Column("rows", "Rows", lambda table: table.get("rows"), numeric=True),
    Column("size", "Size", lambda table: table.get("bytes"), numeric=True),
    Column("files", "Files", lambda table: table.get("files"), numeric=True),
    Column("snapshot", "Snapshot", lambda table: table.get("snapshot_id")),
    Column("changed", "Changed", lambda table: table.get("updated_at")),
    Column("by", "Made by", lambda table: table.get("created_by")),
)


async def tables(view: View) -> Response:
    answer = await view.get("/tables")
    return view.page(
        "tables.html",
        "Tables",
        at="tables",
        live="table. namespace.",
        ways=Ways(
            cli=f"stratal tables {view.flag}\nstratal sql {view.flag} 'SHOW TABLES'",
            python="from pyiceberg.catalog import load_catalog  # with the variables of `stratal env`\n\n"
            "catalog = load_catalog('default')\n"
            "[t for n in catalog.list_namespaces() for t in catalog.list_tables(n)]",
        ),
        listing=arrange(answer["tables"], COLUMNS, view.query),
    )


async def table(view: View) -> Response:
    name = view.part("table")
    told = await view.get(f"/tables/{segment(name)}")
    statement = _first_rows(str(told["name"]))
    return view.page(
        "table.html",
        str(told["name"]),
        at="tables",
        live="table.",
        ways=Ways(
            cli=f"stratal sql {view.flag} {quote(statement)}",
            python="from pyiceberg.catalog import load_catalog  # with the variables of `stratal env`\n\n"
            f"load_catalog('default').load_table({told['name']!r}).scan(limit={_PREVIEW_ROWS}).to_arrow()",
        ),
        table=told,
    )


async def preview(view: View) -> Response:
    """The table's first rows, as the SQL API gives them: put into the table's page when it has loaded."""
    name = view.part("table")
    told: Json | Refused
    try:
        told = await view.native.post(
            "/sql",
            {
                "sql": _first_rows(name),
                "project": view.project,
                "format": "json",
                "timeout_seconds": 30,
            },
        )
    except Refused as refused:
        if refused.status == 401:
            raise
        told = refused
    return view.fragment("table_preview.html", told=told, table=name)


async def snapshot(view: View) -> Response:
    """One snapshot in the side panel: who committed it, and each of its files hashed again just now."""
    name, number = view.part("table"), view.part("snapshot")
    told = await view.get(f"/tables/{segment(name)}")
    found = next((s for s in told["snapshots"] if s["snapshot_id"] == number), None)
    if found is None:
        raise Refused(404, "no_such_snapshot", f"Table {name[:100]} has no snapshot {number[:30]}.")
    verified = await view.attempt(f"/tables/{segment(name)}/verify", snapshot=number)
    context = {"table": told, "snapshot": found, "verified": verified}
    if "panel" in view.request.query_params:
        return view.fragment("snapshot_proof.html", **context)
    return view.page(
        "snapshot.html",
        f"Snapshot {number}",
        at="tables",
        ways=Ways(
            cli=f"stratal tables verify {quote(name)} --snapshot {quote(number)} {view.flag}",
            python="from pyiceberg.catalog import load_catalog  # with the variables of `stratal env`\n\n"
            f"table = load_catalog('default').load_table({name!r})\n"
            f"table.scan(snapshot_id={number}).to_arrow()",
        ),
        **context,
    )


def _first_rows(name: str) -> str:
    """The statement for a table's first rows. Each level of the name is quoted; the API authorises the table."""
    levels = ('"' + level.replace('"', '""') + '"' for level in name.split("."))
    return f"SELECT * FROM {'.'.join(levels)} LIMIT {_PREVIEW_ROWS}"  # noqa: S608
