"""What the blocks of reports show, asked of the rooms that own it with the eyes of whoever looks."""

from typing import Any

import orjson

from stratal.ai.explain.columns import Columns
from stratal.ai.explain.why import Why
from stratal.collab.metrics import downsample
from stratal.collab.reports.blocks import Block, Data
from stratal.collab.reports.service import Reports
from stratal.collab.runs import Runs
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, parse_table_name
from stratal.data.queries.service import Ask, Warehouse
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid

_ROWS, _BYTES, _SECONDS = 500, 512 * 1024, 20.0
_LINES, _POINTS = 5, 300


def furnish_reports(
    database: Database, runs: Runs, warehouse: Warehouse, lake: Lake, columns: Columns, why: Why, clock: Clock
) -> Reports:
    async def metrics(who: Principal, place: Place, block: Block) -> Data:
        metric, wanted = block.options.get("metric", ""), block.listed("run")
        if not metric or not wanted or len(wanted) > _LINES:
            raise Invalid(f"Say metric=NAME and run=ID, up to {_LINES} runs with commas between.")
        lines = []
        for run_id in wanted:
            run = await runs.get(who, place.id, run_id)
            series = downsample(await runs.series(who, place.id, run_id, metric), _POINTS)
            points = [[point.step, point.value] for point in series]
            if points and len({x for x, _ in points}) == 1:  # a script that gave no steps
                points = [[place, value] for place, (_, value) in enumerate(points)]
            lines.append({"name": f"{metric} of {run.name}" if len(wanted) > 1 else metric, "points": points})
        return {"lines": lines}

    async def sql(who: Principal, place: Place, block: Block) -> Data:
        ask = Ask(block.body, limit=_ROWS + 1, max_bytes=_BYTES, seconds=_SECONDS, reads_only=True)
        async with warehouse.query(who, place, ask) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            names = [column.name for column in answer.columns]
            rows: list[Any] = orjson.loads(body)
            more = len(rows) > _ROWS or answer.finished.truncated
            return {"columns": names, "rows": rows[:_ROWS], "more": more, "snapshots": answer.snapshots}

    async def lineage(who: Principal, place: Place, block: Block) -> Data:
        if "prediction" in block.options:
            told = await why.explain(who, block.options["prediction"])
            links = [{"kind": one.kind, "name": one.name, "said": one.status.value} for one in told.chain]
            return {"links": [*links, {"kind": "verdict", "name": told.verdict, "said": ""}]}
        if "table" not in block.options:
            raise Invalid("Say prediction=ID or table=NAMESPACE.NAME.")
        name = parse_table_name(block.options["table"])
        info = await lake.catalog.find(who, place, name)
        found = await columns.of(who, place, name)
        said = f"snapshot {info.snapshot_id}" if info.snapshot_id is not None else "empty"
        links = [{"kind": "table", "name": str(name), "said": said}]
        for column in found.columns:
            origins = ", ".join(f"{table}.{source}" for table, source in column.sources)
            links.append({"kind": "column", "name": column.name, "said": f"from {origins or 'a constant'}"})
        if found.unknown:
            links.append({"kind": "columns", "name": found.unknown, "said": ""})
        return {"links": links}

    return Reports(database, {"metrics": metrics, "sql": sql, "lineage": lineage}, clock)
