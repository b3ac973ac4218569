"""A table that another project shares: read under that project's name, written by nobody but its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from rooms.lake.conftest import SCHEMA, Room
from rooms.lake.test_queries import parquet
from stratal.ai.explain.inputs import Inputs
from stratal.ai.explain.model import Status
from stratal.data.lake.catalog import Definition
from stratal.data.lake.lent import find_shareable
from stratal.data.lake.model import Place, TableName, parse_table_name
from stratal.identity.model import Role
from stratal.identity.projects import Projects
from stratal.identity.shares import Shares
from stratal.kernel.errors import Conflict, Denied, NotFound


def test_what_another_project_shares_is_named_as_its_own(
    room: Room, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Explained to the reading project: whose it was; recorded under the name that it is read by."""

    async def story() -> None:
        owner = replace(room.bob, role=Role.OWNER)
        reader = room.job
        place = Place("prj_b", "b")
        projects = Projects(room.database, room.clock)
        shares = Shares(room.database, room.clock)
        shares.offer("table", find_shareable)
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            file = parquet(tmp_path / "in.parquet", x=[1, 2])
            await room.objects.create_bucket(room.bob, "given")
            await room.objects.put_bytes(room.bob, "given", "in.parquet", file.read_bytes())
            name = parse_table_name("ns.t")
            await warehouse.import_object(owner, place, name, "s3://given/in.parquet", None, "create")
            with pytest.raises(NotFound):
                await room.ask(warehouse, reader, "select sum(x) from b.ns.t")
            with pytest.raises(Denied):
                await shares.add(room.bob, "prj_b", "table", "ns.t", "a")
            with pytest.raises(NotFound):
                await shares.add(owner, "prj_b", "table", "ns.none", "a")
            share = await shares.add(owner, "prj_b", "table", "ns.t", "a")
            with pytest.raises(Conflict):
                await shares.add(owner, "prj_b", "table", "ns.t", "a")
            assert orjson.loads(await room.ask(warehouse, reader, "select sum(x) from b.ns.t")) == [[3]]
            assert [r.name for r in await room.lineage.of_workload("job:7", "read")] == ["b.ns.t"]
            (link,) = await Inputs(room.lineage, room.objects, room.lake, None, projects.name_of).of(
                "job:7", "prj_a"
            )
            assert ("shared by", "project b") in link.facts
            assert link.status is Status.VERIFIED
            # one's own table of that name comes first, and nobody's writes reach the other
            await room.lake.namespaces.create(room.ann, room.here, ("b", "ns"), {})
            with pytest.raises(Denied):
                await room.ask(warehouse, room.ann, "create or replace table b.ns.t as select 5 as x")
            await room.lake.catalog.create(
                room.ann, room.here, TableName(("b", "ns"), "t"), Definition(SCHEMA)
            )
            assert orjson.loads(await room.ask(warehouse, room.ann, "select count(*) from b.ns.t")) == [[0]]
            await room.lake.drop(room.ann, room.here, TableName(("b", "ns"), "t"), purge=True)
            assert orjson.loads(await room.ask(warehouse, room.ann, "select count(*) from b.ns.t")) == [[2]]
            # the project that was given may end it, too
            with pytest.raises(Denied):
                await shares.remove(room.ann, "prj_a", share.id)
            await shares.remove(replace(room.ann, role=Role.OWNER), "prj_a", share.id)
            with pytest.raises(NotFound):
                await room.ask(warehouse, room.ann, "select count(*) from b.ns.t")
        finally:
            await warehouse.close()

    run(story())
