"""Signed deliveries run a pipeline: once each, in their time, with the secret that holds; and runs that would overlap."""

import asyncio
import base64
import hmac
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from rooms.pipelines.test_deployed import Place, at
from stratal.data.pipelines.tables import runs
from stratal.kernel.clock import system_clock
from stratal.kernel.schedules import due_after
from wired import Answer, Wired


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def signature(secret: str, id_: str, at: int, body: bytes) -> str:
    """As the Standard Webhooks specification has it, written down a second time."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, b"%s.%d.%s" % (id_.encode(), at, body), "sha256").digest()
    return "v1," + base64.b64encode(mac).decode()


class Sender:
    def __init__(self, place: Place, name: str, secret: str) -> None:
        self.place, self.name, self.secret = place, name, secret

    def __call__(self, id_: str, body: bytes = b"{}", *, late: int = 0, **headers: str) -> Answer:
        at = system_clock() // 1000 - late
        given = {
            "webhook-id": id_,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(self.secret, id_, at, body),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        path = f"/hooks/{self.place.base.rpartition('/')[2]}/{self.name}"
        return self.place.wired.ask("POST", path, body=body, headers=given)


def hook(place: Place, name: str = "p", **body: Any) -> Sender:
    path = f"{place.base}/pipelines/deployed/{name}/hook"
    answer = place.wired.ask("POST", path, place.wired.admin, json=body)
    assert answer.status == 200, answer.body
    assert answer.json()["url"].endswith(f"/hooks/{place.base.rpartition('/')[2]}/{name}")
    return Sender(place, name, answer.json()["secret"])


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    from stratal.data.pipelines.hooks import signed

    body = b'{"test": 2432232314}'
    made = signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert base64.b64encode(made) == b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_delivery_runs_it_once_however_often_it_comes(wired: Wired) -> None:
    place = Place(wired, "hooked")
    place.deploy(parameters={"a": 1, "b": 1}, overlap="together")
    send = hook(place)
    body = b'{"parameters": {"b": 2}, "partitions": ["x"], "more": "is passed over"}'
    first = send("m1", body)
    assert (first.status, first.json()["again"]) == (202, False)
    again = send("m1", body)
    assert (again.status, again.json()) == (200, {"run": first.json()["run"], "again": True})
    (run,) = place.runs()
    assert (run.trigger, run.parameters, run.partitions) == ("webhook m1", '{"a":1,"b":2}', '["x"]')
    assert send("m2", b"").status == 202
    assert send("m3", b"nonsense").status == 400
    assert send("m4", b'{"partitions": "x"}').status == 400
    assert len(place.runs()) == 2


def test_what_is_not_signed_of_another_time_or_by_an_old_secret_is_refused(wired: Wired) -> None:
    place = Place(wired, "refused")
    place.deploy(overlap="together")
    send = hook(place)
    bad = [
        send("m1", webhook_signature="v1,AAAA"),
        send("m1", webhook_signature=""),
        send("m1", webhook_timestamp="12"),
        send("m1", webhook_id="m2"),
        Sender(place, "other", send.secret)("m1"),
        Sender(Place(wired, "elsewhere"), "p", send.secret)("m1"),
    ]
    assert [answer.status for answer in bad] == [401] * 6
    codes = {answer.json()["error"]["code"] for answer in bad}
    assert codes == {"bad_signature", "no_signature"}, "and nothing is told of what there is"
    assert send("m1", late=301).json()["error"]["code"] == "stale_delivery"
    assert send("m1", late=-301).json()["error"]["code"] == "stale_delivery"
    assert place.runs() == []
    second = hook(place, grace_seconds=3600)
    assert send("m5").status == 202, "the secret before holds for a while"
    assert second("m6").status == 202
    third = hook(place, grace_seconds=0)
    assert [s("m7").status for s in (send, second, third)] == [401, 401, 202]
    left = "update pipeline_hooks set made_by = 'person:gone' where name = 'p'"
    wired.platform.database.write_now(lambda c: c.exec_driver_sql(left))
    assert third("m8").status == 401, "who was told the secret has left"
    third = hook(place, grace_seconds=3600)
    assert third("m9").status == 202
    assert second("m9").status == 401
    (listed,) = wired.ask("GET", f"{place.base}/pipelines", wired.admin).json()["pipelines"]
    assert listed["hook_made_at"] is not None
    assert b"whsec" not in wired.ask("GET", f"{place.base}/pipelines", wired.admin).body
    assert wired.ask("DELETE", f"{place.base}/pipelines/deployed/p/hook", wired.admin).status == 204
    assert third("m10").status == 401


def test_the_rules_for_runs_that_would_overlap(wired: Wired) -> None:
    place = Place(wired, "rules")
    senders = {}
    for rule in ("queue", "skip", "cancel", "together"):
        place.deploy(rule, overlap=rule)
        senders[rule] = hook(place, rule)
        senders[rule]("first")
    skipped = senders["skip"]("second")
    assert (skipped.status, skipped.json()["run"]) == (202, None)
    assert senders["skip"]("second").json() == {"run": None, "again": True}
    for rule in ("queue", "cancel", "together"):
        assert senders[rule]("second").json()["run"] is not None
    states = {rule: [run.state for run in place.runs() if run.pipeline == rule] for rule in senders}
    assert states == {
        "queue": ["queued", "queued"],
        "skip": ["queued"],
        "cancel": ["cancelled", "queued"],
        "together": ["queued", "queued"],
    }
    ended = next(run for run in place.runs() if run.state == "cancelled")
    assert ended.reason == "webhook second took its place"


def test_runs_of_one_pipeline_take_turns(wired: Wired) -> None:
    from stratal.data.pipelines.upkeep import Upkeep

    place = Place(wired, "turns")
    place.deploy("p")
    send = hook(place)
    first, second = send("one").json()["run"], send("two").json()["run"]
    started: list[int] = []

    class Bare(Upkeep):
        async def _start_worker(self, run: Any) -> None:
            started.append(run.id)

        async def _most_workers(self) -> int:
            return 100

    upkeep = Bare(wired.platform.database, None, None, None)  # type: ignore[arg-type]
    asyncio.run(upkeep._look())
    assert first in started
    assert second not in started
    waiting = {run.id: run.reason for run in place.runs()}
    assert waiting[second] == f"waits for run {first} of the same pipeline"
    wired.ask("POST", f"{place.base}/pipelines/runs/{first}/cancel", wired.admin)
    asyncio.run(upkeep._look())
    assert second in started


def test_what_comes_late_makes_its_own_partitions_again_and_the_calendar_says_how_they_are(
    wired: Wired,
) -> None:
    place = Place(wired, "late")
    name = "late-landing"
    wired.ask("POST", f"{place.base}/buckets", wired.admin, json={"name": name})
    place.deploy(on_prefix=f"s3://{name}/in/", partition_of=r"day=(\d{4}-\d\d-\d\d)", overlap="together")
    place.look()

    def put(key: str) -> None:
        wired.ask("PUT", f"{place.base}/buckets/{name}/object?key={key}", wired.admin, body=b"x")

    put("in/day=2024-01-02/a")
    put("in/day=2024-01-02/b")
    put("in/day=2024-01-03/a")
    put("in/readme")
    assert place.look() == 1
    put("in/note")
    assert place.look() == 0, "what is of no partition makes none"
    put("in/day=2024-01-02/late")
    assert place.look() == 1
    first, second = place.runs()
    assert (first.partitions, second.partitions) == ('["2024-01-02","2024-01-03"]', '["2024-01-02"]')
    from sqlalchemy import update

    ended = {"state": "failed", "output": '{"failed_partitions": ["2024-01-02"]}', "ended_at": place.now}
    wired.platform.database.write_now(
        lambda c: c.execute(update(runs).where(runs.c.id == second.id).values(ended))
    )
    told = wired.ask("GET", f"{place.base}/pipelines/calendar/p", wired.admin).json()["partitions"]
    assert [(one["name"], one["state"], one["run"], one["times"]) for one in told] == [
        ("2024-01-02", "failed", second.id, 2),
        ("2024-01-03", "waiting", first.id, 1),
    ]
    for bad in ("(a+)+", "a|b", "(", "a*", "(?=x)", "x" * 201, "(a)(b)", ".*"):
        body = {"file": "m.py", "snapshot": place.snapshot, "on_prefix": f"s3://{name}/", "partition_of": bad}
        answer = wired.ask("PUT", f"{place.base}/pipelines/deployed/q", wired.admin, json=body)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_pattern"), bad


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [
        ("30 2 * * *", "2026-03-28T20:00", "2026-03-30T08:00"),  # Berlin: 02:30 is left out on the 29th
        ("30 2 * * *", "2026-10-24T20:00", "2026-10-26T08:00"),  # and comes twice on the 25th of October
        ("0 * * * *", "2026-10-24T20:00", "2026-10-25T06:00"),
    ],
)
def test_no_moment_is_doubled_or_lost_on_a_day_of_changed_clocks_over_jumps_and_restarts(
    wired: Wired, schedule: str, start: str, end: str
) -> None:
    place = Place(wired, f"days{schedule[:2].strip()}{start[5:7]}{end[11:13]}")
    place.now = at(start)
    place.deploy(schedule=schedule, timezone="Europe/Berlin", catch_up="all")
    minutes = itertools.cycle(
        [130, 47, -60, 23, 60, 310, -60, 60, 200]
    )  # an hour back, an hour ahead, and on
    furthest = place.now
    while furthest < at(end):
        place.now += next(minutes) * 60_000
        asyncio.run(place.fresh().look())
        furthest = max(furthest, place.now)
    fired = [run.trigger.removeprefix("schedule ") for run in place.runs()]
    moments = due_after(schedule, "Europe/Berlin", at(start))
    wanted = itertools.takewhile(lambda moment: moment <= furthest, moments)
    assert fired == [datetime.fromtimestamp(one / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for one in wanted]
    assert len(set(fired)) == len(fired) >= 2
