"""Lineage told to others: where columns come from, and a run's OpenLineage events."""

from collections.abc import Sequence

import anyio.to_thread
from sqlalchemy import Connection, select

from stratal.ai.explain import openlineage
from stratal.ai.explain.columns import Columns
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place
from stratal.data.pipelines.service import Pipelines
from stratal.data.pipelines.tables import steps as step_rows
from stratal.data.pipelines.tables import writes
from stratal.identity.model import Principal
from stratal.kernel.database import Database


class Tellings:
    """`columns` of tables; `events` of runs."""

    def __init__(self, database: Database, lake: Lake, pipelines: Pipelines) -> None:
        self.columns = Columns(database, lake)
        self._database = database
        self._lake = lake
        self._pipelines = pipelines

    async def events(self, who: Principal, place: Place, run_id: int) -> Sequence[openlineage.Json]:
        """What happened in a run of a pipeline, as OpenLineage events. Raises `NotFound`."""
        run = await self._pipelines.get(who, place.id, run_id)
        steps = await self._pipelines.steps(who, place.id, run_id)
        infos = await self._lake.catalog.all(who, place)
        schemas = {str(info.name): [str(column["name"]) for column in info.fields] for info in infos}

        def queries(c: Connection) -> dict[tuple[int, str], str]:
            query = (
                select(writes.c.step_id, writes.c.table_name, writes.c.sql)
                .join(step_rows, step_rows.c.id == writes.c.step_id)
                .where(step_rows.c.run_id == run_id, writes.c.state == "published", writes.c.sql.is_not(None))
            )
            return {(row.step_id, row.table_name): row.sql for row in c.execute(query)}

        known = await self._database.read(queries)
        return await anyio.to_thread.run_sync(lambda: list(openlineage.events(run, steps, known, schemas)))
