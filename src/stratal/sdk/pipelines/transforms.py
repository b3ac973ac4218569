"""A folder of SQL models as a pipeline: each file is a query whose rows are a table.

``models/mart/daily.sql`` makes the table ``mart.daily``; a file at the folder's top makes one in ``default``. Within it
``{{ ref('daily') }}`` names another model (by its file's or its table's name), ``{{ source('raw', 'trips') }}`` a table that
no model makes, ``{{ var('day', '2024-01-01') }}`` a parameter with its default, and ``{{ this }}`` the model's own table.
Comments at the top of a file say how::

    -- into: mart.daily            another table than its path says
    -- mode: upsert                append, replace (the default) or upsert
    -- keys: day, zone             of an upsert
    -- check: not_null("day")      any of the checks there are, .warn() behind it or not

``daily.test.sql`` (or ``daily.anything.test.sql``) beside it is a check too: a query for the rows that are wrong.
"""

import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratal.sdk.pipelines import checks as known_checks
from stratal.sdk.pipelines.authoring import Mode, Pipeline, Step, sql_step
from stratal.sdk.pipelines.checks import Check, sql_check

_MODES = ("append", "replace", "upsert")
_CALL = re.compile(r"\{\{\s*(?P<name>ref|source|var)\s*\((?P<arguments>[^)}]*)\)\s*\}\}")
_THIS = re.compile(r"\{\{\s*this\s*\}\}")
_PLAIN = re.compile(r"\{\{\s*(?P<name>[A-Za-z_]\w*)\s*\}\}")
_OTHER = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_DIRECTIVE = re.compile(r"--\s*(?P<word>into|mode|keys|check)\s*:\s*(?P<value>.*\S)\s*\Z")
_CHECKS = (
    "not_null",
    "unique",
    "between",
    "matches",
    "refers",
    "fresh",
    "rows_between",
    "rows_change",
    "drift",
)


class BadModel(Exception):
    """A file of the folder that makes no sense; the message names it and says why."""


@dataclass(frozen=True)
class Model:
    """One file: the table it makes, and of which tables (`after`: those that other models make)."""

    name: str
    table: str
    text: str
    path: Path
    mode: Mode = "replace"
    keys: Sequence[str] = ()
    checks: Sequence[Check] = ()
    after: Sequence[str] = ()
    sources: Sequence[str] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Parameters by name; `inspect.Parameter.empty` for one without a default."""

    def step(self) -> Step:
        return sql_step(
            self.text,
            into=self.table,
            mode=self.mode,
            keys=self.keys,
            checks=self.checks,
            name=self.table.replace(".", "_"),
        )


def models(folder: str | Path, *, select: Sequence[str] = (), name: str = "transform") -> Pipeline:
    """The folder's models as a pipeline, each a step after those it refers to.

    `select` chooses some: ``daily``, ``+daily`` (with all before it), ``daily+`` (with all after it). Its parameters are the
    variables of the chosen models. Raises `BadModel`.
    """
    chosen = chosen_of(read(Path(folder)), select)
    steps = {model.table: model.step() for model in chosen}
    variables: dict[str, Any] = {}
    for model in chosen:
        for variable, default in model.variables.items():
            known = variables.get(variable, inspect.Parameter.empty)
            variables[variable] = default if known is inspect.Parameter.empty else known

    def transform(**given: Any) -> dict[str, Any]:
        values = {**variables, **given}
        return {
            model.table: steps[model.table](**{key: values[key] for key in model.variables})
            for model in chosen
        }

    transform.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(variable, inspect.Parameter.KEYWORD_ONLY, default=default)
            for variable, default in variables.items()
        ]
    )
    return Pipeline(name, transform, f"The models of {folder}: {', '.join(model.table for model in chosen)}")


def read(folder: Path) -> list[Model]:
    """Every model below the folder, those that others refer to first. Raises `BadModel`."""
    if not folder.is_dir():
        raise BadModel(f"There is no folder {folder}.")
    paths = sorted(path for path in folder.rglob("*.sql") if path.is_file())
    tests = [path for path in paths if path.name.endswith(".test.sql")]
    files = [path for path in paths if path not in tests]
    if not files:
        raise BadModel(f"{folder} holds no models: files that end with .sql.")
    tables = {path: _table_of(path, folder) for path in files}
    twice = next((t for t in tables.values() if list(tables.values()).count(t) > 1), None)
    if twice is not None:
        both = ", ".join(str(path) for path, table in tables.items() if table == twice)
        raise BadModel(f"Two models make {twice}: {both}.")
    names: dict[str, list[str]] = {}
    for path, table in tables.items():
        for word in {path.stem, table}:
            names.setdefault(word, []).append(table)
    beside: dict[Path, list[Path]] = {}
    for test in tests:
        beside.setdefault(_model_of(test, files), []).append(test)
    found = [_model(path, tables[path], names, beside.get(path, [])) for path in files]
    return _ordered(found)


def chosen_of(found: Sequence[Model], select: Sequence[str]) -> list[Model]:
    """Those of the models that `select` names, in their order. Raises `BadModel`."""
    if not select:
        return list(found)
    by_table = {model.table: model for model in found}
    wanted: set[str] = set()
    for word in select:
        plain = word.strip("+")
        named = [model.table for model in found if plain in {model.name, model.table}]
        if not named:
            raise BadModel(f"There is no model {plain!r}{_near(plain, [m.name for m in found])}.")
        for table in named:
            wanted.add(table)
            if word.startswith("+"):
                wanted |= _reached([table], {name: one.after for name, one in by_table.items()})
            if word.endswith("+"):
                behind = {name: [m.table for m in found if name in m.after] for name in by_table}
                wanted |= _reached([table], behind)
    return [model for model in found if model.table in wanted]


def _reached(begin: Sequence[str], edges: Mapping[str, Sequence[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(begin)
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def _table_of(path: Path, folder: Path) -> str:
    said = next((value for word, value in _directives(path) if word == "into"), None)
    if said is not None:
        return said if "." in said else f"default.{said}"
    levels = path.relative_to(folder).parent.parts
    return ".".join([*(levels or ("default",)), path.stem])


def _model_of(test: Path, files: Sequence[Path]) -> Path:
    parts = test.name.removesuffix(".test.sql").split(".")
    for length in range(len(parts), 0, -1):
        path = test.parent / f"{'.'.join(parts[:length])}.sql"
        if path in files:
            return path
    raise BadModel(f"{test} tests no model: there is no {parts[0]}.sql beside it.")


def _model(path: Path, table: str, names: Mapping[str, Sequence[str]], tests: Sequence[Path]) -> Model:
    mode, keys, checks = "replace", list[str](), list[Check]()
    for word, value in _directives(path):
        if word == "mode":
            mode = value
        elif word == "keys":
            keys = [key.strip() for key in value.split(",") if key.strip()]
        elif word == "check":
            checks.append(_check(path, value))
    if mode not in _MODES:
        raise BadModel(f"{path}: the mode is {', '.join(_MODES)}, not {mode!r}.")
    if mode == "upsert" and not keys:
        raise BadModel(f"{path}: an upsert needs its keys: -- keys: id")
    text = _Text(path, table, names)
    body = text.translated(path.read_text(encoding="utf-8"), this=_quoted(table))
    if table in text.after:
        raise BadModel(f"{path}: a model refers to itself with {{{{ this }}}}, not with ref.")
    for test in tests:
        checks.append(sql_check(_Text(test, table, names).translated_test(test), name=test.name))
    chosen: Mode = "append" if mode == "append" else "upsert" if mode == "upsert" else "replace"
    return Model(
        path.stem, table, body, path, chosen, tuple(keys), tuple(checks),
        tuple(text.after), tuple(text.sources), text.variables,
    )  # fmt: skip


class _Text:
    """The words of one file, translated into those that a SQL step knows."""

    def __init__(self, path: Path, table: str, names: Mapping[str, Sequence[str]]) -> None:
        self.after: list[str] = []
        self.sources: list[str] = []
        self.variables: dict[str, Any] = {}
        self._path = path
        self._table = table
        self._names = names

    def translated(self, text: str, *, this: str) -> str:
        lines = text.splitlines()
        while lines and (not lines[0].strip() or lines[0].strip().startswith("--")):
            del lines[0]  # how it is made, and remarks: no part of what is done
        body = _THIS.sub(this, "\n".join(lines).strip().rstrip(";"))
        body = _CALL.sub(self._call, body)
        for found in _PLAIN.finditer(body):
            self.variables.setdefault(found["name"], inspect.Parameter.empty)
        self._check_rest(body)
        if not body:
            raise BadModel(f"{self._path} is empty.")
        return body

    def translated_test(self, path: Path) -> str:
        """A test's query: ``{table}`` where it says ``this``, and the names of tables alone otherwise."""
        body = _THIS.sub("{table}", path.read_text(encoding="utf-8").strip().rstrip(";"))
        body = _CALL.sub(lambda found: _quoted(self._named(found)), body)
        if _OTHER.search(body):
            raise BadModel(f"{path}: a test knows {{{{ this }}}}, ref and source, and no parameters.")
        return body

    def _check_rest(self, body: str) -> None:
        for found in _OTHER.finditer(body):
            whole = found[0]
            if not (_PLAIN.fullmatch(whole) or re.fullmatch(r"\{\{ ref\('[^']+'\) \}\}", whole)):
                raise BadModel(
                    f"{self._path}: {whole[:60]} is not understood; there are ref, source, var, this and parameters. "
                    "Projects of dbt run as they are: stratal.shell_step('dbt build')."
                )

    def _call(self, found: "re.Match[str]") -> str:
        if found["name"] == "var":
            name, *rest = self._literals(found, 1, 2)
            if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
                raise BadModel(f"{self._path}: {name!r} cannot name a parameter.")
            self.variables[str(name)] = rest[0] if rest else inspect.Parameter.empty
            return f"{{{{ {name} }}}}"
        return f"{{{{ ref('{self._named(found)}') }}}}"

    def _named(self, found: "re.Match[str]") -> str:
        if found["name"] == "source":
            table = ".".join(str(part) for part in self._literals(found, 1, 3))
            if table not in self.sources:
                self.sources.append(table)
            return table
        (name,) = self._literals(found, 1, 1)
        tables = self._names.get(str(name), [])
        if not tables:
            near = _near(str(name), list(self._names))
            raise BadModel(
                f"{self._path}: there is no model {name!r}{near}. A table that no model makes is a source: "
                f"{{{{ source('{name}') }}}}"
            )
        if len(tables) > 1:
            raise BadModel(f"{self._path}: {name!r} is {' or '.join(sorted(tables))}: say which.")
        if tables[0] not in self.after:
            self.after.append(tables[0])
        return tables[0]

    def _literals(self, found: "re.Match[str]", least: int, most: int) -> list[Any]:
        try:
            values = list(ast.literal_eval(f"({found['arguments']},)"))
        except (ValueError, SyntaxError) as error:
            raise BadModel(f"{self._path}: {found[0]} takes literals: {error}") from error
        if not least <= len(values) <= most:
            raise BadModel(f"{self._path}: {found[0]} takes {least} to {most} arguments.")
        return values


def _directives(path: Path) -> Iterable[tuple[str, str]]:
    """The comments at the top of a file that say how its model is made."""
    for line in path.read_text(encoding="utf-8").splitlines():
        plain = line.strip()
        if plain and not plain.startswith("--"):
            return
        found = _DIRECTIVE.match(plain)
        if found is not None:
            yield found["word"], found["value"]


def _check(path: Path, text: str) -> Check:
    """A check as it is written in Python: a call with literals, ``.warn()`` behind it or not."""
    bad = BadModel(
        f'{path}: {text!r} is no check; for example: not_null("day"), between("km", 0, 500).warn()'
    )
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise bad from error
    warns = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr == "warn"
    call = (
        tree.func.value
        if warns and isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute)
        else tree
    )
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in _CHECKS:
        raise bad
    try:
        values = [ast.literal_eval(argument) for argument in call.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        check: Check = getattr(known_checks, call.func.id)(*values, **named)
    except (ValueError, TypeError, AttributeError) as error:
        raise bad from error
    return check.warn() if warns else check


def _ordered(found: Sequence[Model]) -> list[Model]:
    """The models, each after those that it refers to. Raises `BadModel` for a circle."""
    by_table = {model.table: model for model in found}
    done: dict[str, Model] = {}
    path: list[str] = []

    def visit(table: str) -> None:
        if table in done:
            return
        if table in path:
            raise BadModel(
                f"Models refer to each other in a circle: {' → '.join([*path[path.index(table) :], table])}."
            )
        path.append(table)
        for before in by_table[table].after:
            visit(before)
        path.pop()
        done[table] = by_table[table]

    for model in found:
        visit(model.table)
    return list(done.values())


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _quoted(table: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))
