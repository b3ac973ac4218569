"""The query worker: one process that runs one request at a time until the server hangs up.

Started by `engine.py` as ``python -I -m stratal.engines.duckdb.worker FD SCRATCH``: FD is its end of the
socket pair, SCRATCH a folder of its own. It has no credential, no variable of the server's, and each
request gets a database in memory of its own whose locks are closed before the statement runs: only the
files of the tables that the server named can be opened (``allowed_paths``), nothing else
(``enable_external_access``), and no setting can be changed (``lock_configuration``). The three must be
set in this order.
"""

import contextlib
import itertools
import os
import resource
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import orjson

from stratal.engines.duckdb import frames, render
from stratal.engines.duckdb.scan import CannotRead, duckdb_type, relation
from stratal.engines.duckdb.statement import Refused, Statement, parse, quote, quote_path, runnable

Json = dict[str, Any]


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    scratch = Path(sys.argv[2])
    _restrain()
    threading.Thread(target=_end_with_server, args=(connection,), daemon=True).start()
    worker = Worker(connection, scratch)
    while (frame := frames.receive(connection)) is not None:
        worker.answer(orjson.loads(frame[1]))
        worker.prepare()


def _restrain() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # when memory runs out, let the kernel take this process first
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_server(connection: socket.socket) -> None:
    """Die at once when the server does, also in the middle of a query."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP)
    poll.poll()
    os._exit(0)


class Worker:
    def __init__(self, connection: socket.socket, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch
        self._parser = duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})
        self._used: tuple[Json, duckdb.DuckDBPyConnection] | None = None
        self._fresh: tuple[Json, duckdb.DuckDBPyConnection] | None = None

    def answer(self, request: Json) -> None:
        paths = {
            file["path"]: file["location"] for table in request.get("tables", []) for file in table["files"]
        } | dict.fromkeys(request.get("sources", []), "the file")
        try:
            match request["op"]:
                case "parse":
                    self._send(frames.END, _described(parse(self._parser, request["sql"])))
                case "query":
                    self._query(request)
                case "write":
                    from stratal.engines.duckdb import write  # pyarrow and pyiceberg: only for who writes

                    self._send(frames.END, write.write(self._database(request), request, self._scratch))
        except Refused as error:
            self._fail(error.code, error.message, error.hint)
        except CannotRead as error:
            self._fail("table_unreadable", str(error))
        except duckdb.OutOfMemoryException as error:
            self._fail("query_out_of_memory", str(error).partition("\n")[0])
        except duckdb.PermissionException as error:
            self._fail("files_refused", _cleaned(str(error), paths), "SQL reads tables only.")
        except (duckdb.IOException, duckdb.InternalException, duckdb.FatalException) as error:
            self._fail("query_failed", _cleaned(str(error), paths))
        except (duckdb.Error, UnicodeEncodeError) as error:
            self._fail("sql_error", _cleaned(str(error), paths))
        except BrokenPipeError:
            os._exit(0)
        except MemoryError:
            self._fail("query_out_of_memory", "The worker's memory is used up.")
        except Exception as error:  # a request ends here; the worker goes on
            self._fail("query_failed", _cleaned(f"{type(error).__name__}: {error}", paths))

    def _query(self, request: Json) -> None:
        started = time.perf_counter()
        database = self._database(request)
        if request["listing_only"]:
            names = [".".join(table["path"]) for table in request["listing"]]
            cursor = database.execute("SELECT unnest($1::VARCHAR[]) AS name", [names])
        else:
            cursor = database.execute(runnable(request), request["params"] or None)
        rows = render.Rows(cursor, request["limit"], request["max_bytes"])
        produce = {"json": rows.json, "csv": rows.csv, "arrow": rows.arrow}[request["format"]]
        head = {"columns": render.columns(cursor)}
        chunks = produce()
        # The opening and the first rows, so that what goes wrong at once is told as an error, not as a broken result.
        begun = list(itertools.islice(chunks, 2))
        self._send(frames.HEAD, head)
        for chunk in itertools.chain(begun, chunks):
            if chunk:
                self._connection.sendall(frames.pack(frames.DATA, chunk))
        self._send(
            frames.END,
            {
                "row_count": rows.count,
                "truncated": rows.truncated,
                "duration_ms": round((time.perf_counter() - started) * 1000, 3),
            },
        )

    def _database(self, request: Json) -> duckdb.DuckDBPyConnection:
        """A fresh database in memory with the request's tables as views, locked."""
        limits = {name: request[name] for name in ("memory_bytes", "threads", "spill_bytes")}
        fresh, self._fresh = self._fresh, None
        database = fresh[1] if fresh is not None and fresh[0] == limits else self._connect(limits)
        self._used = limits, database
        for table in request["tables"]:
            _create(database, table)
        for table in request["listing"]:
            _create_empty(database, table)
        allowed = [path for table in request["tables"] for path in _paths(table)]
        allowed += request.get("sources", [])
        if allowed:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in allowed)
            database.execute(f"SET allowed_paths = [{listed}]")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        return database

    def prepare(self) -> None:
        """Between requests: close the database that was used and open the next, so that nobody waits for either."""
        if self._used is None:
            return
        limits, database = self._used
        self._used = None
        database.close()
        self._fresh = limits, self._connect(limits)

    def _connect(self, limits: Json) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{limits['memory_bytes']}B",
                "threads": limits["threads"],
                "temp_directory": str(self._scratch / "spill"),
                "max_temp_directory_size": f"{limits['spill_bytes']}B",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,
                "python_enable_replacements": False,
            },
        )
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET parquet_metadata_cache = true")
        return database

    def _send(self, kind: bytes, body: Json) -> None:
        self._connection.sendall(frames.pack(kind, orjson.dumps(body)))

    def _fail(self, code: str, message: str, hint: str = "") -> None:
        self._send(frames.ERROR, {"code": code, "message": message, "hint": hint})


def _described(statement: Statement) -> Json:
    return {
        "kind": statement.kind,
        "sql": statement.sql,
        "listing": statement.listing,
        "tables": [
            {
                "path": list(reference.path),
                "at": list(reference.at) if reference.at else None,
                "location": reference.location,
                "length": reference.length,
                "alias": reference.alias,
            }
            for reference in statement.tables
        ],
        "target": list(statement.target),
        "columns": statement.columns,
        "by_name": statement.by_name,
        "if_not_exists": statement.if_not_exists,
        "replace": statement.replace,
    }


def _create(database: duckdb.DuckDBPyConnection, table: Json) -> None:
    path: list[str] = table["path"]
    try:
        select = relation(database, table)
    except CannotRead as error:
        raise CannotRead(f"Table {table['name']} cannot be read: {error}.") from error
    _create_schemas(database, path)
    database.execute(f"CREATE OR REPLACE VIEW {_qualified(path)} AS {select}")


def _create_empty(database: duckdb.DuckDBPyConnection, table: Json) -> None:
    path: list[str] = table["path"]
    _create_schemas(database, path)
    columns = []
    for column in table["fields"]:
        try:
            kind = duckdb_type(column["type"])
        except CannotRead:
            kind = "VARCHAR"
        columns.append(f"{quote(column['name'])} {kind}")
    if columns:
        with contextlib.suppress(duckdb.CatalogException):  # it is named by the statement and a view already
            database.execute(f"CREATE TABLE {_qualified(path)} ({', '.join(columns)})")


def _create_schemas(database: duckdb.DuckDBPyConnection, path: list[str]) -> None:
    for depth in range(1, len(path)):
        database.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_path(tuple(path[:depth]))}")


def _qualified(path: list[str]) -> str:
    return quote_path(tuple(path)) if len(path) > 1 else f"main.{quote(path[0])}"


def _paths(table: Json) -> list[str]:
    found = [file["path"] for file in table["files"]]
    found += {path for file in table["files"] for path in file["deletes"]}
    return found


def _cleaned(message: str, paths: dict[str, str]) -> str:
    """DuckDB's message with its caret, without the paths of this machine."""
    for path, location in paths.items():
        if path in message:
            message = message.replace(path, location)
            if location == "the file":  # the statement is ours then, so its lines say nothing to anybody
                message = message.partition("\n\nLINE ")[0]
    return message.strip()


if __name__ == "__main__":
    main()
