"""Comparing what earlier work made with what its replay made: values, metrics, files, objects, the rows of tables."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import orjson
from sqlalchemy import Connection, select

from stratal.ai.replays.contents import canonical
from stratal.ai.replays.model import Json, Limits, Result, same_value
from stratal.collab.artifacts import files_below
from stratal.collab.model import Artifact, Run
from stratal.collab.runs import Runs
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place
from stratal.data.lake.tables import lakes
from stratal.data.objects.tables import object_versions
from stratal.data.pipelines.model import without_moments
from stratal.data.queries.service import Ask, Warehouse
from stratal.identity.model import Principal, system_principal
from stratal.kernel.blobs import BlobStore
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound
from stratal.ledger.tables import accesses

_OWN_FILES = {"MLmodel", "registered_model_meta", "input_example.json.lock"}
"""Files in which a model's own id or time stands: other each time."""
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Pair:
    """A piece of work and what repeated it: their workloads, and for steps what each returned (None: not compared)."""

    of: str
    before: str
    after: str
    values: tuple[Json, Json] | None = None


class Comparing:
    def __init__(
        self, database: Database, runs: Runs, blobs: BlobStore, lake: Lake, warehouse: Warehouse
    ) -> None:
        self._blobs = blobs
        self._database = database
        self._runs = runs
        self._lake = lake
        self._warehouse = warehouse

    async def compare(self, place: Place, pair: Pair, limits: Limits) -> list[Result]:
        """Each thing that the first made, and whether the second made the same; and what only the second made."""
        who = system_principal(place.id, place.name)
        found = self._values(pair, limits)
        found += [result async for result in self._tracked(who, place, pair, limits)]
        found += await self._database.read(lambda c: _objects(c, pair))
        found += [result async for result in self._tables(who, place, pair)]
        return [one for one in found if not limits.passes_over(one.name)]

    def _values(self, pair: Pair, limits: Limits) -> list[Result]:
        if pair.values is None:
            return []
        before, after = (without_moments(value) for value in pair.values)
        if before is None and after is None:
            return []
        same = same_value(before, after, limits)
        return [Result(pair.of, "value", pair.of, _short(before), _short(after), same)]

    # -- tracked runs: metrics, parameters, files ------------------------------------------------

    async def _tracked(
        self, who: Principal, place: Place, pair: Pair, limits: Limits
    ) -> AsyncIterator[Result]:
        before = await self._runs.of_workload(who, place.id, pair.before)
        after = await self._runs.of_workload(who, place.id, pair.after)
        if len(before) != len(after):
            yield Result(pair.of, "runs", "runs", str(len(before)), str(len(after)), same=False)
        for one, other in zip(before, after, strict=False):
            for result in [*_metrics(pair.of, one, other, limits), *_params(pair.of, one, other)]:
                yield result
            for result in await self._files(pair.of, one, other):
                yield result

    async def _files(self, of: str, before: Run, after: Run) -> list[Result]:
        then, now = await self._database.read(lambda c: (_files_of(c, before), _files_of(c, after)))
        found: list[Result] = []
        for path in sorted({*then, *now}):
            one, other = then.get(path), now.get(path)
            same = one is not None and other is not None and await self._same(one, other)
            shown, present = (_NOTHING if file is None else file.sha256 for file in (one, other))
            found.append(Result(of, "file", path, shown, present, same))
        return found

    async def _same(self, one: Artifact, other: Artifact) -> bool:
        if one.sha256 == other.sha256:
            return True
        paths = [self._blobs.local_path(file.blob_key) for file in (one, other)]
        if any(path is None for path in paths):
            return False
        first, second = [
            await anyio.to_thread.run_sync(canonical, path) for path in paths if path is not None
        ]
        return first is not None and first == second

    # -- tables ----------------------------------------------------------------------------------

    async def _tables(self, who: Principal, place: Place, pair: Pair) -> AsyncIterator[Result]:
        then = await self._database.read(lambda c: _last_snapshots(c, pair.before))
        now = await self._database.read(lambda c: _last_snapshots(c, pair.after))
        for name in sorted({*then, *now}):
            before = await self._content(who, place, then[name]) if name in then else _NOTHING
            after = await self._content(who, place, now[name]) if name in now else _NOTHING
            yield Result(pair.of, "table", name, before, after, before == after)

    async def _content(self, who: Principal, place: Place, version: str) -> str:
        """The rows of a snapshot, whatever their order, as a count and a hash; equal for equal columns and rows."""
        table_id, _, snapshot_id = version.partition("@")
        try:
            info = await self._lake.by_id(table_id)
        except NotFound:
            return _NOTHING
        name = ".".join(
            '"' + part.replace('"', '""') + '"' for part in (*info.name.namespace, info.name.name)
        )
        rows_of = f"(SELECT * FROM {name} AT (VERSION => {int(snapshot_id)})) AS t"  # noqa: S608
        columns, _ = await self._ask(who, place, f"SELECT * FROM {rows_of} LIMIT 0")  # noqa: S608
        counted = f"SELECT count(*), coalesce(sum(hash(t)), 0)::VARCHAR FROM {rows_of}"  # noqa: S608
        _, rows = await self._ask(who, place, counted)
        count, digest = rows[0]
        shape = ",".join(f"{column} {type_}" for column, type_ in columns)
        mark = _digest([shape, digest])
        return f"{count} rows, {mark}"

    async def _ask(self, who: Principal, place: Place, sql: str) -> tuple[list[tuple[str, str]], list[Any]]:
        async with self._warehouse.query(who, place, Ask(sql)) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            columns = [(column.name, column.type) for column in answer.columns]
        return columns, orjson.loads(body)


def _metrics(of: str, before: Run, after: Run, limits: Limits) -> list[Result]:
    then = {metric.key: metric.value for metric in before.metrics if not metric.key.startswith("system/")}
    now = {metric.key: metric.value for metric in after.metrics if not metric.key.startswith("system/")}
    return [
        Result(
            of,
            "metric",
            key,
            _number(then.get(key)),
            _number(now.get(key)),
            key in then and key in now and limits.close(then[key], now[key]),
        )
        for key in sorted({*then, *now})
    ]


def _params(of: str, before: Run, after: Run) -> list[Result]:
    keys = sorted({*before.params, *after.params})
    pairs = [(key, before.params.get(key, _NOTHING), after.params.get(key, _NOTHING)) for key in keys]
    return [Result(of, "parameter", key, then, now, then == now) for key, then, now in pairs]


def _files_of(c: Connection, run: Run) -> dict[str, Artifact]:
    """What the run logged by path, its models' files included, without those in which a model's own id stands."""
    found = {file.path: file for file in files_below(c, run.id)}
    for number, (model_id, _) in enumerate(run.output_models):
        place = "model" if len(run.output_models) == 1 else f"model {number + 1}"
        found |= {f"{place}: {file.path}": file for file in files_below(c, model_id)}
    return {path: file for path, file in found.items() if file.path.rpartition("/")[2] not in _OWN_FILES}


def _objects(c: Connection, pair: Pair) -> list[Result]:
    then, now = _last_objects(c, pair.before), _last_objects(c, pair.after)
    return [
        Result(
            pair.of, "object", f"s3://{name}", then.get(name, _NOTHING), now.get(name, _NOTHING),
            then.get(name) == now.get(name),
        )
        for name in sorted({*then, *now})
    ]  # fmt: skip


def _written(c: Connection, workload: str, kind: str) -> Sequence[Any]:
    query = (
        select(accesses.c.name, accesses.c.version)
        .where(accesses.c.workload == workload, accesses.c.mode == "write", accesses.c.kind == kind)
        .order_by(accesses.c.first_at)
    )
    return c.execute(query).all()


def _last_objects(c: Connection, workload: str) -> dict[str, str]:
    buckets = set(c.execute(select(lakes.c.bucket)).scalars())
    found: dict[str, str] = {}
    for row in _written(c, workload, "object"):
        if row.name.partition("/")[0] in buckets:
            continue
        query = select(object_versions.c.sha256).where(object_versions.c.id == row.version)
        found[row.name] = c.execute(query).scalar() or _NOTHING
    return found


def _last_snapshots(c: Connection, workload: str) -> dict[str, str]:
    return {row.name: row.version for row in _written(c, workload, "snapshot")}


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _number(value: float | None) -> str:
    return _NOTHING if value is None else repr(value)


def _short(value: Json) -> str:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text if len(text) <= 200 else f"{text[:160]}… ({_digest([text])})"
