"""Publishing a view's rows by key, and looking them up."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, delete, insert, select, update

from stratal.data.features.tables import rows, views
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, parse_table_name
from stratal.data.queries.service import Ask, Warehouse
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, TooLarge
from stratal.kernel.events import emit
from stratal.kernel.names import check_name
from stratal.ledger.lineage import Lineage

MOST_ROWS = 1_000_000
MOST_BYTES = 256 * 1024 * 1024
MOST_KEYS = 1000
_CHUNK = 5000
_MOST_COLUMNS = 500
Json = Any


@dataclass(frozen=True, slots=True)
class Definition:
    """What a view is: of the `table`, for each value of the columns `on` the row with the newest `known_at`, and of it the
    columns `features` (None: all others)."""

    table: str
    on: Sequence[str]
    known_at: str
    features: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A view as it is published. Times are epoch milliseconds; `snapshot_id` is the table's that was published."""

    name: str
    definition: Definition
    snapshot_id: str
    row_count: int
    published_at: int
    published_by: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a key has: None for one that nothing is known of."""

    key: Mapping[str, str]
    known_at: str | None
    features: Mapping[str, Json] | None


class FeatureViews:
    def __init__(
        self, database: Database, warehouse: Warehouse, lake: Lake, lineage: Lineage, clock: Clock
    ) -> None:
        self._database = database
        self._warehouse = warehouse
        self._lake = lake
        self._lineage = lineage
        self._clock = clock
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    async def publish(
        self, who: Principal, place: Place, name: str, definition: Definition, snapshot: str | None = None
    ) -> View:
        """Serve the table's newest row of each key, as of `snapshot` (default: now), in the place of what was served before.

        Whoever looks keys up meanwhile finds what was there before, then all that is new. Raises `Invalid`, `NotFound` (the
        table, the snapshot), `TooLarge`.
        """
        require(who, "features.publish", place.id)
        check_name("feature view", name)
        _check(definition)
        columns, found, source = await self._newest(who, place, definition, snapshot)
        table = await self._lake.catalog.find(who, place, parse_table_name(definition.table))
        values = {
            "definition": orjson.dumps(asdict(definition)).decode(),
            "table_id": table.id,
            "snapshot_id": source,
            "row_count": len(found),
            "published_by": who.actor,
        }
        async with self._turns.setdefault((place.id, name), asyncio.Lock()):
            generation = await self._write(place.id, name, definition, columns, found)
            return await self._database.write(
                lambda c: self._show(c, who, place.id, name, generation, values)
            )

    async def _newest(
        self, who: Principal, place: Place, definition: Definition, snapshot: str | None
    ) -> tuple[list[str], list[list[Json]], str]:
        """The view's columns, its rows, and the snapshot that they are of."""
        keys = ", ".join(map(_quoted, definition.on))
        known = _quoted(definition.known_at)
        path = ".".join(map(_quoted, definition.table.split(".")))
        if snapshot is not None:
            if not snapshot.isdecimal():
                raise Invalid(f"{snapshot[:40]!r} is no snapshot.", reason="bad_snapshot")
            path += f" AT (VERSION => {snapshot})"
        wanted = "*" if definition.features is None else ", ".join(map(_quoted, _wanted(definition)))
        text = (
            f"SELECT {wanted} FROM (SELECT * FROM {path}) "  # noqa: S608 (quoted names)
            f"WHERE {' AND '.join(f'{_quoted(key)} IS NOT NULL' for key in definition.on)} AND {known} IS NOT NULL "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {known} DESC) = 1"
        )
        ask = Ask(text, format="json", limit=MOST_ROWS + 1, max_bytes=MOST_BYTES, reads_only=True)
        async with self._warehouse.query(who, place, ask) as answer:
            data = b"".join([chunk async for chunk in answer.chunks()])
            columns = [column.name for column in answer.columns]
            truncated = answer.finished.truncated
            source = answer.snapshots[0]["snapshot_id"] or ""
        found: list[list[Json]] = orjson.loads(data)
        if truncated or len(found) > MOST_ROWS:
            raise TooLarge(
                f"The view has more than {MOST_ROWS:,} keys or {MOST_BYTES >> 20} MiB.",
                hint="Publish fewer features, or those of fewer keys.",
                reason="too_many_features",
            )
        return columns, found, source

    async def _write(
        self,
        project_id: str,
        name: str,
        definition: Definition,
        columns: Sequence[str],
        found: Sequence[Sequence[Json]],
    ) -> int:
        """Write a generation that nobody sees yet; its number. What an earlier attempt left behind goes first."""
        here = (rows.c.project_id == project_id) & (rows.c.view == name)
        at = {column: number for number, column in enumerate(columns)}
        features = [column for column in columns if column not in {*definition.on, definition.known_at}]

        def begin(c: Connection) -> int:
            shown = c.execute(_of(project_id, name, views.c.generation)).scalar()
            left = rows.c.generation != shown if shown is not None else rows.c.generation >= 0
            c.execute(delete(rows).where(here, left))
            return (shown or 0) + 1

        generation = await self._database.write(begin)
        for start in range(0, len(found), _CHUNK):
            values = [
                {
                    "project_id": project_id,
                    "view": name,
                    "generation": generation,
                    "key": key_of([row[at[column]] for column in definition.on]),
                    "known_at": str(row[at[definition.known_at]]),
                    "features": orjson.dumps({column: row[at[column]] for column in features}).decode(),
                }
                for row in found[start : start + _CHUNK]
            ]
            await self._database.write(lambda c, values=values: c.execute(insert(rows), values))  # type: ignore[misc]
        return generation

    def _show(
        self,
        c: Connection,
        who: Principal,
        project_id: str,
        name: str,
        generation: int,
        values: Mapping[str, Json],
    ) -> View:
        told = {**values, "generation": generation, "published_at": self._clock()}
        here = (views.c.project_id == project_id) & (views.c.name == name)
        if c.execute(update(views).where(here).values(told)).rowcount == 0:
            c.execute(insert(views).values(project_id=project_id, name=name, **told))
        gone = (rows.c.project_id == project_id, rows.c.view == name, rows.c.generation != generation)
        c.execute(delete(rows).where(*gone))
        emit(c, "features.published", name, actor=who.actor, project_id=project_id)
        return _view(c.execute(select(views).where(here)).one())

    # -- looking -------------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[View]:
        """The project's published views, by name."""
        require(who, "features.read", project_id)
        query = select(views).where(views.c.project_id == project_id).order_by(views.c.name)
        return await self._database.read(lambda c: [_view(row) for row in c.execute(query)])

    async def get(self, who: Principal, project_id: str, name: str) -> View:
        """Raises `NotFound`."""
        require(who, "features.read", project_id)
        return await self._database.read(lambda c: _view(_find(c, project_id, name)))

    async def lookup(
        self, who: Principal, project_id: str, name: str, keys: Sequence[Mapping[str, Json]]
    ) -> tuple[View, Sequence[Found]]:
        """The features of each of `keys` (each a value for every column of the view's `on`), in their order.

        Raises `NotFound` (the view), `Invalid` for keys that are not the view's.
        """
        require(who, "features.read", project_id)
        if len(keys) > MOST_KEYS:
            raise Invalid(f"At most {MOST_KEYS} keys are looked up at once.", reason="too_many_keys")

        def work(c: Connection) -> tuple[Row[Any], View, list[str], dict[str, Any]]:
            row = _find(c, project_id, name)
            view = _view(row)
            wanted = [_key(view, key) for key in keys]
            query = select(rows.c.key, rows.c.known_at, rows.c.features).where(
                rows.c.project_id == project_id,
                rows.c.view == name,
                rows.c.generation == row.generation,
                rows.c.key.in_(wanted),
            )
            return row, view, wanted, {one.key: one for one in c.execute(query).all()}

        row, view, wanted, found = await self._database.read(work)
        await self._lineage.record(
            who, "read", "snapshot", f"{row.table_id}@{row.snapshot_id}",
            project_id=project_id, name=view.definition.table,
        )  # fmt: skip
        told = []
        for key, text in zip(keys, wanted, strict=True):
            one = found.get(text)
            plain = {name: _word(value) for name, value in key.items()}
            told.append(
                Found(plain, one.known_at, orjson.loads(one.features)) if one else Found(plain, None, None)
            )
        return view, told

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Serve the view no more. Raises `NotFound`."""
        require(who, "features.publish", project_id)

        def work(c: Connection) -> None:
            _find(c, project_id, name)
            c.execute(delete(views).where(views.c.project_id == project_id, views.c.name == name))
            c.execute(delete(rows).where(rows.c.project_id == project_id, rows.c.view == name))
            emit(c, "features.removed", name, actor=who.actor, project_id=project_id)

        await self._database.write(work)

    async def purge(self, project_id: str) -> None:
        """Forget a project's views. May be repeated."""

        def work(c: Connection) -> None:
            c.execute(delete(views).where(views.c.project_id == project_id))
            c.execute(delete(rows).where(rows.c.project_id == project_id))

        await self._database.write(work)


def key_of(values: Sequence[Json]) -> str:
    """The key of a row as it is kept: the values' words, whatever their types."""
    return orjson.dumps([_word(value) for value in values]).decode()


def _word(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _key(view: View, given: Mapping[str, Json]) -> str:
    on = list(view.definition.on)
    if set(given) != set(on):
        raise Invalid(
            f"A key of {view.name} has {', '.join(on)}, not {', '.join(map(str, given)) or 'nothing'}.",
            hint=f'For example: {{"keys": [{{"{on[0]}": "7"}}]}}',
            reason="bad_key",
        )
    if any(isinstance(value, list | dict) or value is None for value in given.values()):
        raise Invalid("The values of a key are plain ones.", reason="bad_key")
    return key_of([given[name] for name in on])


def _check(definition: Definition) -> None:
    parse_table_name(definition.table)
    wanted = _wanted(definition)
    if not definition.on or len(wanted) > _MOST_COLUMNS or any(not one or len(one) > 200 for one in wanted):
        raise Invalid(
            "A view names the columns of its key, when a row was known, and its features.",
            reason="bad_definition",
        )
    if len(set(wanted)) != len(wanted):
        raise Invalid(
            "A column is a key, the moment or a feature, not two of these.", reason="bad_definition"
        )


def _wanted(definition: Definition) -> list[str]:
    return [*definition.on, definition.known_at, *(definition.features or ())]


def _of(project_id: str, name: str, *columns: Any) -> Any:
    return select(*columns).where(views.c.project_id == project_id, views.c.name == name)


def _find(c: Connection, project_id: str, name: str) -> Row[Any]:
    row = c.execute(_of(project_id, name, views)).one_or_none()
    if row is None:
        raise NotFound(
            f"No feature view {name[:100]!r} is published in this project.",
            hint="Publish it in a step: stratal.features.view(…).publish()",
            reason="no_such_view",
        )
    return row


def _view(row: Row[Any]) -> View:
    return View(
        row.name,
        Definition(**orjson.loads(row.definition)),
        row.snapshot_id,
        row.row_count,
        row.published_at,
        row.published_by,
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
