"""A project of dbt as a guest: one step builds it in a database file of its own, and its models become tables here.

dbt itself (dbt-core with dbt-duckdb, in the step's environment) parses, orders, builds and tests. Before it, the tables
that its sources name are brought into the file, read under the step's credential; so are what its incremental models and
its snapshots made the last time. After it, and only when all its tests of severity ``error`` passed, each model, seed and
snapshot is written to ``schema.alias``, and shown to others with the step's end like any step's tables.

What was done where is read from dbt's artifacts (https://docs.getdbt.com/reference/artifacts/dbt-artifacts).
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines.values import Table

REQUIREMENTS = ("dbt-core>=1.10,<1.12", "dbt-duckdb>=1.10,<2", "pyarrow")
"""From 1.12 on dbt-core is installed by fetching a program from elsewhere than a package index."""
PROJECT_FILE = "dbt_project.yml"
_MADE_BY_DBT = frozenset({"target", "logs"})
_KEPT = frozenset({"model", "seed", "snapshot"})
_MOST_SQL = 2 * 1024 * 1024
_RUN = "from dbt.cli.main import cli; cli()"
Json = dict[str, Any]


def described(folder: Path, select: Sequence[str], schema: str | None) -> str:
    """What the step does, as a text: every file of the project by its hash, and what of it is chosen."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_passed_over(path.relative_to(folder))
    }
    return json.dumps({"files": files, "select": list(select), "schema": schema}, sort_keys=True)


def _is_passed_over(path: Path) -> bool:
    return path.parts[0] in _MADE_BY_DBT or any(part.startswith(".") for part in path.parts)


def build(
    folder: str, text: str, variables: Mapping[str, Any], models: list[Json]
) -> tuple[list[Table], list[Json], str]:
    """Build and test the project: the tables that were written, its tests as checks, and which of these forbid the tables
    ("": none; with one nothing is written). Into `models` goes what each model, seed and snapshot came to, whatever
    comes then. Raises `RuntimeError` when a model or dbt itself fails, `ValueError`."""
    chosen = json.loads(text)
    with tempfile.TemporaryDirectory(prefix="dbt-") as scratch:
        guest = _Guest(Path(folder).resolve(), Path(scratch), chosen["schema"], variables)
        guest.run("parse")
        guest.bring_in()
        code = guest.run(
            "build", *(["--select", *chosen["select"]] if chosen["select"] else []), may_fail=True
        )
        results = guest.results()
        models += guest.models(results)
        failed = [one for one in results if one["status"] in {"error", "fail", "runtime error"}]
        broken = [one for one in failed if guest.kind(one) != "test"]
        if broken or (code and not failed):
            named = "; ".join(f"{guest.name(one)}: {one['message']}" for one in broken[:3])
            raise RuntimeError(named or f"dbt build ended with {code}")
        checks = [guest.as_check(one) for one in results if guest.kind(one) in {"test", "unit_test"}]
        wrong = [check["check"] for check in checks if check["blocking"] and not check["passed"]]
        if wrong:
            return [], checks, f"{', '.join(wrong[:5])} failed"
        return [table for one in results for table in guest.take(one)], checks, ""


class _Guest:
    """One build: dbt's project, a profile that is ours, and a database file."""

    def __init__(
        self, project: Path, scratch: Path, schema: str | None, variables: Mapping[str, Any]
    ) -> None:
        import yaml  # type: ignore[import-untyped,unused-ignore]

        said = yaml.safe_load((project / PROJECT_FILE).read_text(encoding="utf-8"))
        self._project = project
        self._scratch = scratch
        self._file = scratch / "dbt.duckdb"
        self._variables = json.dumps({name: value for name, value in variables.items() if name != "after"})
        self._target = scratch / "target"
        output = {"type": "duckdb", "path": str(self._file), "schema": schema or said["name"], "threads": 2}
        profile = {str(said.get("profile") or said["name"]): {"target": "here", "outputs": {"here": output}}}
        (scratch / "profiles.yml").write_text(json.dumps(profile))  # JSON is YAML

    def run(self, command: str, *words: str, may_fail: bool = False) -> int:
        """Run dbt; what it prints is the step's log. Its exit code."""
        places = [
            "--project-dir",
            self._project,
            "--profiles-dir",
            self._scratch,
            "--target-path",
            self._target,
        ]
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    _RUN,
                    "--no-use-colors",
                    "--log-path",
                    str(self._scratch / "logs"),
                    command,
                ),
                *map(str, places),
                *("--vars", self._variables, *words),
            ],
            env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            stdin=subprocess.DEVNULL,
            cwd=self._scratch,
            check=False,
        )
        if done.returncode and not may_fail:
            raise RuntimeError(f"dbt {command} ended with {done.returncode}")
        return done.returncode

    @property
    def _manifest(self) -> Json:
        return dict(json.loads((self._target / "manifest.json").read_bytes()))

    def bring_in(self) -> None:
        """Put into the database file what the project reads: its sources, and what it goes on from."""
        import duckdb  # type: ignore[import-not-found,unused-ignore]

        manifest = self._manifest
        used = {
            parent
            for node in manifest["nodes"].values()
            for parent in node.get("depends_on", {}).get("nodes", ())
        }
        with duckdb.connect(str(self._file)) as database:
            for id_, source in manifest["sources"].items():
                if id_ in used:
                    _load(database, source["schema"], source["identifier"], must=id_)
            for node in manifest["nodes"].values():
                if _goes_on(node) and node["resource_type"] in _KEPT:
                    _load(database, node["schema"], node["alias"])

    def results(self) -> list[Json]:
        self._nodes: Json = self._manifest
        return list(json.loads((self._target / "run_results.json").read_bytes())["results"])

    def _node(self, result: Json) -> Json:
        id_ = result["unique_id"]
        return dict(self._nodes["nodes"].get(id_) or self._nodes.get("unit_tests", {}).get(id_) or {})

    def kind(self, result: Json) -> str:
        return str(result["unique_id"].partition(".")[0])

    def name(self, result: Json) -> str:
        return str(self._node(result).get("name") or result["unique_id"])

    def models(self, results: Sequence[Json]) -> Iterator[Json]:
        """What each model, seed and snapshot came to, of which tables and by which query, as dbt's artifacts say."""
        left = _MOST_SQL
        for result in results:
            node = self._node(result)
            if node.get("resource_type") not in _KEPT:
                continue
            state = {"success": "succeeded", "skipped": "skipped"}.get(result["status"], "failed")
            sql = self._as_here(str(result.get("compiled_code") or node.get("compiled_code") or ""))
            left -= len(sql)
            own = {_place(node)} if _goes_on(node) else set()
            yield {
                "name": str(node["name"])[:200],
                "kind": node["resource_type"],
                "state": state,
                "table": None if node["config"].get("materialized") == "ephemeral" else _place(node),
                "reads": sorted({*self._parents(node), *own}),
                "seconds": round(float(result.get("execution_time") or 0), 3),
                "words": "" if state == "succeeded" else str(result.get("message") or "")[:1000],
                "sql": sql if left >= 0 else "",
            }

    def _parents(self, node: Json) -> Iterator[str]:
        """The tables that it reads; what is ephemeral is none, and stands for those that it reads itself."""
        for id_ in node.get("depends_on", {}).get("nodes", ()):
            parent = self._nodes["sources"].get(id_) or self._nodes["nodes"].get(id_)
            if parent is None:
                continue
            if parent.get("config", {}).get("materialized") == "ephemeral":
                yield from self._parents(parent)
            else:
                yield _place(parent)

    def _as_here(self, text: str) -> str:
        """A compiled query with the tables' names as they are here, without that of dbt's database file."""
        for one in [*self._nodes["nodes"].values(), *self._nodes["sources"].values()]:
            if name := one.get("relation_name"):
                text = text.replace(name, _quoted(one["schema"], one.get("alias") or one["identifier"]))
        return text

    def as_check(self, result: Json) -> Json:
        """A test as the journal keeps a check."""
        node = self._node(result)
        of = node.get("attached_node") or next(iter(node.get("depends_on", {}).get("nodes", ())), "")
        tested = self._nodes["nodes"].get(of) or self._nodes["sources"].get(of) or {}
        passed = result["status"] == "pass"
        wrong = int(result.get("failures") or 0)
        return {
            "check": str(node.get("name") or result["unique_id"])[:200],
            "table": _place(tested) if tested else "",
            "snapshot": None,
            "blocking": result["status"] != "warn"
            and str(node.get("config", {}).get("severity", "error")).lower() == "error",
            "passed": passed,
            "wrong": 0 if passed else max(wrong, 1),
            "words": "" if passed else str(result.get("message") or "")[:1000],
        }

    def take(self, result: Json) -> Iterator[Table]:
        """Write what a model, a seed or a snapshot made to its table here."""
        import duckdb

        node = self._node(result)
        if node.get("resource_type") not in _KEPT or result["status"] != "success":
            return
        if node["config"].get("materialized") == "ephemeral":
            return
        with duckdb.connect(str(self._file)) as database:
            # Not through a Parquet file: DuckDB says there of columns without NULL that they never have one.
            rows = database.table(_quoted(node["schema"], node["alias"])).to_arrow_table()
        yield Table(_place(node)).replace(rows)


def _goes_on(node: Mapping[str, Any]) -> bool:
    """Is it made of what it was the last time, too?"""
    return bool(node["resource_type"] == "snapshot" or node["config"].get("materialized") == "incremental")


def _place(node: Mapping[str, Any]) -> str:
    return f"{node['schema']}.{node.get('alias') or node['identifier']}"


def _quoted(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _load(database: Any, schema: str, name: str, *, must: str = "") -> None:
    """Copy the platform's table ``schema.name`` into the file. Raises `ValueError`, naming `must`, when there is none."""
    from stratal.sdk.pipelines import lake
    from stratal.sdk.pipelines.doors import Refused

    try:
        rows = lake.arrow(Table(f"{schema}.{name}"))
    except (Refused, LookupError, FileNotFoundError) as error:
        if must and (not isinstance(error, Refused) or error.status == 404):
            raise ValueError(f"The source {must} is the table {schema}.{name}: {error}") from error
        if isinstance(error, Refused) and error.status != 404:
            raise
        return
    database.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
    database.from_arrow(rows).create(_quoted(schema, name))
