"""``stratal sql``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_FORMATS = {".csv": "csv", ".json": "json", ".arrow": "arrow", ".parquet": "arrow"}


@click.command(
    epilog="""\b
Examples:
  stratal sql "SELECT count(*) FROM clinic.patients"
  stratal sql "SELECT * FROM clinic.patients" -o patients.parquet
  stratal sql "SELECT * FROM clinic.patients AT (VERSION => 1510224452045639540)"
  stratal sql - < report.sql"""
)
@click.argument("statement", metavar="SQL|-")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all rows to a .csv, .json, .arrow or .parquet file.",
)
@click.option(
    "--limit", type=click.IntRange(min=0), help="At most so many rows (default for printing: 10,000)."
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True, max=3600), help="Seconds it may run.")
@project_option
@json_option
def sql(
    statement: str,
    as_csv: bool,
    output: Path | None,
    limit: int | None,
    timeout: float | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Run one SQL statement over the project's tables; '-' reads it from standard input.

    A table is NAMESPACE.TABLE, or TABLE in the namespace 'default'. Besides SELECT there are EXPLAIN,
    DESCRIBE, SHOW TABLES, CREATE TABLE … AS SELECT and INSERT INTO … SELECT.
    """
    if as_json and as_csv:
        raise click.UsageError("Choose one of --json and --csv.")
    if statement == "-":
        statement = sys.stdin.read()
    client = Client(project=project)
    body: dict[str, Any] = {"sql": statement, "project": project or client.project}
    if limit is not None:
        body["limit"] = limit
    if timeout is not None:
        body["timeout_seconds"] = timeout
    if output is not None:
        _write(client, body, output)
        if as_json:
            print_json({"file": str(output), "bytes": output.stat().st_size})
        else:
            click.echo(f"Wrote {output}.", err=True)
    elif as_csv:
        with client.stream("POST", "/sql", json=body | {"format": "csv"}) as response:
            for chunk in response.iter_bytes():
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    else:
        answer = client.request("POST", "/sql", json=body | {"format": "json"}, timeout=None)
        if as_json:
            print_json(answer)
        else:
            _show(answer)


def _show(answer: dict[str, Any]) -> None:
    columns = answer["columns"]
    if [column["name"] for column in columns] == ["explain_key", "explain_value"]:
        for row in answer["rows"]:
            click.echo(row[1])
        return
    numeric = [
        index
        for index, column in enumerate(columns)
        if column["type"].startswith(("DECIMAL", "DOUBLE", "FLOAT", "REAL", "HUGEINT", "UHUGEINT"))
        or column["type"].endswith(("INT", "INTEGER"))
    ]
    print_table(
        [column["name"] for column in columns],
        [[_cell(value) for value in row] for row in answer["rows"]],
        empty="No rows. Columns: " + ", ".join(f"{c['name']} {c['type']}" for c in columns),
        right=numeric,
    )
    if answer["truncated"]:
        click.echo(
            f"Only the first {answer['row_count']:,} rows are shown: use --limit, or -o FILE for all.",
            err=True,
        )


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        import json

        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _write(client: Client, body: dict[str, Any], output: Path) -> None:
    format_ = _FORMATS.get(output.suffix.lower())
    if format_ is None:
        raise click.BadParameter(
            f"{output.name!r} should end with {', '.join(_FORMATS)}.", param_hint="--output"
        )
    if format_ == "json":
        body.setdefault("limit", 10_000_000)
    with (
        _whole(output) as scratch,
        client.stream("POST", "/sql", json=body | {"format": format_}) as response,
    ):
        if output.suffix.lower() == ".parquet":
            _as_parquet(response.iter_bytes(), scratch)
            return
        with scratch.open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A scratch file that becomes `target` only when everything was written."""
    scratch = target.with_name(f".{target.name}.part")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def _as_parquet(chunks: Iterator[bytes], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.ipc.open_stream(_Readable(chunks)) as stream, pq.ParquetWriter(target, stream.schema) as writer:
        for batch in stream:
            writer.write_batch(batch)


class _Readable:
    """Chunks as a file that Arrow can read from."""

    closed = False

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._held) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        count = len(self._held) if size < 0 else size
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
