"""What a statement is, and which tables it names: read from DuckDB's own parse tree, before anything runs.

Nothing is executed or bound here (`json_serialize_sql` only parses). What may run is a list of what is
allowed: one statement; a query, EXPLAIN of one, CREATE TABLE … AS, or INSERT INTO … of one; and table
functions that read nothing but their arguments. The rest is refused with a reason, and would be refused
a second time by the connection's own locks (see `worker.py`).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import duckdb

Path = tuple[str, ...]
Json = dict[str, Any]

# Table functions that touch neither files, memory addresses, other statements nor the engine's own state.
_HARMLESS = frozenset(
    {
        "range", "generate_series", "generate_subscripts", "unnest", "repeat", "repeat_row", "json_each", "json_tree",
        "summary", "histogram", "histogram_values", "regexp_split_to_table", "string_split_to_table", "test_all_types",
        "duckdb_functions", "duckdb_types", "duckdb_keywords", "pragma_version", "pg_timezone_names",
        "icu_calendar_names",
    }
)  # fmt: skip
_LISTING = frozenset(
    {"duckdb_tables", "duckdb_columns", "duckdb_schemas", "pragma_table_info", "pragma_show"}
)
_INFORMATION = frozenset({"tables", "columns", "schemata"})
_FOR = re.compile(r"\s*(VERSION|TIMESTAMP)\s+AS\s+OF\s+(\d+|'(?:[^']|'')*')", re.IGNORECASE)


class Refused(Exception):
    """The statement is not offered here. `code` tells a wrong statement from a forbidden one."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True)
class Reference:
    """One table as the statement names it; `at` is (``VERSION`` or ``TIMESTAMP``, its value) for time travel."""

    path: Path
    at: tuple[str, str] | None = None
    location: int = 0
    length: int = 0
    alias: str = ""


@dataclass
class Statement:
    kind: str
    """``query``, ``explain``, ``create`` or ``insert``."""
    sql: str
    """What DuckDB is to run: for ``create`` and ``insert`` the query that makes the rows."""
    tables: list[Reference] = field(default_factory=list)
    listing: bool = False
    """It asks what tables there are."""
    target: Path = ()
    columns: list[str] | None = None
    by_name: bool = False
    if_not_exists: bool = False
    replace: bool = False


def parse(connection: duckdb.DuckDBPyConnection, sql: str) -> Statement:
    """Take one statement apart. Raises `Refused`, or DuckDB's ParserException with its caret."""
    sql = _spell_time_travel(_quote_default(sql))
    found = connection.extract_statements(sql)
    if not found:
        raise Refused("empty_statement", "There is no statement to run.")
    if len(found) > 1:
        raise Refused("several_statements", "Send one statement at a time.")
    kind = found[0].type.name
    if kind == "SELECT":
        statement = Statement("query", sql)
        body = sql
    elif kind == "EXPLAIN":
        body = _behind_explain(sql)
        statement = Statement("explain", sql)
    elif kind in {"CREATE", "INSERT"}:
        statement = _writing(kind, sql)
        body = statement.sql
    else:
        raise _not_offered(kind)
    tree = json.loads(
        connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [body]).fetchone()[0]  # type: ignore[index]
    )
    if tree["error"]:
        connection.extract_statements(body)  # a syntax error is raised from here, with its caret
        raise Refused("not_offered", f"This form is not offered here: {tree['error_message']}")
    _Walk(statement, body).visit(tree["statements"], frozenset())
    return statement


def runnable(request: Json) -> str:
    """A request's statement with each time-travelling table replaced by the view made for that version.

    All else stays letter for letter, so that an error's caret points where its reader expects it.
    """
    raw = str(request["sql"]).encode()
    for moved in sorted(request["moved"], key=lambda m: -int(m["location"])):
        alias = moved["alias"] or moved["path"][-1]
        new = f"{quote_path(tuple(moved['view']))} AS {quote(alias)}".encode()
        raw = raw[: moved["location"]] + new + raw[moved["location"] + moved["length"] :]
    return raw.decode()


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_path(path: Path) -> str:
    return ".".join(quote(part) for part in path)


class _Walk:
    """Visits a parse tree, minding which names a WITH clause defines where."""

    def __init__(self, statement: Statement, body: str) -> None:
        self._statement = statement
        # Locations count from the start of the part that was parsed, which is always the statement's end.
        self._offset = len(statement.sql.encode()) - len(body.encode())

    def visit(self, value: Any, scope: frozenset[str]) -> None:
        if isinstance(value, list):
            for item in value:
                self.visit(item, scope)
            return
        if not isinstance(value, dict):
            return
        entries = value["cte_map"]["map"] if isinstance(value.get("cte_map"), dict) else []
        for entry in entries:
            name = frozenset({entry["key"].lower()})
            body = entry["value"].get("query_node") or entry["value"].get("query") or {}
            node = body.get("node", body)
            recursive = node.get("type") == "RECURSIVE_CTE_NODE"
            self.visit(entry["value"], scope | name if recursive else scope)
            scope |= name
        kind = value.get("type")
        if kind == "BASE_TABLE":
            self._table(value, scope)
        elif kind == "TABLE_FUNCTION":
            self._function(str(value["function"]["function_name"]).lower())
        elif kind == "SHOW_REF" and value.get("query") is None:
            self._statement.listing = True
        for key, child in value.items():
            if key != "cte_map":
                self.visit(child, scope)

    def _table(self, node: Json, scope: frozenset[str]) -> None:
        path = tuple(str(part) for part in node["qualified_name"]["path"])
        if len(path) == 1 and path[0].lower() in scope:
            return
        if len(path) > 1 and path[-2].lower() == "information_schema" and path[-1].lower() in _INFORMATION:
            self._statement.listing = True
            return
        self._statement.tables.append(
            Reference(
                path,
                _moment(node["at_clause"]) if node.get("at_clause") else None,
                int(node["query_location"]) + self._offset,
                int(node["query_location_length"]),
                str(node.get("alias") or ""),
            )
        )

    def _function(self, name: str) -> None:
        if name in _LISTING:
            self._statement.listing = True
        elif name not in _HARMLESS:
            raise Refused(
                "function_refused",
                f"{name}() is not offered here: SQL reads tables, not files, addresses or the engine's inside.",
                "Bring a file in as a table first: stratal tables import NAME FILE",
            )


def _moment(clause: Json) -> tuple[str, str]:
    expression = clause["expr"]
    while expression.get("class") == "CAST":
        expression = expression["child"]
    if expression.get("class") != "CONSTANT":
        raise Refused("bad_time_travel", "AT (VERSION => …) and AT (TIMESTAMP => …) take a constant.")
    return str(clause["unit"]).upper(), str(expression["literal"]["text"])


def _quote_default(sql: str) -> str:
    """Let ``default.t`` name a table of that namespace, though DEFAULT is a word of SQL's own."""
    if "default" not in sql.lower():
        return sql
    raw = sql.encode()
    for offset, _ in reversed(duckdb.tokenize(sql)):
        end = offset + len(b"default")
        if raw[offset:end].lower() == b"default" and raw[end:].lstrip()[:1] == b".":
            raw = raw[:offset] + b'"' + raw[offset:end] + b'"' + raw[end:]
    return raw.decode()


def _spell_time_travel(sql: str) -> str:
    """Turn Spark's and Trino's ``FOR VERSION AS OF 7`` into DuckDB's ``AT (VERSION => 7)``."""
    if "as of" not in " ".join(sql.lower().split()):
        return sql
    # The tokenizer counts bytes.
    raw = sql.encode()
    for offset, _ in reversed(duckdb.tokenize(sql)):
        if raw[offset : offset + 3].lower() == b"for" and (found := _FOR.match(raw[offset + 3 :].decode())):
            rest = raw[offset + 3 :].decode()[found.end() :]
            raw = raw[:offset] + f"AT ({found[1]} => {found[2]})".encode() + rest.encode()
    return raw.decode()


def _not_offered(kind: str) -> Refused:
    if kind == "MULTI":
        return Refused(
            "not_offered",
            "PIVOT must name its values here, since it would need a second statement otherwise.",
            "Write: PIVOT t ON x IN ('a', 'b') USING …",
        )
    if kind in {"UPDATE", "DELETE", "MERGE_INTO", "ALTER", "DROP"}:
        return Refused(
            "not_offered",
            f"{kind.replace('_', ' ')} is not offered in SQL here.",
            "Change tables with pyiceberg (append, overwrite, delete, upsert, update_schema), or replace one with "
            "CREATE OR REPLACE TABLE … AS SELECT …",
        )
    return Refused(
        "statement_refused",
        f"{kind.replace('_', ' ')} statements are not offered here: SQL reads and writes tables, nothing else.",
        "Use SELECT, EXPLAIN, DESCRIBE, SHOW TABLES, CREATE TABLE … AS SELECT, or INSERT INTO … SELECT.",
    )


# -- heads of statements that json_serialize_sql does not take ---------------------------------------


class _Tokens:
    """The words of a statement, comments left out, with where each begins (in bytes)."""

    def __init__(self, sql: str) -> None:
        self._raw = sql.encode()
        marks = duckdb.tokenize(sql)
        ends = [offset for offset, _ in marks[1:]] + [len(self._raw)]
        self._words = [
            (start, _first_word(self._raw[start:end].decode()))
            for (start, kind), end in zip(marks, ends, strict=True)
            if kind.name != "comment"
        ]
        self._at = 0

    def peek(self) -> str:
        return self._words[self._at][1] if self._at < len(self._words) else ""

    def take(self, *expected: str) -> bool:
        """Step over these words when they come next."""
        words = [word.upper() for _, word in self._words[self._at : self._at + len(expected)]]
        if words != list(expected):
            return False
        self._at += len(expected)
        return True

    def next(self) -> str:
        word = self.peek()
        self._at += 1
        return word

    def rest(self) -> str:
        start = self._words[self._at][0] if self._at < len(self._words) else len(self._raw)
        return self._raw[start:].decode()

    def path(self) -> Path:
        parts = [_unquoted(self.next())]
        while self.take("."):
            parts.append(_unquoted(self.next()))
        return tuple(parts)

    def names(self) -> list[str]:
        """``(a, "b c")`` when it comes next and is a list of names."""
        names = [_unquoted(self.next())]
        while self.take(","):
            names.append(_unquoted(self.next()))
        if not self.take(")"):
            raise Refused("not_offered", "The list of columns must be plain names.")
        return names


def _first_word(text: str) -> str:
    """One token's own text: the tokenizer says where tokens begin, not where they end."""
    if text[0] in "\"'":
        end = 1
        while end < len(text):
            if text[end] == text[0]:
                if text[end : end + 2] != text[0] * 2:
                    return text[: end + 1]
                end += 1
            end += 1
        return text
    found = re.match(r"\w+|.", text, re.DOTALL)
    return found[0] if found else text


def _unquoted(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word


def _behind_explain(sql: str) -> str:
    tokens = _Tokens(sql)
    tokens.take("EXPLAIN")
    tokens.take("ANALYZE")
    if tokens.peek() == "(":
        ahead = re.match(r"\([^()]*\)\s*", tokens.rest())
        if ahead and not re.match(r"\(\s*(SELECT|FROM|WITH|VALUES|TABLE)\b", ahead[0], re.IGNORECASE):
            return tokens.rest()[ahead.end() :]
    return tokens.rest()


def _writing(kind: str, sql: str) -> Statement:
    tokens = _Tokens(sql)
    if kind == "INSERT":
        if not tokens.take("INSERT", "INTO"):
            raise Refused("not_offered", "Only INSERT INTO <table> … is offered.")
        statement = Statement("insert", "", target=tokens.path())
        if tokens.peek() == "(" and not re.match(
            r"\(\s*(SELECT|FROM|WITH|VALUES|TABLE)\b", tokens.rest(), re.IGNORECASE
        ):
            tokens.next()
            statement.columns = tokens.names()
        statement.by_name = tokens.take("BY", "NAME")
        tokens.take("BY", "POSITION")
    else:
        tokens.take("CREATE")
        replace = tokens.take("OR", "REPLACE")
        if not tokens.take("TABLE"):
            raise _not_offered_create()
        if_not_exists = tokens.take("IF", "NOT", "EXISTS")
        statement = Statement(
            "create", "", target=tokens.path(), replace=replace, if_not_exists=if_not_exists
        )
        if not tokens.take("AS"):
            raise _not_offered_create()
    statement.sql = tokens.rest()
    return statement


def _not_offered_create() -> Refused:
    return Refused(
        "not_offered",
        "Of CREATE, only CREATE TABLE … AS SELECT … is offered.",
        "For an empty table with a schema of its own use pyiceberg's create_table.",
    )
