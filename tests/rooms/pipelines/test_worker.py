"""What a run's worker tells the journal at once, and what it lets gather."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from stratal.sdk.pipelines import authoring
from stratal.sdk.pipelines.doors import Doors
from stratal.sdk.pipelines.worker import Credential, Node, Worker

pytestmark = pytest.mark.fast


class Recorded(Doors):
    """Keeps what was asked, and answers that nothing is to be done."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "key", "p")
        self.pages: list[list[Any]] = []

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        self.pages.append(body["entries"])
        return {"decisions": []}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(Recorded(), "1", 1, 2, {}, tmp_path)


def told(worker: Worker) -> list[list[Any]]:
    assert isinstance(worker.doors, Recorded)
    return worker.doors.pages


def test_whoever_has_nothing_to_do_tells_at_once(worker: Worker) -> None:
    worker.entries.append({"do": "finish", "name": "a"})
    assert worker._tell()
    assert told(worker) == [[{"do": "finish", "name": "a"}]]


def test_while_there_is_work_what_is_to_be_told_gathers_for_a_moment(worker: Worker) -> None:
    @authoring.step
    def one() -> int:
        return 1

    worker.ready = deque([(Node("b", one, {}, []), 1, Credential("id", "secret"))])
    worker.entries.append({"do": "finish", "name": "a"})
    assert not worker._tell()
    worker.entries.append({"do": "finish", "name": "c"})
    assert not worker._tell()
    assert told(worker) == []
    assert worker.gathering is not None
    worker.gathering -= 1
    assert worker._tell()
    assert [len(page) for page in told(worker)] == [2]
    assert worker.gathering is None

    worker.entries.append({"do": "finish", "name": "d"})
    assert not worker._tell(), "the next moment begins anew"
    worker.entries.extend({"do": "finish", "name": str(number)} for number in range(250))
    assert worker._tell(), "a full page does not wait"
    worker.ready.clear()
    assert worker._tell(), "nor does anything once nothing is left to do"
    assert [len(page) for page in told(worker)] == [2, 250, 1]


def test_what_comes_after_an_end_is_asked_for_in_the_same_page(worker: Worker) -> None:
    @authoring.step
    def one(i: int) -> int:
        return i

    first, second = Node("a", one, {"i": 1}, []), Node("b", one, {"i": authoring.Handle(worker, "a")}, ["a"])
    worker.nodes = {"a": first, "b": second}
    worker.unended = dict(worker.nodes)
    first.state, first.started = "running", True
    end = {"do": "finish", "name": "a", "attempt": 1, "state": "succeeded", "output": 5}

    worker._foresee(first, {**end, "staged": True})
    worker._mark_ready()
    assert list(worker.entries) == [end], "a table that was staged may meet what others wrote meanwhile"
    worker.entries.clear()

    worker._foresee(first, dict(end))
    worker._mark_ready()
    start = {"do": "start", "name": "b", "arguments": {"i": 5}, "upon": ["a"]}
    assert list(worker.entries) == [end, start]

    worker._decide(first, {"name": "a", "decision": "ended", "state": "succeeded", "output": 6})
    worker._decide(second, {"name": "b", "decision": "wait"})
    worker.entries.clear()
    worker._mark_ready()
    assert list(worker.entries) == [{"do": "start", "name": "b", "arguments": {"i": 6}}]
