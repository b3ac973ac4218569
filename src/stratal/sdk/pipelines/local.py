"""Running a pipeline here and now, without a server: for tests, and for trying a step.

Steps run one after another in this process, as they are called. Tables are JSON-lines files in a folder
(``.stratal-local``, or ``$STRATAL_LOCAL``), and SQL over them is DuckDB's, which must be installed then.
There is no cache, no journal and no isolation: those are the platform's.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines import authoring
from stratal.sdk.pipelines.authoring import Handle, Pipeline, Step, StepFailed
from stratal.sdk.pipelines.execution import checked
from stratal.sdk.pipelines.lake import Body
from stratal.sdk.pipelines.values import Model, Object, Table, decode, encode


class LocalRun:
    """Executes each call at once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._values: dict[str, Any] = {}
        self._failed: dict[str, str] = {}

    def call(self, step: Step, arguments: Mapping[str, Any], index: int | None) -> Handle:
        number = self._counts.get(step.name, 0)
        self._counts[step.name] = number + 1
        name = step.name if number == 0 and index is None else f"{step.name}[{number}]"
        started = time.perf_counter()
        given, missing = filled(dict(arguments), self._values)
        if missing:
            self._failed[name] = f"{missing} failed before it"
            return Handle(self, name, step.into)
        for attempt in range(step.options.retries + 1):
            try:
                value = checked(step, given)[0]
                self._values[name] = decode(encode(value))
                break
            except Exception as error:
                if attempt == step.options.retries:
                    traceback.print_exc()
                    self._failed[name] = f"{type(error).__name__}: {error}"
        state = "failed" if name in self._failed else "succeeded"
        print(f"{name}: {state} in {time.perf_counter() - started:.2f} s", file=sys.stderr)
        return Handle(self, name, step.into)

    def result(self, handle: Handle) -> Any:
        if handle.name in self._failed:
            raise StepFailed(f"Step {handle.name} failed: {self._failed[handle.name]}")
        return self._values[handle.name]

    @property
    def failed(self) -> Mapping[str, str]:
        return self._failed


def filled(value: Any, values: Mapping[str, Any]) -> tuple[Any, str]:
    """`value` with every handle in it replaced by its value, or the name of one that has none."""
    if isinstance(value, Handle):
        return (values[value.name], "") if value.name in values else (None, value.name)
    if isinstance(value, dict):
        pairs = {key: filled(item, values) for key, item in value.items()}
        return {key: found for key, (found, _) in pairs.items()}, next(
            (m for _, m in pairs.values() if m), ""
        )
    if isinstance(value, list | tuple):
        items = [filled(item, values) for item in value]
        return [found for found, _ in items], next((m for _, m in items if m), "")
    return value, ""


def run_here(pipeline: Pipeline, arguments: Mapping[str, Any]) -> Any:
    """Run the pipeline and return what its function returned, handles replaced by values.

    Raises `StepFailed` when a step failed, after all that did not depend on it has run.
    """
    runtime = LocalRun()
    authoring._running.append(runtime)
    try:
        value = pipeline.function(**arguments)
    finally:
        authoring._running.pop()
    if runtime.failed:
        raise StepFailed("; ".join(f"{name}: {why}" for name, why in runtime.failed.items()))
    return filled(value, runtime._values)[0]


class LocalLake:
    """Tables as JSON-lines files, objects as files, below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.written: dict[str, Table] = {}

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (self._root / ".gitignore").write_text("*\n")
        return folder

    def at(self, quoted: str, snapshot: str | None) -> str:
        return quoted

    def _database(self) -> Any:
        try:
            import duckdb
        except ImportError as error:
            raise RuntimeError("Without a server, SQL steps need DuckDB here: pip install duckdb") from error
        database = duckdb.connect(":memory:")
        for path in sorted(self._folder("tables").glob("*.jsonl")):
            parts = path.stem.split(".")
            for depth in range(1, len(parts)):
                database.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(parts[:depth])}")
            if path.stat().st_size:
                literal = "'" + str(path).replace("'", "''") + "'"
                database.execute(
                    f"CREATE VIEW {_quoted(parts)} AS SELECT * FROM read_json_auto({literal}, format='newline_delimited')"  # noqa: S608
                )
        return database

    def query(self, text: str) -> list[dict[str, Any]]:
        plain = text.split("SELECT * FROM ", 1)
        if len(plain) == 2 and not plain[0]:  # a whole table needs no DuckDB
            path = self._folder("tables") / f"{plain[1].replace(chr(34), '')}.jsonl"
            if path.is_file():
                return [json.loads(line) for line in path.read_text().splitlines()]
        database = self._database()
        cursor = database.execute(text)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, text: str) -> list[str]:
        return [str(column[0]) for column in self._database().execute(text).description]

    def types(self, text: str) -> dict[str, str]:
        found = self._database().execute(text).description
        return {str(column[0]): str(column[1]) for column in found}

    def arrow(self, text: str) -> Any:
        return self._database().execute(text).to_arrow_table()

    def write(self, name: str, body: Body, mode: str, keys: Sequence[str], where: dict[str, Any]) -> Table:
        return self._write(name, _rows_of(body), mode, keys, where)

    def write_sql(self, name: str, text: str, mode: str, keys: Sequence[str]) -> Table:
        return self._write(name, self.query(text), mode, keys, {})

    def _write(
        self, name: str, rows: list[dict[str, Any]], mode: str, keys: Sequence[str], where: dict[str, Any]
    ) -> Table:
        path = self._folder("tables") / f"{name}.jsonl"
        old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        if mode == "replace":
            old = []
        elif mode == "upsert":
            fresh = {tuple(str(row[key]) for key in keys) for row in rows}
            old = [row for row in old if tuple(str(row.get(key)) for key in keys) not in fresh]
        elif mode == "overwrite":
            old = [row for row in old if any(str(row.get(key)) != str(value) for key, value in where.items())]
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in [*old, *rows])
        scratch = path.with_suffix(".new")
        scratch.write_text(text)
        os.replace(scratch, path)  # noqa: PTH105 (one call, whatever is there)
        self.written[name] = Table(name)
        return Table(name)

    def read_object(self, wanted: Object) -> bytes:
        return (self._root / "objects" / wanted.bucket / wanted.key).read_bytes()

    def put_object(self, place: Object, data: bytes) -> Object:
        path = self._folder("objects") / place.bucket / place.key
        if path.is_file() and path.read_bytes() != data:
            raise FileExistsError(
                f"{place.location} holds other bytes already; steps never overwrite an object."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return place

    def put_report(self, key: str, page: bytes) -> Object:
        return self.put_object(Object("reports", key), page)

    def list_objects(self, bucket: str, prefix: str) -> list[Object]:
        root = self._root / "objects" / bucket
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
        keys = {path.relative_to(root).as_posix(): path for path in files}
        return [
            Object(bucket, key, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
            for key, path in keys.items()
            if key.startswith(prefix)
        ]

    def publish_features(self, view: str, definition: dict[str, Any], snapshot: str | None) -> dict[str, Any]:
        newest: dict[str, dict[str, Any]] = {}
        known = definition["known_at"]
        for row in self.query(f"SELECT * FROM {_quoted(definition['table'].split('.'))}"):  # noqa: S608
            key = json.dumps([str(row.get(name)) for name in definition["on"]])
            if row.get(known) is not None and (
                key not in newest or str(row[known]) > str(newest[key][known])
            ):
                newest[key] = row
        path = self._folder("features") / f"{view}.json"
        path.write_text(json.dumps({"definition": definition, "rows": newest}, default=str))
        return {"name": view, "snapshot": None, "keys": len(newest)}

    def lookup_features(self, view: str, keys: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        told = json.loads((self._root / "features" / f"{view}.json").read_text())
        definition = told["definition"]
        aside = {*definition["on"], definition["known_at"]}
        found: list[dict[str, Any] | None] = []
        for key in keys:
            row = told["rows"].get(json.dumps([str(key[name]) for name in definition["on"]]))
            wanted = definition["features"] or [name for name in row or () if name not in aside]
            found.append(None if row is None else {name: row.get(name) for name in wanted})
        return found

    def deploy(self, model: Model, endpoint: str, wishes: dict[str, Any], seconds: float) -> str:
        raise RuntimeError(f"Endpoint {endpoint} is the platform's: there is none without a server.")


def _rows_of(body: Body) -> list[dict[str, Any]]:
    if body.format == "json":
        return [json.loads(line) for line in body.data.decode().splitlines() if line.strip()]
    if body.format == "csv":
        import csv
        import io

        return list(csv.DictReader(io.StringIO(body.data.decode())))
    import pyarrow as pa
    import pyarrow.parquet as pq

    if body.format == "parquet":
        return list(pq.read_table(pa.BufferReader(body.data)).to_pylist())
    return list(pa.ipc.open_stream(body.data).read_all().to_pylist())


def _quoted(parts: Sequence[str]) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
