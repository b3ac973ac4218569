"""``kill -9`` of the server while runs are logged and artifacts go up: what was acknowledged is there."""

import threading
from collections.abc import Iterator

import httpx

from platform_server import PlatformServer

API = "/api/2.0/mlflow"
PLACE = "/api/2.0/mlflow-artifacts/artifacts"


def test_acknowledged_points_survive_and_half_an_upload_does_not(fresh_server: PlatformServer) -> None:
    server = fresh_server
    with server.http() as http:
        run_id = http.post(f"{API}/runs/create", json={}).json()["run"]["info"]["run_id"]
        place = f"{PLACE}/0/{run_id}/artifacts"
        http.put(f"{place}/whole.bin", content=b"x" * 3_000_000).raise_for_status()
    acknowledged: list[int] = []
    halfway = threading.Event()

    def log() -> None:
        with server.http() as http:
            for step in range(100_000):
                metric = {"run_id": run_id, "key": "loss", "value": step, "timestamp": step, "step": step}
                try:
                    http.post(f"{API}/runs/log-metric", json=metric).raise_for_status()
                except httpx.HTTPError:
                    return
                acknowledged.append(step)

    def upload() -> None:
        def body() -> Iterator[bytes]:
            for _ in range(8):
                yield b"y" * 1_000_000
            halfway.set()
            while server_alive.is_set():
                yield b"y" * 1000

        with server.http() as http:
            try:
                http.put(f"{place}/half.bin", content=body())
            except httpx.HTTPError:
                return

    server_alive = threading.Event()
    server_alive.set()
    threads = [threading.Thread(target=work) for work in (log, upload)]
    for thread in threads:
        thread.start()
    assert halfway.wait(60)
    while len(acknowledged) < 50:
        halfway.wait(0.01)
    server.kill()
    server_alive.clear()
    for thread in threads:
        thread.join(60)
    server.up()

    with server.http() as http:
        history = http.get(
            f"{API}/metrics/get-history", params={"run_id": run_id, "metric_key": "loss"}
        ).json()
        steps = [point["step"] for point in history["metrics"]]
        assert set(acknowledged) <= set(steps)
        assert steps == list(range(len(steps)))
        listed = http.get(f"{API}/artifacts/list", params={"run_id": run_id}).json()["files"]
        assert [file["path"] for file in listed] == ["whole.bin"]
        assert http.get(f"{place}/half.bin").status_code == 404
        assert http.get(f"{place}/whole.bin").content == b"x" * 3_000_000
    assert list((server.home / "blobs" / "artifacts" / "scratch").iterdir()) == []
