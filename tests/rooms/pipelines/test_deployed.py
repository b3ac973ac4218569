"""Deployed pipelines with a clock of the test's own: schedules over changed clocks, news, each moment once."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from rooms.gateway.operations import CODE, CODE_SHA256, SCHEMA, SNAPSHOT
from stratal.data.pipelines.deployed import Deployments
from stratal.data.pipelines.tables import runs
from stratal.kernel.errors import Invalid
from stratal.kernel.events import Events, emit
from stratal.kernel.schedules import due_after, next_due
from wired import Wired

pytestmark = pytest.mark.fast
HOUR = 3_600_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def said(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%m-%dT%H:%M")


class Place:
    """A project with one deployed pipeline after another, and a hand on the clock."""

    def __init__(self, wired: Wired, name: str) -> None:
        self.wired = wired
        self.project = wired.project(name)
        self.now = at("2026-03-01T00:00")
        self.base = f"/api/v1/projects/{name}"
        pack = bytes.fromhex(CODE_SHA256) + len(CODE).to_bytes(8, "big") + CODE
        wired.ask("POST", f"{self.base}/code/packs", wired.admin, body=pack)
        made = wired.ask("POST", f"{self.base}/code/snapshots", wired.admin, json=SNAPSHOT)
        self.snapshot = made.json()["id"]
        self.deployed = self.fresh()
        self.id = next(
            p["id"]
            for p in wired.ask("GET", "/api/v1/projects", wired.admin).json()["projects"]
            if p["name"] == name
        )

    def fresh(self) -> Deployments:
        """As after a restart: nothing but what is in the rows."""
        room = self.wired.platform.database
        unused: Any = None
        return Deployments(
            room, Events(room), unused, lambda: self.now, lambda: None, unused, lambda *_: None
        )

    def deploy(self, name: str = "p", **more: Any) -> Any:
        """Deploy through the door, then set the next moment as a clock of ours sees it."""
        body = {"file": "main.py", "snapshot": self.snapshot, **more}
        answer = self.wired.ask("PUT", f"{self.base}/pipelines/deployed/{name}", self.wired.admin, json=body)
        assert answer.status == 200, answer.body
        if more.get("schedule"):
            from sqlalchemy import update

            from stratal.data.pipelines.tables import pipelines

            due = next_due(more["schedule"], more.get("timezone", "UTC"), self.now)
            here = (pipelines.c.project_id == self.id) & (pipelines.c.name == name)
            self.wired.platform.database.write_now(
                lambda c: c.execute(update(pipelines).where(here).values(next_at=due))
            )
        return answer.json()

    def look(self, when: str | int | None = None) -> int:
        if when is not None:
            self.now = at(when) if isinstance(when, str) else when
        before = len(self.runs())
        asyncio.run(self.deployed.look())
        return len(self.runs()) - before

    def runs(self) -> list[Any]:
        query = select(runs).where(runs.c.project_id == self.id).order_by(runs.c.id)
        return self.wired.platform.database.read_now(lambda c: list(c.execute(query)))


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def test_schedules_on_the_days_on_which_clocks_change() -> None:
    def due(expression: str, zone: str, start: str, count: int) -> list[str]:
        moments = due_after(expression, zone, at(start))
        return [said(next(moments)) for _ in range(count)]

    # Berlin: 2026-03-29 02:00 → 03:00, 2026-10-25 03:00 → 02:00
    assert due("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00", 3) == [
        "03-28T01:30",
        "03-29T01:00",
        "03-30T00:30",
    ]
    assert due("30 2 * * *", "Europe/Berlin", "2026-10-23T12:00", 4) == [
        "10-24T00:30", "10-25T00:30", "10-26T01:30", "10-27T01:30",
    ]  # fmt: skip
    hourly = due("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", 4)
    assert hourly == ["10-25T00:00", "10-25T01:00", "10-25T02:00", "10-25T03:00"]
    for bad in ("* * * *", "61 * * * *", "0 0 30 2 *", "", "a b c d e"):
        with pytest.raises(Invalid):
            next_due(bad, "UTC", 0)
    with pytest.raises(Invalid, match="time zone"):
        next_due("0 3 * * *", "Mars/Olympus", 0)


def test_each_moment_is_fired_once_whatever_the_clock_does(wired: Wired) -> None:
    place = Place(wired, "clock")
    place.deploy(schedule="0 * * * *", catch_up="all", parameters={"day": "{date}", "hour": "{hour}", "n": 1})
    assert place.look("2026-03-01T00:59") == 0
    assert place.look("2026-03-01T01:00") == 1
    assert place.look("2026-03-01T01:00") == 0
    assert place.look("2026-03-01T00:05") == 0, "an hour back doubles nothing"
    assert place.look("2026-03-01T01:30") == 0
    assert place.look("2026-03-01T03:30") == 2, "an hour ahead, and none is lost"
    assert place.look("2026-03-01T04:00") == 1
    triggers = [run.trigger for run in place.runs()]
    assert triggers == [f"schedule 2026-03-01T0{hour}:00:00Z" for hour in (1, 2, 3, 4)]
    assert place.runs()[-1].parameters == '{"day":"2026-03-01","hour":"04","n":1}'


def test_what_was_missed_is_made_up_for_as_was_asked(wired: Wired) -> None:
    place = Place(wired, "missed")
    for how in ("none", "last", "all"):
        place.deploy(how, schedule="0 * * * *", catch_up=how)
    place.look("2026-03-01T05:30")
    counts = {how: sum(run.pipeline == how for run in place.runs()) for how in ("none", "last", "all")}
    assert counts == {"none": 0, "last": 1, "all": 5}
    assert place.look("2026-03-01T06:00:10") == 3


def test_two_who_look_at_once_fire_once(wired: Wired) -> None:
    place = Place(wired, "twice")
    place.deploy(schedule="0 3 * * *")
    place.now = at("2026-03-01T03:00")

    async def both() -> None:
        await asyncio.gather(*(place.deployed.look() for _ in range(5)))

    asyncio.run(both())
    assert len(place.runs()) == 1


def test_a_run_that_is_due_while_another_goes_on_may_be_left_out(wired: Wired) -> None:
    place = Place(wired, "overlap")
    place.deploy("skips", schedule="0 * * * *", overlap="skip")
    assert place.look("2026-03-01T01:00") == 1
    assert place.look("2026-03-01T02:00") == 0
    run = place.runs()[0].id
    wired.ask("POST", f"{place.base}/pipelines/runs/{run}/cancel", wired.admin)
    assert place.look("2026-03-01T03:00") == 1


def test_objects_and_snapshots_that_come_set_it_off(wired: Wired) -> None:
    place = Place(wired, "news")
    wired.ask("POST", f"{place.base}/buckets", wired.admin, json={"name": "news-data"})
    wired.ask("PUT", f"{place.base}/buckets/news-data/object?key=in/old", wired.admin, body=b"x")
    place.deploy("arrivals", on_prefix="s3://news-data/in/")
    assert place.look() == 0, "what was there is no news"
    wired.ask("PUT", f"{place.base}/buckets/news-data/object?key=out/x", wired.admin, body=b"x")
    assert place.look() == 0
    for key in ("in/a", "in/b"):
        wired.ask("PUT", f"{place.base}/buckets/news-data/object?key={key}", wired.admin, body=b"x")
    assert place.look() == 1
    assert place.runs()[-1].trigger == "object s3://news-data/in/a and 1 more"
    assert place.look() == 0
    wired.ask("POST", "/iceberg/v1/news/namespaces", wired.admin, json={"namespace": ["ns"]})
    wired.ask(
        "POST", "/iceberg/v1/news/namespaces/ns/tables", wired.admin, json={"name": "t", "schema": SCHEMA}
    )
    place.deploy("snapshots", on_table="ns.t")
    assert place.look() == 0
    from sqlalchemy import update

    from stratal.data.lake.tables import tables

    here = update(tables).where(tables.c.project_id == place.id).values(snapshot_id=77)
    wired.platform.database.write_now(lambda c: c.execute(here))
    assert place.look() == 1
    assert place.runs()[-1].trigger == "snapshot 77 of ns.t"
    assert place.look() == 0


def test_versions_of_models_and_runs_of_others_set_it_off(wired: Wired) -> None:
    place = Place(wired, "follow")
    database = wired.platform.database

    def told(kind: str, subject: str, name: str) -> None:
        database.write_now(lambda c: emit(c, kind, subject, actor="a", project_id=place.id, name=name))

    told("model_version.created", "mv_0", "churn/1")
    place.deploy("after-model", on_model="churn")
    place.deploy("after-nightly", on_pipeline="nightly")
    assert place.look() == 0, "what was there is no news"
    told("model_version.created", "mv_1", "churn-b/1")
    told("pipeline.failed", "7", "nightly")
    told("pipeline.replay_succeeded", "8", "nightly")
    assert place.look() == 0
    told("model_version.created", "mv_2", "churn/2")
    told("pipeline.succeeded", "9", "nightly")
    assert place.look() == 2
    assert {(run.pipeline, run.trigger) for run in place.runs()} == {
        ("after-model", "model churn/2"),
        ("after-nightly", "run 9 of nightly succeeded"),
    }
    assert place.look() == 0
    body = {"file": "main.py", "snapshot": place.snapshot, "on_pipeline": "after-nightly"}
    circle = wired.ask("PUT", f"{place.base}/pipelines/deployed/nightly", wired.admin, json=body)
    assert circle.status == 400
    assert "would set itself off: nightly → after-nightly → nightly" in circle.json()["error"]["message"]


def test_deploying_again_takes_the_place_and_undeploying_ends_it(wired: Wired) -> None:
    place = Place(wired, "again")
    assert place.deploy(parameters={"a": 1})["version"] == 1
    assert place.deploy(parameters={"a": 2}, schedule="0 3 * * *")["version"] == 2
    asked = {"parameters": {"b": 3}}
    run = wired.ask("POST", f"{place.base}/pipelines/deployed/p/runs", wired.admin, json=asked).json()
    assert (run["parameters"], run["trigger"]) == ({"a": 2, "b": 3}, "by name")
    (listed,) = wired.ask("GET", f"{place.base}/pipelines", wired.admin).json()["pipelines"]
    assert (listed["last_run"], listed["last_state"]) == (run["id"], "queued")
    assert wired.ask("DELETE", f"{place.base}/pipelines/deployed/p", wired.admin).status == 204
    assert place.look("2026-03-01T03:00") == 0
    assert wired.ask("POST", f"{place.base}/pipelines/deployed/p/runs", wired.admin, json={}).status == 404
    for bad in (
        {"schedule": "61 * * * *"},
        {"schedule": "0 3 * * *", "timezone": "Nowhere"},
        {"on_table": "a.b", "on_prefix": "s3://b/x"},
        {"on_prefix": "b/x"},
        {"on_model": "m", "on_pipeline": "q"},
        {"on_pipeline": "p"},
    ):
        body = {"file": "main.py", "snapshot": place.snapshot, **bad}
        answer = wired.ask("PUT", f"{place.base}/pipelines/deployed/p", wired.admin, json=body)
        assert answer.status == 400, bad
