"""The journal through the platform's own door, the worker played by the test: fences, caching, tries, ends."""

import re
from collections.abc import Iterator
from json import loads
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from rooms.gateway.operations import CODE, CODE_SHA256, SNAPSHOT
from stratal.compute.tables import jobs
from stratal.data.pipelines.model import digest
from stratal.data.pipelines.tables import runs, steps
from stratal.identity.keys import Keys
from stratal.identity.master import load_or_create
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import keys as key_rows
from stratal.identity.tables import projects
from stratal.kernel.clock import system_clock
from wired import Wired

pytestmark = pytest.mark.fast

CALL = {"do": "call", "step": "s", "kind": "python", "code": "c1", "after": []}


class Worker:
    """A run of the project ``p`` and a job that is its worker."""

    def __init__(self, wired: Wired, keys: Keys, snapshot: str) -> None:
        self.wired = wired
        self._keys = keys
        self.base = "/api/v1/projects/p/pipelines/runs"
        asked = {"file": "main.py", "snapshot": snapshot, "pipeline": "nightly"}
        made = wired.ask("POST", self.base, wired.admin, json=asked)
        assert made.status == 201, made.body
        self.run: int = made.json()["id"]
        self.job = 0
        self.key = ""
        self.epoch = 0

    def hired(self) -> "Worker":
        """A job is queued as the run's worker, has its credential, and opens the journal."""
        database = self.wired.platform.database
        submitted = self.wired.ask("POST", "/api/v1/projects/p/jobs", self.wired.admin, json={"argv": ["w"]})
        self.job = submitted.json()["id"]

        def work(c: Any) -> str:
            c.execute(update(runs).where(runs.c.id == self.run).values(job_id=self.job))
            place = c.execute(select(projects.c.id).where(projects.c.name == "p")).scalar_one()
            who = Principal(Kind.SERVICE, "admin", "admin", place, "p", Role.EDITOR)
            return self._keys.insert_for_workload(c, who, place, f"job:{self.job}").token

        self.key = database.write_now(work)
        self.epoch = self.post("/open", {})["epoch"]
        return self

    def post(self, path: str, body: Any, status: int = 200, key: str | None = None) -> Any:
        answer = self.wired.ask("POST", f"{self.base}/{self.run}{path}", key or self.key, json=body)
        assert answer.status == status, answer.body
        return answer.json()

    def tell(self, *entries: dict[str, Any], watch: list[str] | None = None, status: int = 200) -> Any:
        body = {"epoch": self.epoch, "entries": list(entries), "watch": watch or []}
        answer = self.post("/journal", body, status)
        return answer["decisions"] if status == 200 else answer

    def begin(self, name: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Call and start a step; the decision on its start."""
        start = {"do": "start", "name": name, "arguments": arguments or {}}
        step = re.split(r"[\[@]", name)[0]
        decisions = self.tell({**CALL, "name": name, "step": step, **more}, start)
        assert isinstance(decisions[-1], dict)
        return decisions[-1]

    def finish(self, name: str, attempt: int, state: str = "succeeded", **more: Any) -> dict[str, Any]:
        (decision,) = self.tell({"do": "finish", "name": name, "attempt": attempt, "state": state, **more})
        assert isinstance(decision, dict)
        return decision

    def store(self, count: int) -> list[list[str]]:
        """Credentials for steps that are begun without asking: of each its part's name, id and secret."""
        found = self.post("/journal", {"epoch": self.epoch, "want": count})["store"]
        assert isinstance(found, list)
        return found

    def look(self, *names: str) -> list[list[str]]:
        """What is left of these steps with the code of `CALL`: the beginnings of the digests of what they were given."""
        pairs = [[name, CALL["code"]] for name in names]
        found = self.post("/journal", {"epoch": self.epoch, "look": pairs})["left"]
        assert isinstance(found, list)
        return found

    def shown(self) -> dict[str, Any]:
        answer = self.wired.ask("GET", f"{self.base}/{self.run}", self.wired.admin).json()
        assert isinstance(answer, dict)
        return answer

    def whoami(self, key: list[str]) -> int:
        return self.wired.ask("GET", "/api/v1/whoami", ".".join(key)).status


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("home"))
    made.project("p")
    pack = bytes.fromhex(CODE_SHA256) + len(CODE).to_bytes(8, "big") + CODE
    assert made.ask("POST", "/api/v1/projects/p/code/packs", made.admin, body=pack).status == 201
    yield made
    made.close()


@pytest.fixture
def worker(wired: Wired) -> Worker:
    snapshot = wired.ask("POST", "/api/v1/projects/p/code/snapshots", wired.admin, json=SNAPSHOT).json()["id"]
    master = load_or_create(wired.platform.settings.home.master_key)
    keys = Keys(wired.platform.database, master, system_clock)
    return Worker(wired, keys, snapshot).hired()


def test_a_step_runs_once_and_its_result_is_taken_by_the_next_run(wired: Wired, worker: Worker) -> None:
    first = worker.begin("a", {"x": 1})
    assert (first["decision"], first["attempt"]) == ("run", 1)
    assert worker.whoami(first["key"]) == 200
    assert worker.finish("a", 1, output={"y": 2})["state"] == "succeeded"
    assert worker.whoami(first["key"]) == 401, "its credential ends with it"
    again = worker.finish("a", 1, output={"y": 3})
    assert again["output"] == {"y": 2}, "what is told twice counts once"
    worker.tell({"do": "end", "state": "succeeded", "output": 7})
    assert (worker.shown()["state"], worker.shown()["output"]) == ("succeeded", 7)

    other = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    taken = other.begin("a", {"x": 1})
    assert (taken["state"], taken["output"]) == ("cached", {"y": 2})
    assert f"since run {worker.run}" in taken["reason"]
    assert other.begin("b", {"x": 1})["decision"] == "run"
    third = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    assert third.begin("a", {"x": 2})["decision"] == "run"
    assert third.shown()["steps"][0]["reason"] == "its arguments changed (x)"
    fourth = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    assert fourth.begin("a", {"x": 1}, code="c2")["decision"] == "run"
    assert fourth.shown()["steps"][0]["reason"] == "its code changed"
    fifth = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    assert fifth.begin("a", {"x": 1}, cache=False)["decision"] == "run"


def test_a_result_is_taken_by_what_does_the_same_under_another_name(wired: Wired, worker: Worker) -> None:
    """A fan-out whose first item is gone, a day that another run made; and twice the same stays twice."""
    for name, given in (("each", "one"), ("each[1]", "two"), ("each[2]", "two")):
        attempt = worker.begin(name, {"of": given})["attempt"]
        worker.finish(name, attempt, output=[given, name])
    other = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    taken = {name: other.begin(name, {"of": "two"}) for name in ("each@monday", "each[2]@monday")}
    assert [one["output"] for one in taken.values()] == [["two", "each[2]"], ["two", "each[1]"]]
    assert taken["each@monday"]["reason"] == (
        f"nothing it depends on has changed since run {worker.run}, where it was each[2]"
    )
    assert other.begin("each[3]@monday", {"of": "two"})["decision"] == "run", "both were taken"
    assert other.begin("each@tuesday", {"of": "three"})["decision"] == "run"
    assert other.begin("another", {"of": "one"})["decision"] == "run"
    assert other.begin("each[4]", {"of": "one"}, code="c2")["decision"] == "run"
    assert other.begin("each[5]", {"of": "one"}, cache=False)["decision"] == "run"
    assert other.begin("each[6]", {"of": "one"})["output"] == ["one", "each"]


def test_a_step_starts_in_the_page_that_ends_the_one_before_it_unless_that_came_out_otherwise(
    worker: Worker,
) -> None:
    worker.begin("u1", cache=False)
    worker.tell({**CALL, "name": "u2", "after": ["u1"], "cache": False})
    start = {"do": "start", "name": "u2", "arguments": {"i": 1}, "upon": ["u1"]}
    assert worker.tell(start)[0]["decision"] == "wait", "its end was not told"
    end = {"do": "finish", "name": "u1", "attempt": 1, "state": "succeeded", "output": 1}
    assert worker.tell({**end, "attempt": 7}, start)[1]["decision"] == "wait", (
        "an end that counts for nothing"
    )
    ended, begun = worker.tell(end, start)
    assert (ended["state"], begun["decision"], begun["attempt"]) == ("succeeded", "run", 1)
    ended, again = worker.tell(end, start)
    assert (ended["output"], again["decision"], again["attempt"]) == (1, "run", 2), "its answer was lost"
    assert worker.whoami(begun["key"]) == 401
    assert worker.tell({**end, "output": 2}, start)[1]["decision"] == "wait", "it was said otherwise before"


def test_a_step_began_when_its_process_did_not_when_it_was_granted(worker: Worker) -> None:
    worker.begin("late", cache=False)
    granted = worker.shown()["steps"][-1]["started_at"]
    worker.finish("late", 1, output=1, seconds_ago=3600)
    assert worker.shown()["steps"][-1]["started_at"] == granted, "never before it was granted"
    worker.begin("later", cache=False)
    worker.finish("later", 1, output=1, seconds_ago=0)
    step = worker.shown()["steps"][-1]
    assert step["started_at"] == step["ended_at"]


def settled(name: str, part: str, output: Any, **more: Any) -> dict[str, Any]:
    """The end of a step that was begun without asking, and that its worker has gone on from."""
    end = {
        "do": "finish",
        "name": name,
        "attempt": 1,
        "state": "succeeded",
        "output": output,
        "settled": True,
    }
    return {**end, "part": part, "arguments": {}, **more}


def test_what_a_worker_did_without_asking_is_told_later_and_counts(wired: Wired, worker: Worker) -> None:
    asks = worker.tell(
        {"do": "begin", "pipeline": f"new-{worker.run}"}, {**CALL, "name": "o1", "step": f"o{worker.run}"}
    )
    assert asks[0]["ask"] is False, "nothing is left of any such step"
    assert worker.look(f"o{worker.run}") == [[]]
    worker.tell({**CALL, "name": "o2"}, {**CALL, "name": "o3", "cache": False})
    (one, *first), (two, *second), (three, *third) = worker.store(3)
    assert {worker.whoami(key) for key in (first, second, third)} == {200}
    wired.ask("POST", "/api/v1/projects/p/buckets", wired.admin, json={"name": f"o-{worker.run}"})
    place = f"/api/v1/projects/p/buckets/o-{worker.run}/object?key=k"
    wired.ask("PUT", place, wired.admin, body=b"one")
    assert wired.ask("GET", place, ".".join(second)).status == 200

    page = [settled("o1", one, 1, log="a line"), settled("o2", two, 2, arguments={"x": 1}, began=1, ended=2)]
    page += [{"do": "start", "name": "o3", "arguments": {}, "part": three}]
    assert [told["decision"] for told in worker.tell(*page)] == ["noted"], (
        "only what is not settled is answered"
    )
    assert [worker.whoami(key) for key in (first, second, third)] == [401, 401, 200]
    o1, o2, o3 = worker.shown()["steps"]
    assert [(s["state"], s["output"], s["attempt"]) for s in (o1, o2)] == [
        ("succeeded", 1, 1),
        ("succeeded", 2, 1),
    ]
    assert o1["reason"] == o2["reason"] == "it has not run before"
    assert (o3["state"], o3["reason"]) == ("running", "it runs each time (cache=False)")
    assert o1["workload"] == f"job:{worker.job}/{one}"
    assert [read["name"] for read in o2["reads"]] == [f"o-{worker.run}/k"], "also what nobody was told before"
    assert o2["started_at"] == o2["ended_at"] == worker.shown()["started_at"], "never before the run began"
    worker.tell(settled("o1", one, "otherwise"), settled("o3", three, 3, attempt=2))
    assert worker.shown()["steps"][0]["output"] == 1, "what is told twice counts once"
    assert worker.shown()["steps"][2]["state"] == "running", "an attempt that there is not counts for nothing"
    worker.tell(settled("o3", "", 3))
    assert worker.shown()["steps"][2]["output"] == 3

    worker.tell({"do": "end", "state": "succeeded"})
    other = Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()
    begun, _ = other.tell(
        {"do": "begin", "pipeline": f"new-{worker.run}"}, {**CALL, "name": "o1", "step": f"o{worker.run}"}
    )
    assert begun["ask"] is True, "now there is"
    assert other.look(f"o{worker.run}", "another") == [[digest({})[:16]], []]
    assert other.begin("o1")["state"] == "cached"
    assert other.begin("o2", {"x": 1})["state"] == "cached"


def test_a_step_that_was_called_and_ended_in_one_page_is_as_any_other(wired: Wired, worker: Worker) -> None:
    told = [{**CALL, "name": name, "step": f"q{worker.run}"} for name in ("q1", "q2", "q3")]
    (one, *first), (two, *second) = worker.store(2)
    wired.ask("POST", "/api/v1/projects/p/buckets", wired.admin, json={"name": f"q-{worker.run}"})
    place = f"/api/v1/projects/p/buckets/q-{worker.run}/object?key=k"
    wired.ask("PUT", place, wired.admin, body=b"one")
    assert wired.ask("GET", place, ".".join(second)).status == 200
    page = [*told, settled("q3", two, {"y": 1}, arguments={"x": 1}, log="a line"), settled("q1", one, 7)]
    for _ in range(2):  # an answer may be lost
        worker.tell(*page)
        q1, q2, q3 = worker.shown()["steps"]
        assert [step["name"] for step in (q1, q2, q3)] == ["q1", "q2", "q3"], "in the order of their calls"
        assert (q1["state"], q1["output"], q2["state"], q3["output"]) == ("succeeded", 7, "waiting", {"y": 1})
        assert q1["reason"] == q3["reason"] == "it has not run before"
        assert q3["workload"] == f"job:{worker.job}/{two}"
        assert [read["name"] for read in q3["reads"]] == [f"q-{worker.run}/k"]
        assert [worker.whoami(key) for key in (first, second)] == [401, 401]
    assert worker.begin("q2")["decision"] == "run"
    assert worker.look(f"q{worker.run}") == [sorted(digest(given)[:16] for given in ({}, {"x": 1}))]
    worker.tell(settled("unknown", one, 1))
    assert len(worker.shown()["steps"]) == 3, "what was never called has no end"


def test_what_models_of_dbt_came_to_is_shown_and_told_as_events(wired: Wired, worker: Worker) -> None:
    clean = {
        "name": "clean",
        "kind": "model",
        "state": "succeeded",
        "table": "shop.clean",
        "reads": ["raw.orders"],
    }
    bad = {
        "name": "zones",
        "kind": "model",
        "state": "failed",
        "table": "shop.zones",
        "reads": ["shop.clean"],
    }
    models = [{**clean, "sql": 'select 1 as id from "raw"."orders"', "seconds": 0.5}, {**bad, "words": "no"}]
    worker.begin("shop", kind="dbt", cache=False)
    assert worker.finish("shop", 1, "failed", error="zones: no", models=models)["state"] == "failed"
    (step,) = worker.shown()["steps"]
    assert step["models"] == [
        {**clean, "seconds": 0.5, "words": ""},
        {**bad, "seconds": 0.0, "words": "no"},
    ]
    worker.tell({"do": "end", "state": "failed"})
    answer = wired.ask("GET", f"{worker.base}/{worker.run}/openlineage", wired.admin)
    events = {event["job"]["name"]: event for event in map(loads, answer.body.splitlines())}
    assert [one["name"] for one in events["nightly.shop.zones"]["inputs"]] == ["shop.clean"]
    assert events["nightly.shop.zones"]["eventType"] == "FAIL"
    parent = events["nightly.shop.zones"]["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == events["nightly.shop"]["run"]["runId"]


def test_a_failed_attempt_that_was_begun_without_asking_is_tried_again(worker: Worker) -> None:
    worker.tell({**CALL, "name": "f", "retries": 1})
    (part, *key), (_, *unused) = worker.store(2)
    failed = {**settled("f", part, None), "state": "failed", "error": "boom", "settled": False}
    assert worker.tell(failed)[0]["decision"] == "again"
    assert worker.whoami(key) == 401
    assert worker.begin("f")["attempt"] == 2
    worker.tell({"do": "end", "state": "failed"})
    assert worker.whoami(unused) == 401, "the store ends with the run"


def test_what_a_killed_worker_had_noted_counts_when_the_next_opens(worker: Worker) -> None:
    worker.tell(*({**CALL, "name": name, "cache": False} for name in ("n1", "n2", "n3")))
    (one, *_), (two, *second), (three, *third) = worker.store(3)
    worker.tell({"do": "start", "name": "n2", "arguments": {}, "part": two})
    worker.tell({"do": "start", "name": "n3", "arguments": {}, "part": three})
    noted = [settled("n1", one, 1), settled("n2", two, 2)]
    for _ in range(2):  # an answer may be lost
        opened = worker.post("/open", {"noted": noted})
    worker.epoch = opened["epoch"]
    assert {step["name"]: step["output"] for step in opened["steps"]} == {"n1": 1, "n2": 2}
    assert opened["tried"] == ["n3"], "another attempt of it is asked for"
    assert (worker.whoami(second), worker.whoami(third)) == (401, 401)
    names = [step["name"] for step in worker.shown()["steps"]]
    (four, *fourth) = worker.store(1)[0]
    called = [{**CALL, "name": name, "cache": False} for name in ("n4", "n5")]
    opened = worker.post("/open", {"noted": [*called, settled("n5", four, 5, arguments={"x": 1})]})
    worker.epoch = opened["epoch"]
    assert {step["name"]: step["output"] for step in opened["steps"]}["n5"] == 5, (
        "also where no call was told"
    )
    assert worker.whoami(fourth) == 401
    assert [step["name"] for step in worker.shown()["steps"]] == [*names, "n4", "n5"]
    worker.tell(settled("n3", three, "late"))
    assert worker.begin("n3")["attempt"] == 2
    assert worker.finish("n3", 2, output=3)["output"] == 3


def test_a_worker_that_was_replaced_is_refused_and_its_steps_are_taken_from_it(worker: Worker) -> None:
    first = worker.begin("fence", {"n": 1})
    old = worker.epoch
    worker.epoch = worker.post("/open", {})["epoch"]
    assert worker.epoch == old + 1
    assert worker.whoami(first["key"]) == 401, "what the first attempt may still do is nothing"
    second = worker.begin("fence", {"n": 1})
    assert (second["decision"], second["attempt"]) == ("run", 2)
    late = worker.finish("fence", 1, output="late")
    assert late["decision"] == "noted"
    new, worker.epoch = worker.epoch, old
    refused = worker.tell({"do": "finish", "name": "fence", "attempt": 2, "state": "succeeded"}, status=409)
    assert refused["error"]["code"] == "superseded"
    worker.epoch = new
    assert worker.finish("fence", 2, output="right")["output"] == "right"
    opened = worker.post("/open", {})
    assert [(step["name"], step["output"]) for step in opened["steps"]] == [("fence", "right")]


def test_a_lost_answer_is_asked_again(worker: Worker) -> None:
    first = worker.begin("lost")
    second = worker.begin("lost")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert worker.whoami(first["key"]) == 401
    assert worker.whoami(second["key"]) == 200
    assert len(worker.shown()["steps"]) == 1


def test_tries_are_counted_and_the_run_can_be_taken_up_again(wired: Wired, worker: Worker) -> None:
    assert worker.begin("good")["attempt"] == 1
    worker.finish("good", 1, output=1)
    assert worker.begin("bad", retries=1)["attempt"] == 1
    again = worker.finish("bad", 1, "failed", error="boom", log="a line")
    assert (again["decision"], again["seconds"]) == ("again", 1.0)
    assert worker.begin("bad")["attempt"] == 2
    assert worker.finish("bad", 2, "failed", error="boom again")["state"] == "failed"
    skipped = worker.tell(
        {**CALL, "name": "next"}, {"do": "skip", "name": "next", "reason": "bad failed before it"}
    )
    assert skipped[-1]["state"] == "skipped"
    assert worker.begin("left")["decision"] == "run"
    worker.tell({"do": "end", "state": "failed", "reason": "bad failed"})
    shown = worker.shown()
    assert {step["name"]: step["state"] for step in shown["steps"]} == {
        "good": "succeeded", "bad": "failed", "next": "skipped", "left": "cancelled",
    }  # fmt: skip
    log = wired.ask("GET", f"{worker.base}/{worker.run}/steps/bad/log", wired.admin).json()
    assert log["log"] == "a line"
    worker.tell(status=409)

    assert wired.ask("POST", f"{worker.base}/{worker.run}/retry", wired.admin).status == 200
    states = {step["name"]: step["state"] for step in worker.shown()["steps"]}
    assert states == {"good": "succeeded", "bad": "waiting", "next": "waiting", "left": "waiting"}
    worker.hired()
    assert worker.begin("good")["state"] == "succeeded"
    assert worker.begin("bad")["attempt"] == 3
    worker.finish("bad", 3)
    worker.tell({"do": "end", "state": "succeeded"})
    assert wired.ask("POST", f"{worker.base}/{worker.run}/retry", wired.admin).status == 409


def test_cancelling_ends_every_credential(wired: Wired, worker: Worker) -> None:
    first = worker.begin("c")
    assert wired.ask("POST", f"{worker.base}/{worker.run}/cancel", wired.admin).json()["state"] == "cancelled"
    assert worker.whoami(first["key"]) == 401
    worker.tell(status=409)
    assert worker.shown()["steps"][0]["state"] == "cancelled"


def test_only_the_worker_and_the_step_speak(wired: Wired, worker: Worker) -> None:
    worker.begin("s")
    editor = wired.key("p", "editor")
    worker.post("/open", {}, 409, editor)
    worker.post("/journal", {"epoch": worker.epoch}, 409, editor)
    worker.post("/steps/s/begin", {}, 409, editor)
    path = f"{worker.base}/{worker.run}/steps/s/tables/a.b?attempt=1&number=1"
    assert wired.ask("PUT", path, editor, body=b'{"x": 1}').status == 409
    assert wired.ask("PUT", path, worker.key, body=b'{"x": 1}').status == 409


def test_a_result_is_not_taken_when_what_was_read_or_written_is_gone(wired: Wired, worker: Worker) -> None:
    """What lineage saw, not what was declared: an object that the step's credential read."""
    database = wired.platform.database
    key = worker.begin("reader")["key"]
    wired.ask("POST", "/api/v1/projects/p/buckets", wired.admin, json={"name": f"b-{worker.run}"})
    place = f"/api/v1/projects/p/buckets/b-{worker.run}/object?key=k"
    wired.ask("PUT", place, wired.admin, body=b"one")
    assert wired.ask("GET", place, ".".join(key)).body == b"one"
    worker.finish("reader", 1, output=1)
    (read,) = worker.shown()["steps"][0]["reads"]
    assert read["name"] == f"b-{worker.run}/k"

    def next_run() -> Worker:
        return Worker(wired, worker._keys, worker.shown()["snapshot"]).hired()

    assert next_run().begin("reader")["state"] == "cached"
    wired.ask("PUT", place, wired.admin, body=b"two")
    other = next_run()
    assert other.begin("reader")["decision"] == "run"
    assert other.shown()["steps"][0]["reason"] == f"b-{worker.run}/k has changed"
    live = select(key_rows.c.id).where(key_rows.c.workload.like("job:%/%"), key_rows.c.revoked_at.is_(None))
    assert database.read_now(lambda c: len(c.execute(live).all())) >= 1


def test_many_steps_fit_in_a_page_and_too_many_are_refused(worker: Worker) -> None:
    calls = [{**CALL, "name": f"m[{i}]"} for i in range(500)]
    starts = [{"do": "start", "name": f"m[{i}]", "arguments": {"i": i}} for i in range(500)]
    assert len(worker.tell(*calls)) == 500
    assert {decision["decision"] for decision in worker.tell(*starts)} == {"run"}
    database = worker.wired.platform.database
    row = database.read_now(
        lambda c: c.execute(select(steps).where(steps.c.run_id == worker.run)).mappings().first()
    )
    filler = [{**dict(row), "id": None, "name": f"x{i}"} for i in range(19_600)]
    for one in filler:
        del one["id"]
    database.write_now(lambda c: c.execute(insert(steps), filler))
    worker.tell({**CALL, "name": "too many"}, status=400)
    assert (
        database.read_now(lambda c: c.execute(select(jobs.c.id).where(jobs.c.id == worker.job)).scalar())
        == worker.job
    )
