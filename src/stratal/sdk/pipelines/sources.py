"""Bringing in what others serve: HTTP APIs page by page, databases by their cursor; and keeping the history of rows.

What was seen is what the table holds: an incremental source is asked for what is newer than the newest row, so there is no
state besides the table that could be lost or be ahead of it. Steps that reach outside say ``network="open"``.
"""

import datetime
import decimal
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.ingestion import Evolve, Ingested, Mode, bring, newest_of
from stratal.sdk.pipelines.values import Table

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 60.0
_MOST_BYTES = 64 * 1024 * 1024
FROM, UNTIL = "valid_from", "valid_to"


class SourceFailed(Exception):
    """The source refused, or answered with what cannot be understood; the message says which page."""


def pages(
    url: str,
    *,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    next_url: str | None = None,
    next_token: tuple[str, str] | None = None,
    page_param: str | None = None,
    rows: str = "",
    most_pages: int = 10_000,
    tries: int = 5,
    timeout: float = 60.0,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of an HTTP API that answers JSON, a page at a time.

    `rows` is where in an answer they are (``data.items``; "": the answer is the list). What comes next is said by
    `next_url`, where in an answer the next page's address is; `next_token`, where a token is and the parameter that
    takes it; `page_param`, a parameter that counts from 1 until a page is empty; or a ``Link`` header with ``rel="next"``.
    429 and 5xx are tried again, after as long as the source says. `headers` go to the address's own host only.
    Raises `SourceFailed`.
    """
    given = dict(params or {})
    if page_param is not None:
        given.setdefault(page_param, 1)
    address: str | None = _with(url, given)
    host = urlsplit(url).netloc
    seen: set[str] = set()
    while address is not None:
        if address in seen or len(seen) >= most_pages:
            why = "leads back to itself" if address in seen else f"has more than {most_pages} pages"
            raise SourceFailed(f"{url} {why}: {address}")
        seen.add(address)
        answer, links = _asked(address, headers or {}, tries, timeout)
        found = _at(answer, rows)
        if not isinstance(found, list) or any(not isinstance(row, dict) for row in found):
            raise SourceFailed(f"{address} has no list of objects at {rows or 'its top'!r}.")
        yield found
        address = _following(address, answer, links, found, given, next_url, next_token, page_param)
        if address is not None and urlsplit(address).netloc != host:
            raise SourceFailed(
                f"{url} leads on to another host, {urlsplit(address).netloc}: that is not followed."
            )


def ingest_http(
    url: str,
    into: str,
    *,
    rows: str = "",
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    next_url: str | None = None,
    next_token: tuple[str, str] | None = None,
    page_param: str | None = None,
    cursor: str | None = None,
    since_param: str | None = None,
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
    evolve: Evolve = "refuse",
) -> Ingested:
    """Bring the rows of an HTTP API into the table `into`; see `pages` for how it is asked, `ingest` for types and bad rows.

    With `cursor`, a column, and `since_param` only what is newer than the table's newest is asked for; with `keys` rows
    that have changed take the place of those before them.
    """
    asked = dict(params or {})
    newest = None
    if cursor is not None and since_param is not None:
        newest = newest_of(into, cursor)
        if newest is not None:
            asked[since_param] = newest
    found: list[tuple[int, Any, str | None]] = []
    for page in pages(
        url,
        params=asked,
        headers=headers,
        next_url=next_url,
        next_token=next_token,
        page_param=page_param,
        rows=rows,
    ):
        found += [(len(found) + number, row, None) for number, row in enumerate(page, 1)]
    if newest is not None and not keys:  # sources that count what they were asked from in
        found = [one for one in found if str(one[1].get(cursor)) > str(newest)]
    if not found:
        return Ingested(Table(into), 0, 0, None)
    how: Mode = "upsert" if keys else mode
    return bring(url, found, into, columns=columns, mode=how, keys=keys, most_bad=most_bad, evolve=evolve)


def ingest_sql(
    url: str,
    query: str,
    into: str,
    *,
    cursor: str | None = None,
    keys: Sequence[str] = (),
    at_once: int = 50_000,
) -> Ingested:
    """Bring the rows of a PostgreSQL or MySQL (MariaDB) database into the table `into`, through psycopg or PyMySQL, which
    the step's environment has.

    `query` is a table's name or a SELECT. With `cursor` only rows above all that the table has are brought; with `keys`
    changed rows take the place of those before them; without either the rows replace the table's. The source is only read,
    as it is at one moment. Raises `ValueError` for the address of another kind of database.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _DATABASES:
        raise ValueError(
            f"Only postgresql:// and mysql:// are brought in so; SQLite files by ingest_sqlite. ({scheme})"
        )
    newest = newest_of(into, cursor) if cursor is not None else None
    count = 0
    table = Table(into)
    with closing(_DATABASES[scheme](url, query, cursor, newest, at_once)) as portions:
        for some in portions:
            first = count == 0
            count += len(some)
            mode: Mode = "upsert" if keys else "append" if cursor is not None or not first else "replace"
            table = lake.write(table, [_plain(row) for row in some], mode, keys=keys)
    return Ingested(table, count, 0, None)


def _postgresql(
    url: str, query: str, cursor: str | None, newest: Any, at_once: int
) -> Generator[list[dict[str, Any]], None, None]:
    import psycopg
    from psycopg import sql
    from psycopg.rows import dict_row

    parts = [sql.Identifier(part) for part in query.split(".")]
    inner = sql.SQL(query) if " " in query.strip() else sql.SQL("SELECT * FROM ") + sql.SQL(".").join(parts)
    text = sql.SQL("SELECT * FROM ({}) AS stratal_source").format(inner)
    if newest is not None:
        text += sql.SQL(" WHERE {} > {}").format(sql.Identifier(str(cursor)), sql.Literal(newest))
    if cursor is not None:
        text += sql.SQL(" ORDER BY {}").format(sql.Identifier(cursor))
    with psycopg.connect(url, row_factory=dict_row) as database:
        database.read_only = True
        with database.cursor("stratal_ingest") as found:
            found.execute(text)
            while some := found.fetchmany(at_once):
                yield some


def _mysql(
    url: str, query: str, cursor: str | None, newest: Any, at_once: int
) -> Generator[list[dict[str, Any]], None, None]:
    import pymysql
    from pymysql.cursors import SSDictCursor

    def quoted(name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    parts = urlsplit(url)
    where = dict(parse_qsl(parts.query))
    inner = query if " " in query.strip() else f"SELECT * FROM {'.'.join(map(quoted, query.split('.')))}"  # noqa: S608
    text = f"SELECT * FROM ({inner}) AS stratal_source"  # noqa: S608 (its author's own query)
    if newest is not None:
        text += f" WHERE {quoted(str(cursor))} > %(newest)s"
    if cursor is not None:
        text += f" ORDER BY {quoted(cursor)}"
    database = pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.lstrip("/")) or None,
        unix_socket=where.get("unix_socket"),
        charset="utf8mb4",
        ssl={} if where.get("ssl") == "true" else None,
        cursorclass=SSDictCursor,
    )
    with closing(database), database.cursor() as found:
        found.execute("SET time_zone = '+00:00'")
        found.execute("START TRANSACTION READ ONLY")
        if newest is None:
            found.execute(text)
        else:  # percent signs of the query are its own
            found.execute(text.replace("%", "%%").replace("%%(newest)s", "%(newest)s"), {"newest": newest})
        while some := found.fetchmany(at_once):
            yield list(some)


_DATABASES: dict[str, Callable[..., Generator[list[dict[str, Any]], None, None]]] = {
    "postgresql": _postgresql, "postgres": _postgresql, "mysql": _mysql, "mariadb": _mysql,
}  # fmt: skip


def history(
    into: str, rows: Sequence[Mapping[str, Any]], *, keys: Sequence[str], at: str, whole: bool = False
) -> Ingested:
    """Keep every state that rows ever had, each with ``valid_from`` and ``valid_to`` (NULL: it is so now).

    `rows` are how things are at the moment `at` (ISO, later than all before). A row that differs from the present one of
    its keys ends that and begins a new one; an equal one changes nothing. With `whole` they are all there are: rows
    whose keys are not among them end. Asking again with the same changes nothing.
    """
    moment = datetime.datetime.fromisoformat(at).isoformat(sep=" ")
    present = {_key(row, keys): row for row in _present(into)}
    changes: list[dict[str, Any]] = []
    fresh = dict[tuple[str, ...], Mapping[str, Any]]()
    for row in rows:
        if any(name in row for name in (FROM, UNTIL)):
            raise ValueError(f"{FROM} and {UNTIL} are the history's own columns.")
        if _key(row, keys) in fresh:
            raise ValueError(f"Two rows have the keys {_key(row, keys)}.")
        fresh[_key(row, keys)] = row
    for key, row in fresh.items():
        old = present.get(key)
        if old is not None and all(_same(old.get(name), value) for name, value in row.items()):
            continue
        if old is not None:
            if _same(old[FROM], moment):  # of this very moment: corrected
                changes.append({**old, **row, FROM: moment, UNTIL: None})
                continue
            changes.append({**old, UNTIL: moment})
        changes.append({**row, FROM: moment, UNTIL: None})
    if whole:
        changes += [{**old, UNTIL: moment} for key, old in present.items() if key not in fresh]
    if not changes:
        return Ingested(Table(into), 0, 0, None)
    names = dict.fromkeys(name for row in changes for name in row)
    written = lake.write(
        Table(into),
        [{name: _json(row.get(name)) for name in names} for row in changes],
        "upsert",
        keys=[*keys, FROM],
    )
    return Ingested(written, len(changes), 0, None)


def _present(into: str) -> list[dict[str, Any]]:
    path = ".".join('"' + part.replace('"', '""') + '"' for part in into.split("."))
    try:
        return lake.read_sql(f"SELECT * FROM {path} WHERE {UNTIL} IS NULL")  # noqa: S608 (a quoted name)
    except Exception as error:
        if lake.is_missing(error):
            return []
        raise


def _key(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_word(row[key]) for key in keys)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return (one is None) == (other is None) and _word(one) == _word(other)


def _word(value: Any) -> str:
    """A value as text, moments in one spelling."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    text = str(value)
    try:
        return datetime.datetime.fromisoformat(text).isoformat(sep=" ") if len(text) > 10 else text
    except ValueError:
        return text


def _json(value: Any) -> Any:
    return _word(value) if isinstance(value, datetime.date) else value


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return (
            int(value)
            if value == value.to_integral_value() and value.as_tuple().exponent == 0
            else float(value)
        )
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


# -- asking over HTTP ------------------------------------------------------------------------------------


def _with(url: str, params: Mapping[str, Any]) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"{url[:100]!r} is no http:// or https:// address.")
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in params]
    return urlunsplit(parts._replace(query=urlencode([*query, *((k, str(v)) for k, v in params.items())])))


def _asked(address: str, headers: Mapping[str, str], tries: int, timeout: float) -> tuple[Any, str]:
    pause = 1.0
    for left in reversed(range(max(1, tries))):
        request = urllib.request.Request(address, headers={"Accept": "application/json", **headers})  # noqa: S310
        try:
            with _opener.open(request, timeout=timeout) as answer:
                data = answer.read(_MOST_BYTES + 1)
                if len(data) > _MOST_BYTES:
                    raise SourceFailed(f"{address}: a page of over {_MOST_BYTES >> 20} MiB.")
                return json.loads(data), answer.headers.get("Link", "")
        except urllib.error.HTTPError as error:
            if error.code not in _AGAIN or not left:
                raise SourceFailed(
                    f"{address} answered {error.code}: {error.read(300).decode(errors='replace')}"
                ) from error
            said = error.headers.get("Retry-After", "")
            pause = float(said) if said.isdecimal() else pause
        except ValueError as error:
            raise SourceFailed(f"{address} did not answer with JSON: {error}") from error
        except OSError as error:
            if not left:
                raise SourceFailed(f"{address} does not answer: {error}") from error
        time.sleep(min(pause, _LONGEST_PAUSE))
        pause = min(pause * 2, _LONGEST_PAUSE)
    raise AssertionError


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirections within a host: what headers say is for that host alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            raise SourceFailed(
                f"{req.full_url} sends on to another host, {urlsplit(newurl).netloc}: not followed."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SameHost)


def _at(answer: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        answer = answer.get(part) if isinstance(answer, dict) else None
    return answer


def _following(
    address: str,
    answer: Any,
    links: str,
    found: Sequence[Any],
    params: dict[str, Any],
    next_url: str | None,
    next_token: tuple[str, str] | None,
    page_param: str | None,
) -> str | None:
    if next_url is not None:
        said = _at(answer, next_url)
        return urljoin(address, str(said)) if said else None
    if next_token is not None:
        token = _at(answer, next_token[0])
        return _with(address, {next_token[1]: token}) if token else None
    if page_param is not None:
        if not found:
            return None
        params[page_param] = int(params[page_param]) + 1
        return _with(address, {page_param: params[page_param]})
    for link in links.split(","):
        target, _, rest = link.strip().partition(">")
        if 'rel="next"' in rest.replace("'", '"') and target.startswith("<"):
            return urljoin(address, target[1:])
    return None
