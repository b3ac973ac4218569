"""Whatever is killed, endpoints answer again and what was predicted is still there."""

import os
import signal
import struct
import threading
from collections import Counter

import httpx
import pytest

from platform_server import wait_until
from stratal.engines.local.probe import try_bubblewrap
from stratal.engines.local.process import start_time

from .conftest import Stage


def test_the_server_is_killed_and_its_replicas_are_taken_over(stage: Stage) -> None:
    value, prediction_id = stage.answer("matrix", 1, 2, 3)
    before = stage.replica_pid("matrix")
    stage.server.kill()
    stage.server.up()
    assert stage.answer("matrix", 1, 2, 3)[0] == value
    assert stage.replica_pid("matrix") == before
    found = stage.prediction(prediction_id)
    assert found["intact"]
    assert found["outputs"][0]["data"] == [value]


def test_the_server_is_killed_under_load_and_every_id_given_out_is_explained(stage: Stage) -> None:
    given: list[tuple[float, str]] = []
    stop = threading.Event()

    def ask(start: float) -> None:
        row = start
        while not stop.is_set():
            try:
                answer = stage.invoke("moody", row, 1.0)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                given.append((row, answer.json()["prediction_id"]))
                row += 1

    threads = [threading.Thread(target=ask, args=(start,)) for start in (1_000.0, 2_000.0, 3_000.0)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            count = len(given)
            wait_until(lambda count=count: len(given) > count + 20)
            stage.server.kill()
            stage.server.up()
        wait_until(lambda: len(given) > 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len({prediction_id for _, prediction_id in given}) == len(given)
    for row, prediction_id in given:
        found = stage.prediction(prediction_id)
        assert found["intact"]
        assert found["inputs"][0]["data"] == [[row, 1]]
        assert found["outputs"][0]["data"] == [row + 1]


def test_the_keeper_is_killed_and_requests_do_not_notice(stage: Stage) -> None:
    value, _ = stage.answer("matrix", 1, 2, 3)
    stage.server.kill(stage.server.keeper_pid())
    assert stage.answer("matrix", 1, 2, 3)[0] == value
    stage.server.json("endpoint", "stop", "matrix")
    stage.server.json("endpoint", "start", "matrix")
    assert stage.answer("matrix", 1, 2, 3)[0] == value


def test_server_and_keeper_are_killed(stage: Stage) -> None:
    value, prediction_id = stage.answer("matrix", 1, 2, 3)
    stage.server.kill(stage.server.keeper_pid())
    stage.server.kill()
    stage.server.up()
    assert stage.answer("matrix", 1, 2, 3)[0] == value
    assert stage.prediction(prediction_id)["intact"]


def test_a_replica_is_killed_and_replaced(stage: Stage) -> None:
    value, _ = stage.answer("matrix", 1, 2, 3)
    os.kill(stage.replica_pid("matrix"), signal.SIGKILL)
    assert stage.answer("matrix", 1, 2, 3)[0] == value


def test_down_ends_the_replicas_and_after_up_the_first_request_wakes_one(stage: Stage) -> None:
    value, prediction_id = stage.answer("matrix", 1, 2, 3)
    pid = stage.replica_pid("matrix")
    stage.server.down()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    stage.server.up()
    assert stage.show("matrix")["state"] == "idle"
    assert stage.answer("matrix", 1, 2, 3)[0] == value
    assert stage.prediction(prediction_id)["intact"]


def test_at_zero_all_who_ask_are_answered_by_one_waking(stage: Stage) -> None:
    uri = str(stage.models["matrix"]["uri"])
    stage.server.json("deploy", uri, "--name", "sleepy", "--idle", "1s")
    stage.wait_state("sleepy", "idle")
    statuses: Counter[int] = Counter()
    threads = [
        threading.Thread(
            target=lambda: statuses.update([stage.invoke("sleepy", 1, 2, 3).status_code]), name=f"ask {n}"
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200: 12}
    box = try_bubblewrap()
    if box.users and box.network:  # else nothing dozes
        os.kill(stage.dozing_pid("sleepy"), signal.SIGKILL)
        assert stage.invoke("sleepy", 1, 2, 3).status_code == 200
        dozing = stage.dozing_pid("sleepy")
        born = start_time(dozing)
        stage.server.kill()
        wait_until(lambda: start_time(dozing) != born)  # nobody would ever wake it
        stage.server.up()
        assert stage.invoke("sleepy", 1, 2, 3).status_code == 200
    stage.server.cli("endpoint", "rm", "sleepy")
    assert stage.invoke("sleepy", 1, 2, 3).status_code == 404


def test_redeploying_under_load_loses_no_request(stage: Stage) -> None:
    answers: Counter[tuple[int, object]] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = stage.invoke("moody", 2.0, 3.0)
            answers[answer.status_code, answer.json().get("predictions", [None])[0]] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        made = stage.server.json(
            "deploy", str(stage.models["moodier"]["uri"]), "--name", "moody", timeout=400
        )
        assert (made["state"], made["model"], made["active"]["number"]) == ("ready", "moodier", 2)
        count = answers.total()
        wait_until(lambda: answers.total() > count + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {(200, 5.0)}


def test_replicas_are_killed_under_load_and_no_answer_is_wrong(stage: Stage) -> None:
    stage.server.json(
        "deploy",
        str(stage.models["moody"]["uri"]),
        "--name",
        "moody",
        "--min",
        "2",
        "--max",
        "2",
        timeout=400,
    )
    answers: Counter[int] = Counter()
    wrong: list[object] = []
    stop = threading.Event()

    def ask(start: int) -> None:
        row = start
        while not stop.is_set():
            row += 1
            answer = stage.invoke("moody", row, 1.0)
            answers[answer.status_code] += 1
            if answer.status_code == 200:
                if answer.json()["predictions"] != [row + 1]:
                    wrong.append(answer.json())
            elif answer.status_code != 503 or not answer.headers["retry-after"].isdigit():
                wrong.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=ask, args=(start,)) for start in (10_000, 20_000, 30_000, 40_000)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            count = answers[200]
            wait_until(lambda count=count: answers[200] > count + 10)
            os.kill(stage.replica_pid("moody"), signal.SIGKILL)
        count = answers[200]
        wait_until(lambda count=count: answers[200] > count + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert answers[200] > 40


def test_a_model_whose_library_is_not_in_its_environment_fails_and_the_old_one_goes_on(stage: Stage) -> None:
    value, _ = stage.answer("matrix", 1, 2, 3)
    failed = stage.server.cli(
        "deploy", str(stage.models["bare"]["uri"]), "--name", "matrix", check=False, timeout=400
    )
    assert failed.returncode == 1
    assert "No module named 'sklearn'" in failed.stderr
    assert stage.answer("matrix", 1, 2, 3)[0] == value
    shown = stage.show("matrix")
    assert (shown["state"], shown["latest"]["state"]) == ("ready", "failed")


def test_a_request_that_kills_its_replica_is_refused_and_the_next_one_answered(stage: Stage) -> None:
    refused = stage.invoke("moody", -1, 0)
    assert refused.status_code == 503
    assert refused.headers["retry-after"].isdigit()
    assert stage.answer("moody", 2, 3)[0] == 5


def test_a_model_that_fails_says_so_and_goes_on(stage: Stage) -> None:
    failed = stage.invoke("moody", -3, 0)
    assert failed.status_code == 500
    assert "no mood for -3" in failed.json()["error"]["message"]
    assert stage.answer("moody", 2, 3)[0] == 5


def test_an_altered_row_of_the_spool_is_said_to_be_broken(stage: Stage) -> None:
    _, prediction_id = stage.answer("matrix", 123.25, 2, 3)
    needle = struct.pack("<3d", 123.25, 2, 3)
    segment = next(path for path in (stage.server.home / "spool").iterdir() if needle in path.read_bytes())
    stored = bytearray(segment.read_bytes())
    at = stored.index(needle)
    stored[at] ^= 1
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(bytes([stored[at]]))
    found = stage.prediction(prediction_id)
    assert not found["intact"]
    assert "checksum" in found["problem"]
    stage.answer("matrix", 1, 2, 3)
