"""Doing what one step says: its function, its query, or its command. In whatever process that happens."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from stratal.sdk.pipelines import lake, reports
from stratal.sdk.pipelines.authoring import Step
from stratal.sdk.pipelines.checks import carried_out
from stratal.sdk.pipelines.values import Table, encode, moments

_NO_ALIAS = (
    "anti|as|asof|at|cross|except|fetch|for|full|group|having|inner|intersect|join|left|limit|natural|offset|on|order|"
    "pivot|positional|qualify|returning|right|select|semi|set|tablesample|union|unpivot|using|values|when|where|window"
)
"""What may follow a table and is no other name for it."""
_WORD = re.compile(
    r"\{\{\s*(?:ref\(\s*(['\"])(?P<ref>[^'\"]+)\1\s*\)|(?P<name>[A-Za-z_]\w*))\s*\}\}"
    rf"(?P<alias>\s+(?:as\s+(?:\w+|\"[^\"]+\")|(?!(?:{_NO_ALIAS})\b)(?:[A-Za-z_]\w*|\"[^\"]+\")))?",
    re.IGNORECASE,
)
_OUTPUT_BYTES = 64 * 1024


def execute(step: Step, arguments: Mapping[str, Any]) -> Any:
    """Run a step's body with decoded arguments and return what it returns."""
    if step.kind == "python":
        assert step.function is not None
        return step.function(**arguments)
    if step.kind == "sql":
        text = rendered(step.text, arguments)
        if step.into is None:
            return lake.read_sql(text)
        return lake.write_sql(step.into, text, step.mode, list(step.keys))
    if step.kind == "report":
        page = reports.sql_report(
            step.text, lambda query: rendered(query, arguments), arguments, step.doc or step.name
        )
        return reports.keep(page, step.name)
    if step.kind == "dbt":
        return checked(step, arguments)[0]
    if step.kind == "notebook":
        return reports.keep(reports.notebook_page(step.path, arguments), step.name)
    return _shell(step.text, arguments)


class CheckFailed(Exception):
    """A blocking check of what a step wrote has failed; `results` are those of all its checks."""

    def __init__(self, words: str, results: list[dict[str, Any]]) -> None:
        super().__init__(words)
        self.results = results


def checked(
    step: Step, arguments: Mapping[str, Any], models: list[dict[str, Any]] | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """Run a step's body and then its checks: what it returned, and their results. Into `models` goes what those of a
    project of dbt came to, also when this raises. Raises `CheckFailed`."""
    if step.kind == "dbt":
        from stratal.sdk.pipelines import dbt

        tables, results, failure = dbt.build(
            step.path, step.text, arguments, [] if models is None else models
        )
        return tables, _passed(results, failure)
    if not step.checks:
        return execute(step, arguments), []
    place = lake.current()
    place.written.clear()  # of the steps before, where they share a process
    value = execute(step, arguments)
    return value, _passed(*carried_out(step.checks, place.written))


def _passed(results: list[dict[str, Any]], failure: str) -> list[dict[str, Any]]:
    """The results, said in the log where they are bad. Raises `CheckFailed` when there is a `failure`."""
    for result in results:
        if not result["passed"]:
            kind = "failed" if result["blocking"] else "warns"
            print(f"check {result['check']} of {result['table']} {kind}: {result['words']}", file=sys.stderr)
    if failure:
        raise CheckFailed(failure, results)
    return results


def refs(text: str) -> list[str]:
    """The tables that a query refers to by ``{{ ref('…') }}``, in order."""
    return list(dict.fromkeys(found["ref"] for found in _WORD.finditer(text) if found["ref"]))


def rendered(text: str, arguments: Mapping[str, Any]) -> str:
    """The query with its refs as table names and its words as literals. Raises `KeyError` for a word that nobody gave."""
    pinned = {
        found["$table"]: found["snapshot"] for found in moments(encode(dict(arguments))) if "$table" in found
    }

    def one(found: re.Match[str]) -> str:
        if found["ref"]:
            name = found["ref"]
            quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
            # Another name stands before the snapshot: t AS a AT (VERSION => 7).
            return lake.current().at(quoted + (found["alias"] or ""), pinned.get(name))
        if found["name"] not in arguments:
            raise KeyError(f"the query names {{{{ {found['name']} }}}}, which is no argument of the step")
        return _literal(arguments[found["name"]]) + (found["alias"] or "")

    return _WORD.sub(one, text)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, Table):
        return '"' + '"."'.join(value.name.split(".")) + '"'
    return "'" + str(value).replace("'", "''") + "'"


def _shell(command: str, arguments: Mapping[str, Any]) -> str:
    words = {f"ARG_{name.upper()}": str(value) for name, value in arguments.items() if name != "after"}
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, **words},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    text = done.stdout[-_OUTPUT_BYTES:].decode(errors="replace")
    print(text, end="" if text.endswith("\n") else "\n")
    if done.returncode:
        raise RuntimeError(f"the command ended with {done.returncode}")
    return text.strip()
