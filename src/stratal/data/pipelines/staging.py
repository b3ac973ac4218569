"""What a step writes into tables: committed to a branch first, shown to everybody with the step's end.

Every write of an attempt is a commit to a branch of its own. When the attempt succeeds, one transaction swaps the
main branch of all its tables to what was staged *and* writes the step's end into the journal: so others
see all of it or nothing, once, however often anything was killed. An attempt that failed, or was
replaced, leaves a branch that nobody reads and that is removed later.

Whoever else wrote one of the tables since the attempt began makes it start anew, on what the table is then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Change, Place, TableName
from stratal.data.pipelines import records
from stratal.data.pipelines.journal import Decision, Entry, Journal, superseded
from stratal.data.pipelines.model import UNENDED_STEPS, Json, Run, Step, StepState
from stratal.data.pipelines.tables import steps, writes
from stratal.data.queries.loading import Mode, Staged, Staging
from stratal.data.queries.service import Sourced, Warehouse
from stratal.identity.model import Principal, system_principal
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, NotFound, StratalError

log = logging.getLogger("stratal.pipelines")
_AGAIN_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.05
KEY_PROPERTY = "stratal.step-key"
STEP_PROPERTY = "stratal.step"


class Stage:
    def __init__(self, database: Database, lake: Lake, warehouse: Warehouse, journal: Journal) -> None:
        self._database = database
        self._lake = lake
        self._warehouse = warehouse
        self._journal = journal
        self._turns: dict[str, asyncio.Lock] = {}

    # -- writing -------------------------------------------------------------------------------

    async def write(
        self,
        who: Principal,
        place: Place,
        run_id: int,
        step_name: str,
        attempt: int,
        number: int,
        name: TableName,
        source: Sourced,
        mode: Mode,
        *,
        keys: Sequence[str] = (),
        where: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """The `number`-th write of an attempt, by the attempt's own credential; a second time it is as it was.

        Raises `Conflict` (``not_the_worker``) for anybody else, (``superseded``) for an attempt that was replaced, and what
        `Warehouse.stage` does.
        """

        def look(c: Connection) -> tuple[Step, Any]:
            step = _writing(c, who, place.id, run_id, step_name, attempt)
            return step, c.execute(_write_of(step, attempt, number)).mappings().one_or_none()

        step, known = await self._database.read(look)
        if known is not None:
            return _told(known)
        row: dict[str, Any] = {}

        def also(c: Connection, staged: Staged) -> None:
            _writing(c, who, place.id, run_id, step_name, attempt)
            row.update(
                step_id=step.id,
                attempt=attempt,
                number=number,
                project_id=place.id,
                table_id=staged.table.id,
                table_name=str(staged.table.name),
                branch=branch,
                mode=mode,
                base_id=_first_base(c, step, attempt, staged),
                snapshot_id=staged.snapshot_id,
                schema_id=staged.schema_id,
                row_count=staged.row_count,
                sql=source.sql,
                state="staged",
            )
            c.execute(insert(writes).values(row))

        branch = f"stratal-step-{step.id}-{attempt}"
        properties = {KEY_PROPERTY: step.key or "", STEP_PROPERTY: f"{run_id}/{step_name}"}
        staging = Staging(branch, properties, also)
        # Iceberg orders a table's snapshots whatever their branch: those who write one table take turns. And whoever
        # stages while another attempt has yet to show what it staged would only be done again: so it waits a while.
        patience = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            async with self._turns.setdefault(f"{place.id} {name}", asyncio.Lock()):
                late = asyncio.get_running_loop().time() > patience
                if late or not await self._is_being_written(place, name, step):
                    await self._warehouse.stage(
                        who, place, name, source, mode, staging, keys=keys, where=where
                    )
                    return _told(row)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_being_written(self, place: Place, name: TableName, besides: Step) -> bool:
        """Has a living attempt of another step staged something for the table?"""
        query = (
            select(writes.c.step_id)
            .join(steps, (steps.c.id == writes.c.step_id) & (steps.c.attempt == writes.c.attempt))
            .where(
                writes.c.state == "staged",
                writes.c.project_id == place.id,
                writes.c.table_name == str(name),
                writes.c.step_id != besides.id,
                steps.c.state == StepState.RUNNING.value,
            )
            .limit(1)
        )
        return await self._database.read(lambda c: c.execute(query).first()) is not None

    # -- the attempt's end -----------------------------------------------------------------------

    async def finish(self, place: Place, run: Run, entry: Entry) -> Decision:
        """Record an attempt's end, together with everything that it staged."""

        def look(c: Connection) -> tuple[Step, list[Any]]:
            step = records.find_step(c, run.id, str(entry["name"]))
            staged = (
                select(writes)
                .where(
                    writes.c.step_id == step.id,
                    writes.c.attempt == entry["attempt"],
                    writes.c.state == "staged",
                )
                .order_by(writes.c.number)
            )
            return step, list(c.execute(staged).mappings())

        step, staged = await self._database.read(look)
        if not staged or entry["state"] != StepState.SUCCEEDED.value or step.attempt != entry["attempt"]:
            return await self._database.write(lambda c: self._journal.finish(c, run, entry, ()))
        last = {row["table_id"]: row for row in staged}  # of several writes to a table, the last holds all
        if run.replay_of is not None:
            return await self._keep(run, entry, step, list(last.values()))
        decided: list[Decision] = []

        def also(c: Connection, _infos: Sequence[object]) -> None:
            present = records.find_run(c, None, run.id)
            if present.epoch != run.epoch or present.state.ended:
                raise superseded(run.id)
            decided.append(
                self._journal.finish(c, present, entry, [_published(row) for row in last.values()])
            )
            if decided[-1].get("state") != StepState.SUCCEEDED.value:
                raise superseded(run.id)
            change = update(writes).where(writes.c.step_id == step.id, writes.c.attempt == step.attempt)
            c.execute(change.values(state="published"))

        who = records.creator(run, step.workload)
        try:
            async with contextlib.AsyncExitStack() as turns:
                for name in sorted({row["table_name"] for row in last.values()}):
                    await turns.enter_async_context(
                        self._turns.setdefault(f"{place.id} {name}", asyncio.Lock())
                    )
                changes = [_publication(row) for row in last.values()]
                await self._lake.catalog.commit(who, place, changes, also=also)
        except (Conflict, NotFound) as error:
            if error.reason == "superseded":
                raise
            return await self._again(run, entry, error)
        return decided[-1]

    async def _keep(self, run: Run, entry: Entry, step: Step, last: Sequence[Mapping[str, Any]]) -> Decision:
        """A replay shows nothing: what it staged stays on its branch until it was compared (see `let_go`)."""

        def work(c: Connection) -> Decision:
            c.execute(
                update(writes)
                .where(writes.c.step_id == step.id, writes.c.attempt == step.attempt)
                .values(state="kept")
            )
            return self._journal.finish(c, run, entry, [_published(row) for row in last])

        return await self._database.write(work)

    def let_go(self, c: Connection, run_id: int) -> None:
        """Within a write: what the replay `run_id` staged was compared, and its branches may go."""
        of_run = select(steps.c.id).where(steps.c.run_id == run_id)
        c.execute(
            update(writes)
            .where(writes.c.step_id.in_(of_run), writes.c.state == "kept")
            .values(state="staged")
        )

    async def _again(self, run: Run, entry: Entry, error: StratalError) -> Decision:
        """Somebody else was first, or the table is gone: the attempt's work rests on what no longer is."""
        words = f"a table it writes was changed by others meanwhile: {error.message}"
        failed = {**entry, "state": StepState.FAILED.value, "error": words, "again": _AGAIN_SECONDS}
        return await self._database.write(lambda c: self._journal.finish(c, run, failed, ()))

    # -- what attempts left behind -----------------------------------------------------------------

    async def sweep(self) -> None:
        """Remove the branches of attempts that will never end well."""
        query = (
            select(writes, steps.c.state.label("step_state"), steps.c.attempt.label("present"))
            .join(steps, steps.c.id == writes.c.step_id)
            .where(writes.c.state == "staged")
            .limit(500)
        )
        rows = await self._database.read(lambda c: list(c.execute(query).mappings()))
        for row in rows:
            if row["step_state"] in UNENDED_STEPS and row["present"] == row["attempt"]:
                continue
            await self._drop(row)

    async def _drop(self, row: Mapping[Any, Any]) -> None:
        place = Place(row["project_id"], "")
        gone = [
            {"action": "remove-snapshot-ref", "ref-name": row["branch"]},
            {"action": "remove-snapshots", "snapshot-ids": [row["snapshot_id"]]},
        ]
        name = TableName(*_split(row["table_name"]))
        who = system_principal(place.id, "")
        for updates in (gone, gone[1:], gone[:1]):
            try:
                await self._lake.catalog.commit(who, place, [Change(name, [], updates)])
                break
            except StratalError as error:
                log.debug("removing %s of %s: %s", row["branch"], row["table_name"], error)
        done = update(writes).where(
            writes.c.step_id == row["step_id"],
            writes.c.attempt == row["attempt"],
            writes.c.number == row["number"],
        )
        await self._database.write(lambda c: c.execute(done.values(state="dropped")))


def _writing(
    c: Connection, who: Principal, project_id: str, run_id: int, step_name: str, attempt: int
) -> Step:
    """The step when `who` is its present attempt. Raises `NotFound`, `Conflict`."""
    run = records.find_run(c, project_id, run_id)
    step = records.find_step(c, run_id, step_name)
    if who.workload is None or who.workload != step.workload:
        raise Conflict(
            f"Only step {step_name} itself writes its tables here.",
            hint="Write tables with SQL, the Iceberg catalogue or an import.",
            reason="not_the_step",
        )
    if run.state.ended or step.state is not StepState.RUNNING or step.attempt != attempt:
        raise superseded(run_id)
    return step


def _write_of(step: Step, attempt: int, number: int) -> Any:
    return select(writes).where(
        writes.c.step_id == step.id, writes.c.attempt == attempt, writes.c.number == number
    )


def _first_base(c: Connection, step: Step, attempt: int, staged: Staged) -> int | None:
    """What the table's readers saw when the attempt first wrote it."""
    earlier = c.execute(
        select(writes.c.base_id).where(
            writes.c.step_id == step.id, writes.c.attempt == attempt, writes.c.table_id == staged.table.id
        )
    ).first()
    return staged.base_id if earlier is None else earlier.base_id


def _publication(row: Mapping[str, Any]) -> Change:
    """The commit that makes what was staged the table, if it still is what the attempt began from."""
    updates: list[dict[str, Json]] = []
    if row["schema_id"] is not None:
        updates.append({"action": "set-current-schema", "schema-id": row["schema_id"]})
    updates += [
        {
            "action": "set-snapshot-ref",
            "ref-name": "main",
            "type": "branch",
            "snapshot-id": row["snapshot_id"],
        },
        {"action": "remove-snapshot-ref", "ref-name": row["branch"]},
    ]
    needed = [{"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": row["base_id"]}]
    return Change(TableName(*_split(row["table_name"])), needed, updates)


def _split(name: str) -> tuple[tuple[str, ...], str]:
    *levels, last = name.split(".")
    return tuple(levels), last


def _told(row: Mapping[str, Any]) -> dict[str, Json]:
    return {"table": row["table_name"], "snapshot": str(row["snapshot_id"]), "rows": row["row_count"]}


def _published(row: Mapping[str, Any]) -> dict[str, Json]:
    return {
        "table": row["table_name"],
        "table_id": row["table_id"],
        "snapshot": str(row["snapshot_id"]),
        "mode": row["mode"],
        "rows": row["row_count"],
    }
