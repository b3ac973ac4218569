"""A run's worker: what it does without asking, what it asks together, and what of it stands where when it is killed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratal.data.pipelines import model
from stratal.gateway.native.pipelines import Page
from stratal.sdk.pipelines import authoring, journal
from stratal.sdk.pipelines import worker as worker_module
from stratal.sdk.pipelines.doors import Doors
from stratal.sdk.pipelines.local import LocalLake
from stratal.sdk.pipelines.telling import MOST, Untold
from stratal.sdk.pipelines.values import Table, digest
from stratal.sdk.pipelines.worker import Worker, is_among


class Platform(Doors):
    """Keeps what it was told, grants what is asked for, and says that nothing is left from before unless of `left`."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "key", "p")
        self.pages: list[list[dict[str, Any]]] = []
        self.left: dict[str, Any] = {}
        self.made = 0
        self.seen: Path | None = None

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        self.pages.append(body["entries"])
        decisions = []
        for entry in body["entries"]:
            told = {"name": entry["name"]}
            match entry["do"]:
                case "call":
                    decisions.append({**told, "decision": "noted"})
                case "start" if "part" in entry:
                    if self.seen is not None:
                        self.seen.touch()
                    decisions.append({**told, "decision": "noted"})
                case "start" if self.left.get(entry["name"].partition("[")[0]) is not None:
                    ended = {"decision": "ended", "state": "cached", "output": self.left[entry["name"]]}
                    decisions.append({**told, **ended})
                case "start":
                    decisions.append({**told, "decision": "run", "attempt": 2, "key": self.key()[1:]})
                case "skip":
                    decisions.append({**told, "decision": "ended", "state": "skipped"})
                case "finish" if not entry.get("settled"):
                    ended = {"state": entry["state"], "output": entry.get("output")}
                    decisions.append({**told, "decision": "ended", **ended})
        given = [digest({"i": i})[:16] for i in range(400)]
        left = [given if step in self.left else [] for step, _ in body["look"]]
        return {"decisions": decisions, "store": [self.key() for _ in range(body["want"])], "left": left}

    def key(self) -> list[str]:
        self.made += 1
        return [f"part{self.made:06}", f"id{self.made}", f"secret{self.made}"]

    def told(self, do: str) -> list[dict[str, Any]]:
        return [entry for page in self.pages for entry in page if entry["do"] == do]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    own = {"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "hidden", "STRATAL_API_KEY": "own.hidden"}
    for name, value in {**own, "STRATAL_URL": "http://127.0.0.1:1", "STRATAL_PROJECT": "p"}.items():
        monkeypatch.setenv(name, value)
    made = Worker(Platform(), "1", 1, 2, {}, tmp_path, journal.Journal(tmp_path, 1))
    monkeypatch.setattr(authoring, "_running", [made])
    yield made
    made.kill_all()
    made.journal.close()


def platform(worker: Worker) -> Platform:
    assert isinstance(worker.doors, Platform)
    return worker.doors


@authoring.step
def more(i: int) -> int:
    return i + 1


@authoring.step
def who() -> dict[str, Any]:
    return {"pid": os.getpid(), "key": os.environ["STRATAL_API_KEY"], "step": os.environ["STRATAL_STEP"]}


@authoring.step
def leaving(what: str) -> int:
    if what == "environment":
        os.environ["LEFT"] = "behind"
    if what == "process":
        os.spawnlp(os.P_WAIT, "true", "true")
    if what == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return os.getpid()


@authoring.step
def broken(how: str) -> int:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("no")


def test_a_chain_goes_on_from_the_disk_and_is_told_later(worker: Worker, tmp_path: Path) -> None:
    last: Any = 0
    for _ in range(20):
        last = more(last)
    assert worker.result(last) == 20
    noted = [(entry["do"], entry["name"]) for entry in journal.left_in(tmp_path)]
    ends = [entry for entry in journal.left_in(tmp_path) if entry["do"] == "finish"]
    assert [end["output"] for end in ends] == list(range(1, 21))
    assert [end["arguments"] for end in ends] == [{"i": i} for i in range(20)]
    assert len({end["part"] for end in ends}) == 20, "each under a credential of its own"
    worker.finish()
    told = platform(worker).told("finish")
    assert told == ends
    assert all(end["settled"] for end in told)
    assert not platform(worker).told("start"), "there was nothing to ask"
    names = ["more", *(f"more[{number}]" for number in range(1, 20))]
    pages = [(entry["do"], entry["name"]) for page in platform(worker).pages for entry in page]
    assert [name for do, name in pages if do == "call"] == names, "in their order, each once"
    assert all(pages.index(("call", name)) < pages.index(("finish", name)) for name in names)
    early = [
        name for name in names if ("call", name) in noted
    ]  # the others were told before their ends were noted
    assert all(noted.index(("call", name)) < noted.index(("finish", name)) for name in early)
    assert len(platform(worker).pages) < 20


def test_what_is_left_from_before_is_asked_for_together(worker: Worker) -> None:
    platform(worker).left = {"more": None} | {f"more[{i}]": i + 1 for i in range(400)}
    platform(worker).left["more"] = 1
    handles = [worker.call(more, {"i": i}, i) for i in range(400)]
    worker.finish()
    assert [worker.result(handle) for handle in handles] == list(range(1, 401))
    assert len(platform(worker).pages) <= 5
    (most,) = [rule.max_length for rule in Page.model_fields["entries"].metadata]
    assert max(len(page) for page in platform(worker).pages) <= most, "what the platform takes in one page"
    assert platform(worker).made == 0 or not platform(worker).told("finish")
    assert not worker.processes


def test_steps_share_a_process_and_never_a_credential(worker: Worker) -> None:
    worker.parallel = 1
    seen = [who().result() for _ in range(3)]
    assert len({one["pid"] for one in seen}) == 1
    assert len({one["key"] for one in seen}) == 3
    assert not any("own" in one["key"] or "hidden" in one["key"] for one in seen)
    assert [one["step"] for one in seen] == ["who", "who[1]", "who[2]"]


@pytest.mark.parametrize("what", ["environment", "thread", "process"])
def test_whoever_leaves_something_behind_is_the_last_of_its_process(worker: Worker, what: str) -> None:
    worker.parallel = 1
    first, second, third = leaving("nothing").result(), leaving(what).result(), leaving("nothing").result()
    assert first == second != third
    (out,) = [entry["name"] for entry in platform(worker).told("start")] or [""]
    assert out == ("leaving[1]" if what == "process" else ""), "told before it is let out"
    if what == "process":
        names = [(entry["do"], entry["name"]) for page in platform(worker).pages for entry in page]
        assert names.index(("finish", "leaving")) < names.index(("start", "leaving[1]"))
        (end,) = [one for one in platform(worker).told("finish") if one["name"] == "leaving[1]"]
        assert not end.get("settled"), "its end is the platform's to decide"


@pytest.mark.parametrize("handed", [True, False])
def test_a_query_comes_after_what_may_write_its_tables_and_is_given_no_more_of_it(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, handed: bool
) -> None:
    monkeypatch.setattr(worker_module, "PlatformLake", lambda *_: LocalLake(tmp_path / "lake"))

    @authoring.step
    def raw() -> dict[str, Any]:
        return {"rows": 3, "made": [Table("raw.trips", "7"), Table("raw.other", "8")]}

    refers = "select * from {{ ref('raw.trips') }}"
    daily = authoring.sql_step(refers, into="mart.daily")
    top = authoring.sql_step("select 1 from {{ ref('mart.daily') }}", name="top")
    trips = raw()
    more(1)
    daily(trips) if handed else daily()
    top()
    authoring.sql_step("select 1", name="alone")()
    calls = {entry["name"]: entry["after"] for entry in worker.untold.page(calls=True)}
    assert calls["mart_daily"] == (["raw"] if handed else ["raw", "more"])
    assert (calls["top"], calls["alone"]) == (["mart_daily"], [])
    worker.finish()
    (told,) = [one for one in platform(worker).told("finish") if one["name"] == "mart_daily"]
    whole = {
        "rows": 3,
        "made": [{"$table": "raw.trips", "snapshot": "7"}, {"$table": "raw.other", "snapshot": "8"}],
    }
    assert told["arguments"]["after"] == ([whole, whole] if handed else [whole["made"][0]])


@pytest.mark.parametrize("how", ["killed", "raised"])
def test_a_step_that_fails_fails_alone(worker: Worker, how: str) -> None:
    worker.parallel = 1
    good, bad, after = more(1), broken(how), more(3)
    worker.finish()
    assert (worker.result(good), worker.result(after)) == (2, 4)
    with pytest.raises(authoring.StepFailed):
        worker.result(bad)
    (end,) = [one for one in platform(worker).told("finish") if one["name"] == "broken"]
    assert end["error"] == {"killed": "its process ended with signal 9", "raised": "ValueError: no"}[how]
    assert end["arguments"] == {"how": how}, "its start was not told"


def test_an_attempt_after_the_first_is_asked_for(worker: Worker) -> None:
    worker.tried = frozenset({"more"})
    assert more(1).result() == 2
    assert [entry["name"] for entry in platform(worker).told("start")] == ["more"]
    assert journal.left_in(worker.root)[-1]["attempt"] == 2


def test_what_has_been_done_for_a_while_is_shown(worker: Worker, tmp_path: Path) -> None:
    seen = platform(worker).seen = tmp_path / "seen"

    @authoring.step
    def slow() -> int:
        deadline = time.monotonic() + 60
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return 1

    slow()
    worker.finish()
    (start,) = platform(worker).told("start")
    (end,) = platform(worker).told("finish")
    assert (start["name"], start["part"]) == ("slow", end["part"])
    assert end["ended"] >= end["began"] == start["began"]


def test_what_was_given_otherwise_before_is_not_asked_for(worker: Worker) -> None:
    platform(worker).left = {"more": 1}
    last: Any = 1000
    for _ in range(10):
        last = more(last)
    worker.finish()
    assert worker.result(last) == 1010
    assert not platform(worker).told("start"), "nothing is left of what was given these"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fast
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), PLAIN, max_size=3))
def test_what_was_given_the_same_is_always_asked_for(arguments: dict[str, Any]) -> None:
    left = frozenset({model.digest(model.without_moments(arguments))[:16]})
    assert is_among(left, arguments)
    assert not is_among(frozenset(), arguments)


@pytest.mark.fast
def test_a_journal_is_read_up_to_what_was_torn(tmp_path: Path) -> None:
    first = journal.Journal(tmp_path, 9)
    first.note([{"name": "a", "output": "ä\n"}, {"name": "b"}])
    first.sync()
    second = journal.Journal(tmp_path, 10)
    second.note([{"name": "c"}])
    whole = first.path.read_bytes()
    assert [entry["name"] for entry in journal.left_in(tmp_path)] == ["a", "b", "c"]
    for torn in (whole[:-5], whole[:-9] + b"\0" * 9, whole.replace(b'"b"', b'"x"')):
        first.path.write_bytes(torn)
        assert [entry["name"] for entry in journal.left_in(tmp_path)] == ["a", "c"]
    journal.forget(tmp_path)
    assert journal.left_in(tmp_path) == []
    first.close()
    second.close()


@pytest.mark.fast
def test_calls_are_told_and_noted_in_their_order_and_once() -> None:
    untold = Untold()
    for number in range(6):
        untold.call({"do": "call", "name": f"s{number}"})
    noted = [
        entry["name"] for end in ("s3", "s1", "s5") for entry in untold.to_note({"name": end, "do": "finish"})
    ]
    assert noted == ["s0", "s1", "s2", "s3", "s3", "s1", "s4", "s5", "s5"]
    untold.add({"do": "finish", "name": "s1"})
    page = untold.page(calls=False)
    assert [(entry["do"], entry["name"]) for entry in page] == [
        ("call", "s0"),
        ("call", "s1"),
        ("finish", "s1"),
    ]
    untold.note_again()
    again = [entry["name"] for entry in untold.to_note({"name": "s3", "do": "finish"})]
    assert again == ["s2", "s3", "s3"], "what was told needs no note"
    assert [entry["name"] for entry in untold.page(calls=True)] == ["s2", "s3", "s4", "s5"]
    assert not untold
    for number in range(3 * MOST):
        untold.call({"do": "call", "name": f"t{number}"})
    untold.add({"do": "start", "name": f"t{2 * MOST}"})
    pages = [untold.page(calls=False) for _ in range(3)]
    assert [len(page) for page in pages] == [MOST, MOST, 2]
    assert pages[2][-1]["do"] == "start"
