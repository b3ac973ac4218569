"""Deployed pipelines: run by the clock, when something arrives, or when somebody asks for one by name.

A schedule is a row with the moment at which it is due next. Whoever fires it moves that moment on and writes
the run in one transaction, each moment once: whether the server is killed, the clock jumps, or two look at
the same time. News of tables and objects is followed likewise, by the place in the row up to where it was seen.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Connection, Row, delete, insert, select, update

from stratal.compute.snapshots import Snapshots
from stratal.data.lake.model import SEPARATOR, parse_table_name
from stratal.data.lake.tables import snapshots, tables
from stratal.data.pipelines import hooks, records
from stratal.data.pipelines.model import UNENDED_RUNS, Json, Run, RunSpec
from stratal.data.pipelines.service import MOST_PARTITIONS, run_values
from stratal.data.pipelines.tables import hooks as hook_rows
from stratal.data.pipelines.tables import pipelines, runs, steps
from stratal.identity.master import MasterKey
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import require
from stratal.identity.tables import projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, StratalError
from stratal.kernel.events import Event, Events, emit, outbox
from stratal.kernel.names import check_name
from stratal.kernel.schedules import check_schedule, due_after, next_due

log = logging.getLogger("stratal.pipelines")

CATCH_UP = ("none", "last", "all")
OVERLAP = ("queue", "skip", "cancel", "together")
MOST_MADE_UP = 1000
_LATE_MS = 60_000
_PATTERN = r"(?:[^\\()\[\]{}|?*+^$]|\\[dw./-]|\[[\w.-]+\]|\{\d{1,3}\}|\+|\((?!\?)|\))+"
"""Patterns of a kind that no key makes slow: no alternatives, no repeats of groups, one unbounded repeat."""
_TICK_SECONDS = 1.0
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Triggers:
    """What runs a deployed pipeline beside whoever asks for it by name.

    `catch_up` says which moments of the schedule that passed unseen are made up for: ``none`` (over a minute
    late), the ``last``, or ``all`` (at most 1,000). `overlap` says what becomes of a run that is due
    while another of the pipeline has not ended: it waits its turn in the ``queue``, is left out (``skip``), ends the other
    and takes its place (``cancel``), or runs beside it (``together``). `partition_of` is a pattern that finds in the key
    of an object that arrives which partition it is of: the run makes those, so what comes late makes its own again.
    """

    schedule: str | None = None
    timezone: str = "UTC"
    catch_up: str = "last"
    on_table: str | None = None
    on_prefix: str | None = None
    on_model: str | None = None
    """A registered model that has a new version."""
    on_pipeline: str | None = None
    """Another deployed pipeline, of which a run succeeded."""
    overlap: str = "queue"
    partition_of: str | None = None

    @property
    def listens_to(self) -> int:
        """To how many kinds of news."""
        return sum(
            one is not None for one in (self.on_table, self.on_prefix, self.on_model, self.on_pipeline)
        )


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployed pipeline as recorded. Times are epoch milliseconds."""

    name: str
    version: int
    spec: RunSpec
    triggers: Triggers
    next_at: int | None
    deployed_by: str
    deployed_at: int
    last_run: int | None = None
    last_state: str | None = None
    hook_made_at: int | None = None
    """Since when webhooks run it; None: they do not."""


@dataclass(slots=True)
class Deployments:
    """`start` before use. `kick` is told when runs were made."""

    database: Database
    events: Events
    snapshots: Snapshots
    clock: Clock
    kick: Callable[[], None]
    master: MasterKey
    end: Callable[[Connection, Run, str], None]
    """Within a write: end a run that is not wanted any more."""
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="pipelines: triggers")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- deploying -----------------------------------------------------------------------------

    async def deploy(
        self, who: Principal, project_id: str, name: str, spec: RunSpec, triggers: Triggers
    ) -> Deployed:
        """Deploy a pipeline under its name, in the place of an earlier one. Raises `Invalid`, `NotFound`, `Denied`."""
        require(who, "pipelines.run", project_id)
        check_name("pipeline", name)
        _check(triggers)
        await self.snapshots.get(project_id, spec.snapshot_id)
        made = run_values(spec, who)
        now = self.clock()
        values: dict[str, Any] = {
            **{
                key: made[key]
                for key in ("file", "parameters", "snapshot_id", "cwd", "source", "requirements")
            },
            "network": spec.network,
            "parallel": spec.parallel,
            "schedule": triggers.schedule,
            "timezone": triggers.timezone,
            "catch_up": triggers.catch_up,
            "on_table": triggers.on_table,
            "on_prefix": triggers.on_prefix,
            "on_model": triggers.on_model,
            "on_pipeline": triggers.on_pipeline,
            "overlap": triggers.overlap,
            "partition_of": triggers.partition_of,
            "deployed_by": who.actor,
            "deployer_id": who.id,
            "deployer_name": who.name,
            "deployer_role": who.role.value,
            "deployed_at": now,
            "next_at": None
            if triggers.schedule is None
            else next_due(triggers.schedule, triggers.timezone, now),
        }

        def work(c: Connection) -> Deployed:
            here = (pipelines.c.project_id == project_id) & (pipelines.c.name == name)
            before = c.execute(select(pipelines).where(here)).one_or_none()
            values["seen"] = _seen_now(c, project_id, triggers)
            if triggers.on_pipeline is not None:
                _check_circle(c, project_id, name, triggers.on_pipeline)
            if before is None:
                c.execute(insert(pipelines).values(project_id=project_id, name=name, version=1, **values))
            else:
                if (before.schedule, before.timezone) == (triggers.schedule, triggers.timezone):
                    values["next_at"] = before.next_at  # what is due stays due
                c.execute(update(pipelines).where(here).values(version=before.version + 1, **values))
            emit(c, "pipeline.deployed", name, actor=who.actor, project_id=project_id)
            return _deployed(c, c.execute(select(pipelines).where(here)).one())

        return await self.database.write(work)

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Take a deployed pipeline back; its runs stay. Raises `NotFound`."""
        require(who, "pipelines.run", project_id)

        def work(c: Connection) -> None:
            _find(c, project_id, name)
            c.execute(delete(pipelines).where(pipelines.c.project_id == project_id, pipelines.c.name == name))
            hooks.forget(c, project_id, name)
            emit(c, "pipeline.undeployed", name, actor=who.actor, project_id=project_id)

        await self.database.write(work)

    async def list(self, who: Principal, project_id: str) -> Sequence[Deployed]:
        """The project's deployed pipelines, by name."""
        require(who, "pipelines.read", project_id)
        query = select(pipelines).where(pipelines.c.project_id == project_id).order_by(pipelines.c.name)
        return await self.database.read(lambda c: [_deployed(c, row) for row in c.execute(query)])

    async def trigger(
        self,
        who: Principal,
        project_id: str,
        name: str,
        parameters: Mapping[str, Json],
        partitions: Sequence[str] | None = None,
    ) -> Run:
        """Run a deployed pipeline now, as whoever asks; `parameters` go over those it was deployed with.

        Raises `NotFound`, `Invalid`.
        """
        require(who, "pipelines.run", project_id)

        def work(c: Connection) -> Run:
            found = _deployed(c, _find(c, project_id, name))
            spec = _spec_with(found.spec, {**found.spec.parameters, **parameters}, "by name", partitions)
            run_id = self._insert(c, project_id, run_values(spec, who), who.actor, name)
            return records.find_run(c, project_id, run_id, counts=True)

        run = await self.database.write(work)
        self.kick()
        return run

    async def purge(self, project_id: str) -> None:
        """Forget a project's deployed pipelines. May be repeated."""

        def work(c: Connection) -> None:
            c.execute(delete(pipelines).where(pipelines.c.project_id == project_id))
            hooks.forget(c, project_id)

        await self.database.write(work)

    # -- webhooks --------------------------------------------------------------------------------

    async def hook(self, who: Principal, project_id: str, name: str, grace_seconds: int) -> str:
        """Let webhooks run a deployed pipeline: its new secret, which is shown this once. One that there was is good for
        `grace_seconds` yet. Raises `NotFound`, `Invalid`."""
        require(who, "pipelines.run", project_id)
        if not 0 <= grace_seconds <= hooks.MOST_GRACE_SECONDS:
            raise Invalid("The secret before is good for 0 s to 30 days.", reason="bad_grace")

        def work(c: Connection) -> str:
            _find(c, project_id, name)
            secret = hooks.made(c, self.master, project_id, name, self.clock(), grace_seconds, who.actor)
            emit(c, "pipeline.hook_made", name, actor=who.actor, project_id=project_id)
            return secret

        return await self.database.write(work)

    async def unhook(self, who: Principal, project_id: str, name: str) -> None:
        """Webhooks run the pipeline no more. Raises `NotFound`."""
        require(who, "pipelines.run", project_id)

        def work(c: Connection) -> None:
            _find(c, project_id, name)
            hooks.forget(c, project_id, name)
            emit(c, "pipeline.hook_removed", name, actor=who.actor, project_id=project_id)

        await self.database.write(work)

    async def deliver(self, project: str, name: str, delivery: hooks.Delivery) -> tuple[int | None, bool]:
        """Run what a signed delivery asks for: the run (None: left out, another has not ended), and whether it came before.

        Raises `Unauthenticated`, `Invalid` for a body that is not understood.
        """
        now = self.clock()

        def look(c: Connection) -> None:
            hooks.check(c, self.master, hooks.find(c, project, name), delivery, now)

        await self.database.read(look)
        parameters, partitions = _asked_by(delivery.body)

        def work(c: Connection) -> tuple[int | None, bool]:
            row = hooks.find(c, project, name)
            hooks.check(c, self.master, row, delivery, now)
            assert row is not None
            before = hooks.known(c, row, delivery)
            if before is not None:
                return before.run_id, True
            trigger = f"webhook {delivery.id}"[:500]
            run_id = self._fire(c, row, trigger, {}, parameters, partitions)
            hooks.remember(c, row, delivery, run_id, now)
            return run_id, False

        told = await self.database.write(work)
        self.kick()
        return told

    # -- what fires them -----------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except StratalError as error:
                log.warning("pipelines cannot be triggered right now: %s", error)
            except Exception:
                log.exception("looking for pipelines that are due failed")
            await asyncio.sleep(_TICK_SECONDS)

    async def look(self) -> int:
        """Fire all that is due now; how many runs that made."""
        now = self.clock()
        heard = pipelines.c.on_model.is_not(None) | pipelines.c.on_pipeline.is_not(None)
        listening = pipelines.c.on_table.is_not(None) | pipelines.c.on_prefix.is_not(None) | heard
        query = select(pipelines).where((pipelines.c.next_at <= now) | listening)
        rows = await self.database.read(lambda c: list(c.execute(query)))
        made = 0
        for row in rows:
            if row.next_at is not None and row.next_at <= now:
                made += await self.database.write(lambda c, r=row: self._by_clock(c, r, now))  # type: ignore[misc]
            if row.on_table is not None:
                made += await self._note(row, *await self.database.read(partial(_news_of_table, row=row)))
            elif (row.on_prefix or row.on_model or row.on_pipeline) is not None:
                found = await self.events.after(row.seen, project_id=row.project_id, limit=_PAGE)
                if found:
                    made += await self._note(row, found[-1].seq, _heard(found, row), _partitions(found, row))
        if made:
            self.kick()
        return made

    def _by_clock(self, c: Connection, row: Row[Any], now: int) -> int:
        """One transaction: the next moment is set, and what was due becomes runs."""
        later = due_after(row.schedule, row.timezone, row.next_at - 1)
        due = list(itertools.takewhile(lambda at: at <= now, itertools.islice(later, MOST_MADE_UP)))
        following = next_due(row.schedule, row.timezone, now)
        moved = c.execute(
            update(pipelines)
            .where(
                pipelines.c.project_id == row.project_id,
                pipelines.c.name == row.name,
                pipelines.c.next_at == row.next_at,
                pipelines.c.version == row.version,
            )
            .values(next_at=following)
        )
        if moved.rowcount != 1:
            return 0  # somebody else was first, or it was deployed anew
        if row.catch_up == "none":
            due = [at for at in due if now - at <= _LATE_MS][-1:]
        elif row.catch_up == "last":
            due = due[-1:]
        fired = [self._fire(c, row, f"schedule {_iso(at)}", _moment_words(at, row.timezone)) for at in due]
        return sum(run_id is not None for run_id in fired)

    async def _note(
        self, row: Row[Any], seen: int, news: str, partitions: Sequence[str] | None = None
    ) -> int:
        """What a row listens to was seen up to `seen`; `news` is what is new there ("": nothing for it), and of which
        `partitions` it is."""
        if seen == row.seen:
            return 0

        def work(c: Connection) -> int:
            moved = c.execute(
                update(pipelines)
                .where(
                    pipelines.c.project_id == row.project_id,
                    pipelines.c.name == row.name,
                    pipelines.c.seen == row.seen,
                    pipelines.c.version == row.version,
                )
                .values(seen=seen)
            )
            if moved.rowcount != 1 or not news:
                return 0
            return int(self._fire(c, row, news, {}, {}, partitions) is not None)

        return await self.database.write(work)

    def _fire(
        self,
        c: Connection,
        row: Row[Any],
        trigger: str,
        words: Mapping[str, str],
        parameters: Mapping[str, Json] | None = None,
        partitions: Sequence[str] | None = None,
    ) -> int | None:
        """Within a write: a run of the pipeline, unless another has not ended and the rule for that leaves it out."""
        unended = records.query().where(
            runs.c.project_id == row.project_id,
            runs.c.pipeline == row.name,
            runs.c.replay_of.is_(None),
            runs.c.state.in_(UNENDED_RUNS),
        )
        if row.overlap == "skip" and c.execute(unended.limit(1)).first() is not None:
            emit(c, "pipeline.left_out", row.name, actor="system", project_id=row.project_id, trigger=trigger)
            return None
        if row.overlap == "cancel":
            for other in c.execute(unended).mappings().all():
                self.end(c, records.run_of(other), f"{trigger} took its place"[:500])
        found = _deployed(c, row)
        given = {key: _filled(value, words) for key, value in found.spec.parameters.items()}
        who = _deployer(c, row)
        spec = _spec_with(found.spec, {**given, **(parameters or {})}, trigger, partitions)
        return self._insert(c, row.project_id, run_values(spec, who), "system", row.name)

    def _insert(
        self, c: Connection, project_id: str, values: Mapping[str, Any], actor: str, name: str
    ) -> int:
        made = insert(runs).values(**values, project_id=project_id, created_at=self.clock())
        run_id: int = c.execute(made.returning(runs.c.id)).scalar_one()
        emit(c, "pipeline.queued", str(run_id), actor=actor, project_id=project_id, name=name)
        return run_id


def _news_of_table(c: Connection, row: Row[Any]) -> tuple[int, str]:
    """The table's snapshot now, and in words what that is news of."""
    name = parse_table_name(row.on_table)
    found = c.execute(
        select(tables.c.id, tables.c.snapshot_id).where(
            tables.c.project_id == row.project_id,
            tables.c.namespace == SEPARATOR.join(name.namespace),
            tables.c.name == name.name,
            tables.c.dropped_at.is_(None),
        )
    ).one_or_none()
    if found is None or found.snapshot_id is None or found.snapshot_id == row.seen:
        return row.seen, ""
    own = _writer(c, found.id, found.snapshot_id) == row.name  # else it would set itself off for ever
    return found.snapshot_id, "" if own else f"snapshot {found.snapshot_id} of {row.on_table}"


def _writer(c: Connection, table_id: str, snapshot_id: int) -> str | None:
    """The pipeline whose step wrote a snapshot."""
    query = (
        select(runs.c.pipeline)
        .join(steps, steps.c.run_id == runs.c.id)
        .join(snapshots, snapshots.c.workload == steps.c.workload)
        .where(snapshots.c.table_id == table_id, snapshots.c.snapshot_id == snapshot_id)
    )
    return c.execute(query.limit(1)).scalar()


def _heard(found: Sequence[Event], row: Row[Any]) -> str:
    """What of the news is for the row, in words; "" when nothing is."""
    if row.on_prefix is not None:
        return _arrived(found, row)
    if row.on_model is not None:
        kind, name = "model_version.created", row.on_model
        new = [
            event for event in found if event.kind == kind and event.data["name"].rpartition("/")[0] == name
        ]
        return f"model {new[-1].data['name']}" if new else ""
    kind, name = "pipeline.succeeded", row.on_pipeline
    ended = [event for event in found if event.kind == kind and event.data.get("name") == name]
    return f"run {ended[-1].subject} of {name} succeeded" if ended else ""


def _check_circle(c: Connection, project_id: str, name: str, first: str) -> None:
    """Raises `Invalid` when the pipeline would set itself off, by way of others or at once."""
    query = select(pipelines.c.name, pipelines.c.on_pipeline).where(pipelines.c.project_id == project_id)
    after = {row.name: row.on_pipeline for row in c.execute(query)}
    way = [first]
    while way[-1] != name and after.get(way[-1]) is not None and len(way) <= len(after):
        way.append(after[way[-1]])
    if way[-1] == name:
        raise Invalid(
            f"Pipeline {name} would set itself off: {' → '.join([*reversed(way), name])}.",
            reason="bad_trigger",
        )


def _arrived(found: Sequence[Event], row: Row[Any]) -> str:
    """What of the news are objects below the row's prefix, in words; "" when none is."""
    bucket = row.on_prefix.removeprefix("s3://").partition("/")[0]
    names = _keys(found, row)
    if row.partition_of is not None and not _partitions(found, row):
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"object s3://{bucket}/{names[0]}{more}"[:500] if names else ""


def _partitions(found: Sequence[Event], row: Row[Any]) -> list[str] | None:
    """Of which partitions the arrived objects are; None when they are not told apart."""
    if row.on_prefix is None or row.partition_of is None:
        return None
    names: dict[str, None] = {}
    for key in _keys(found, row):
        match = re.search(row.partition_of, key)
        if match is not None:
            names[match[1] if match.re.groups else match[0]] = None
    return list(names)[:MOST_PARTITIONS]


def _keys(found: Sequence[Event], row: Row[Any]) -> list[str]:
    """The keys of new objects below the row's prefix."""
    bucket, _, prefix = row.on_prefix.removeprefix("s3://").partition("/")
    return [
        event.data["key"]
        for event in found
        if event.kind == "object.created"
        and event.data["bucket"] == bucket
        and event.data["key"].startswith(prefix)
    ]


def _asked_by(body: bytes) -> tuple[dict[str, Json], list[str] | None]:
    """The parameters and partitions that a delivery asks for; of a body that says neither, none."""
    try:
        told = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise Invalid("The delivery's body is not JSON.", reason="bad_body") from error
    if not isinstance(told, dict):
        raise Invalid("The delivery's body is no JSON object.", reason="bad_body")
    parameters, partitions = told.get("parameters") or {}, told.get("partitions")
    fine = isinstance(parameters, dict) and (
        partitions is None
        or (isinstance(partitions, list) and all(isinstance(one, str) for one in partitions))
    )
    if not fine:
        raise Invalid(
            "The delivery's `parameters` are an object, its `partitions` a list of names.", reason="bad_body"
        )
    return parameters, partitions


def _seen_now(c: Connection, project_id: str, triggers: Triggers) -> int:
    """Only what comes from now on is news."""
    if (triggers.on_prefix or triggers.on_model or triggers.on_pipeline) is not None:
        return c.execute(select(outbox.c.seq).order_by(outbox.c.seq.desc()).limit(1)).scalar() or 0
    if triggers.on_table is None:
        return 0
    name = parse_table_name(triggers.on_table)
    return (
        c.execute(
            select(tables.c.snapshot_id).where(
                tables.c.project_id == project_id,
                tables.c.namespace == SEPARATOR.join(name.namespace),
                tables.c.name == name.name,
                tables.c.dropped_at.is_(None),
            )
        ).scalar()
        or 0
    )


def _check(triggers: Triggers) -> None:
    if triggers.schedule is not None:
        check_schedule(triggers.schedule, triggers.timezone)
    if triggers.catch_up not in CATCH_UP:
        raise Invalid(f"Missed moments are made up for by {', '.join(CATCH_UP)}.", reason="bad_catch_up")
    if triggers.overlap not in OVERLAP:
        raise Invalid(f"Runs that overlap: {', '.join(OVERLAP)}.", reason="bad_overlap")
    if triggers.listens_to > 1:
        raise Invalid(
            "A pipeline listens to one thing: a table, a prefix, a model or another pipeline.",
            reason="bad_trigger",
        )
    if any(one is not None and not 0 < len(one) <= 500 for one in (triggers.on_model, triggers.on_pipeline)):
        raise Invalid("What a pipeline listens to has a name.", reason="bad_trigger")
    if triggers.on_table is not None:
        parse_table_name(triggers.on_table)
    if triggers.partition_of is not None:
        _check_pattern(triggers)
    if triggers.on_prefix is not None and (
        len(triggers.on_prefix) > 1000 or not re.match(r"s3://[^/]+/", triggers.on_prefix)
    ):
        raise Invalid(f"{triggers.on_prefix[:200]!r} is not like s3://bucket/prefix.", reason="bad_trigger")


def _check_pattern(triggers: Triggers) -> None:
    """Raises `Invalid` for a pattern that finds no partition in a key."""
    pattern = triggers.partition_of or ""
    if triggers.on_prefix is None:
        raise Invalid(
            "Partitions are found in the keys of what arrives: say on_prefix.", reason="bad_pattern"
        )
    simple = re.fullmatch(_PATTERN, pattern)
    slow = re.search(r"\)[+{]", pattern) is not None or pattern.count("+") > 1
    if len(pattern) > 200 or not simple or slow:
        raise Invalid(
            f"{pattern[:60]!r} is no pattern for partitions.",
            hint=r"For example 'day=(\d{4}-\d\d-\d\d)': text, \d, \w, [a-z], {4}, one +, and one group in parentheses.",
            reason="bad_pattern",
        )
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise Invalid(f"{pattern!r} is no pattern: {error}.", reason="bad_pattern") from error
    if groups > 1:
        raise Invalid("The pattern has one group at most: the partition's name.", reason="bad_pattern")


def _find(c: Connection, project_id: str, name: str) -> Row[Any]:
    row = c.execute(
        select(pipelines).where(pipelines.c.project_id == project_id, pipelines.c.name == name)
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"No pipeline {name[:100]!r} is deployed in this project.",
            hint="Deploy it with: stratal pipeline deploy FILE.py:NAME",
            reason="no_such_pipeline",
        )
    return row


def _deployed(c: Connection, row: Row[Any]) -> Deployed:
    last = c.execute(
        select(runs.c.id, runs.c.state)
        .where(runs.c.project_id == row.project_id, runs.c.pipeline == row.name, runs.c.replay_of.is_(None))
        .order_by(runs.c.id.desc())
        .limit(1)
    ).first()
    spec = RunSpec(
        file=row.file,
        snapshot_id=row.snapshot_id,
        pipeline=row.name,
        parameters=orjson.loads(row.parameters),
        cwd=row.cwd,
        source=orjson.loads(row.source),
        requirements=row.requirements,
        network=row.network,
        parallel=row.parallel,
    )
    triggers = Triggers(
        row.schedule, row.timezone, row.catch_up, row.on_table, row.on_prefix, row.on_model, row.on_pipeline,
        row.overlap, row.partition_of,
    )  # fmt: skip
    hook = c.execute(
        select(hook_rows.c.made_at).where(
            hook_rows.c.project_id == row.project_id, hook_rows.c.name == row.name
        )
    ).scalar()
    return Deployed(
        name=row.name,
        version=row.version,
        spec=spec,
        triggers=triggers,
        next_at=row.next_at,
        deployed_by=row.deployed_by,
        deployed_at=row.deployed_at,
        last_run=last.id if last else None,
        last_state=last.state if last else None,
        hook_made_at=hook,
    )


def _deployer(c: Connection, row: Row[Any]) -> Principal:
    kind = row.deployed_by.partition(":")[0]
    return Principal(
        kind=Kind(kind) if kind in list(Kind) else Kind.WORKLOAD,
        id=row.deployer_id,
        name=row.deployer_name,
        project_id=row.project_id,
        project=c.execute(select(projects.c.name).where(projects.c.id == row.project_id)).scalar_one(),
        role=Role(row.deployer_role),
        workload=None if kind in list(Kind) else row.deployed_by,
    )


def _spec_with(
    spec: RunSpec, parameters: Mapping[str, Json], trigger: str, partitions: Sequence[str] | None
) -> RunSpec:
    return replace(spec, parameters=parameters, trigger=trigger, partitions=partitions)


def _moment_words(at: int, zone: str) -> dict[str, str]:
    """What ``{date}``, ``{hour}`` and ``{time}`` in a scheduled run's parameters mean: the moment it was due."""
    local = datetime.fromtimestamp(at / 1000, UTC).astimezone(ZoneInfo(zone))
    return {"{date}": local.date().isoformat(), "{hour}": f"{local:%H}", "{time}": local.isoformat()}


def _filled(value: Json, words: Mapping[str, str]) -> Json:
    if not isinstance(value, str):
        return value
    for word, meaning in words.items():
        value = value.replace(word, meaning)
    return value


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
