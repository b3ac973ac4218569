"""Checks of what a step has written, before anybody else sees it.

A check is a query for the rows that are wrong: none, and it has passed. A step's checks run in the step, on the
snapshots that it has staged. When a blocking one fails, the step fails and what it staged is never shown: the
table stays as it was. A check that only warns is recorded and changes nothing.

NULL passes `between`, `matches` and `refers`: say `not_null` where it must not be there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.values import Table

_SAMPLE = 3
_IN_ORDER = "U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|DATE|TIME.*"
"""DuckDB's types whose values are compared by size."""


@dataclass(frozen=True)
class Check:
    """`query` selects what is wrong; ``{table}`` in it is the table as written, ``{before}`` as it was."""

    name: str
    query: str
    blocking: bool = True
    table: str | None = None
    """The table it is for; None: each that the step writes."""

    def warn(self) -> "Check":
        """The same check, which only warns."""
        return replace(self, blocking=False)

    def on(self, table: str) -> "Check":
        """The same check, for one of the tables that the step writes."""
        return replace(self, table=table)


def not_null(*columns: str) -> Check:
    """None of the columns is NULL anywhere."""
    wrong = " OR ".join(f"{_quoted(column)} IS NULL" for column in columns)
    return Check(f"not_null({', '.join(columns)})", f"SELECT * FROM {{table}} WHERE {wrong}")  # noqa: S608


def unique(*columns: str) -> Check:
    """No two rows have the same values in all of the columns."""
    listed = ", ".join(map(_quoted, columns))
    return Check(
        f"unique({', '.join(columns)})",
        f"SELECT {listed}, count(*) AS rows FROM {{table}} GROUP BY ALL HAVING count(*) > 1",  # noqa: S608
    )


def between(column: str, low: Any, high: Any) -> Check:
    """Every value lies between `low` and `high`, both included."""
    bounds = f"{_literal(low)} AND {_literal(high)}"
    return Check(
        f"between({column}, {low}, {high})",
        f"SELECT * FROM {{table}} WHERE {_quoted(column)} NOT BETWEEN {bounds}",  # noqa: S608
    )


def matches(column: str, pattern: str) -> Check:
    """Every value, as text, matches the whole regular expression."""
    wrong = f"NOT regexp_full_match({_quoted(column)}::VARCHAR, {_literal(pattern)})"
    return Check(f"matches({column}, {pattern})", f"SELECT * FROM {{table}} WHERE {wrong}")  # noqa: S608


def refers(column: str, table: str, other: str) -> Check:
    """Every value is one that the column `other` of `table` has."""
    there = f"SELECT 1 FROM {_path(table)} o WHERE o.{_quoted(other)} = t.{_quoted(column)}"  # noqa: S608
    return Check(
        f"refers({column}, {table}.{other})",
        f"SELECT t.* FROM (SELECT * FROM {{table}}) t WHERE t.{_quoted(column)} IS NOT NULL AND NOT EXISTS ({there})",  # noqa: S608
    )


def fresh(column: str, hours: float) -> Check:
    """The newest value of the column is at most so many hours old. A table without rows is not fresh."""
    newest = f"max({_quoted(column)})::TIMESTAMPTZ"
    return Check(
        f"fresh({column}, {hours:g} h)",
        f"SELECT {newest} AS newest FROM {{table}} HAVING {newest} IS NULL "  # noqa: S608
        f"OR {newest} < now() - to_seconds({hours * 3600:.3f})",
    )


def rows_between(low: int, high: int) -> Check:
    """The table has so many rows."""
    return Check(
        f"rows_between({low}, {high})",
        f"SELECT count(*) AS rows FROM {{table}} HAVING count(*) NOT BETWEEN {low:d} AND {high:d}",  # noqa: S608
    )


def rows_change(most: float) -> Check:
    """The number of rows differs from that before by at most this part (0.5: half). A table that had none passes."""
    counts = "(SELECT count(*) AS rows FROM {table}), (SELECT count(*) AS before FROM {before})"
    differs = f"before > 0 AND abs(rows - before) > {most:.9f} * before"
    return Check(f"rows_change({most:g})", f"SELECT rows, before FROM {counts} WHERE {differs}")  # noqa: S608


def drift(column: str, most: float = 0.2) -> Check:
    """The column's values are distributed as before: the population stability index of the two is at most `most`.

    Numbers and times are compared in the ten parts into which their values before fall, other values each on its own (the
    commonest 50; the rest together); NULL is a part of its own. Up to 0.1 counts as the same, above 0.25 as another
    distribution (Siddiqi, Credit Risk Scorecards, 2006). A table that had no rows passes.
    """
    name = _quoted(column)
    before, now = f"(SELECT {name} AS v FROM {{before}})", f"(SELECT {name} AS v FROM {{table}})"  # noqa: S608
    query = f"""
        WITH b AS (SELECT v FROM {before}), n AS (SELECT v FROM {now}),
        kind AS (
            SELECT count(*) > 0 AND bool_and(regexp_full_match(typeof(v), '{_IN_ORDER}')) AS ordered
            FROM b WHERE v IS NOT NULL
        ),
        ranks AS (SELECT v, ntile(10) OVER (ORDER BY v) AS part FROM b WHERE v IS NOT NULL),
        bounds AS (SELECT part, min(v) AS low FROM ranks GROUP BY part),
        common AS (SELECT v::VARCHAR AS word FROM b WHERE v IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, word LIMIT 50),
        labelled AS (
            SELECT which, CASE
                WHEN v IS NULL THEN 'null'
                WHEN (SELECT ordered FROM kind) THEN coalesce((SELECT max(part) FROM bounds WHERE low <= v), 1)::VARCHAR
                WHEN v::VARCHAR IN (SELECT word FROM common) THEN 'is ' || v::VARCHAR
                ELSE 'other' END AS label
            FROM (SELECT 'b' AS which, v FROM b UNION ALL SELECT 'n', v FROM n)
        ),
        counts AS (
            SELECT label, count(*) FILTER (which = 'b') AS b, count(*) FILTER (which = 'n') AS n FROM labelled GROUP BY label
        ),
        shares AS (
            SELECT greatest(b / nullif(sum(b) OVER (), 0), 0.0001) AS b, greatest(n / nullif(sum(n) OVER (), 0), 0.0001) AS n
            FROM counts
        )
        SELECT round(sum((n - b) * ln(n / b)), 4) AS stability_index, (SELECT count(*) FROM b) AS rows_before
        FROM shares
        HAVING (SELECT count(*) FROM b) > 0
            AND (sum((n - b) * ln(n / b)) > {most:.9f} OR (SELECT count(*) FROM n) = 0)
    """  # noqa: S608 (a quoted name and a number)
    return Check(f"drift({column}, {most:g})", query)


def sql_check(query: str, *, name: str) -> Check:
    """`query` selects what is wrong; ``{table}`` is the table as written, ``{before}`` as it was."""
    return Check(name, query)


def carried_out(checks: Sequence[Check], written: Mapping[str, Table]) -> tuple[list[dict[str, Any]], str]:
    """Each check's result as the journal keeps it, and what the first blocking failure says ("": none).

    `written` are the tables that the step wrote, as it left them. Raises `ValueError` for a check of another table.
    """
    results: list[dict[str, Any]] = []
    failure = ""
    for check in checks:
        if check.table is not None and check.table not in written:
            raise ValueError(f"The check {check.name} is for {check.table}, which this step has not written.")
        for name, table in written.items():
            aside = name.removesuffix("_bad")  # rows that `ingest` kept aside are checked when they are meant
            if check.table not in (None, name) or (
                check.table is None and aside != name and aside in written
            ):
                continue
            result = _one(check, table)
            results.append(result)
            if not result["passed"] and check.blocking and not failure:
                failure = f"check {check.name} of {name} failed: {result['words']}"
    return results, failure


def _one(check: Check, table: Table) -> dict[str, Any]:
    path = _path(table.name)
    query = check.query.replace("{table}", lake.current().at(path, table.snapshot)).replace("{before}", path)
    found = lake.read_sql(
        f"SELECT count(*) OVER () AS stratal_wrong, * FROM ({query}) LIMIT {_SAMPLE}"  # noqa: S608 (its author's own query)
    )
    wrong = int(found[0]["stratal_wrong"]) if found else 0
    sample = [{key: value for key, value in row.items() if key != "stratal_wrong"} for row in found]
    words = "" if not wrong else f"{wrong} row{'s' * (wrong != 1)}, for example {sample[0]}"
    return {
        "check": check.name,
        "table": table.name,
        "snapshot": table.snapshot,
        "blocking": check.blocking,
        "passed": not wrong,
        "wrong": wrong,
        "words": words[:500],
    }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _path(name: str) -> str:
    return ".".join(map(_quoted, name.split(".")))


def _literal(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"
