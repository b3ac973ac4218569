"""Ready solutions on a real platform: tiny runs end to end, a planted fault that is refused, and nothing left behind."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer
from stratal.ai.solutions.catalogue import Catalogue

IN_TEST, PLANTED = ["customer-segmentation", "fraud"], "disease-diagnosis"
"""The quickest; the first and the one with a planted fault share one environment. `make soak` runs all."""
NAMES = [one.name for one in Catalogue().all()]


def run(server: PlatformServer, *arguments: str, rc: int = 0) -> dict[str, Any]:
    done = server.cli("solutions", "run", *arguments, "--json", check=False, timeout=3600)
    assert done.returncode == rc, f"{done.returncode}: {done.stderr[-3000:]}"
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def gates(result: dict[str, Any], status: str) -> list[str]:
    return [gate["gate"] for gate in result["gates"] if gate["status"] == status]


def check_tiny(
    server: PlatformServer, name: str, tmp_path: Path, folder: Path | None = None
) -> dict[str, Any]:
    result = run(server, str(folder or name), "--tiny")
    assert result["verdict"] == "mechanics only"
    assert gates(result, "failed") == []
    assert {"data", "leakage", "faults", "answer", "why"} <= set(gates(result, "passed"))
    assert {"latency", "budget"} <= set(gates(result, "not judged"))
    served = result["served"]
    assert served["role"] == "candidate"
    why = server.cli("why", served["prediction_id"], "--json")
    assert json.loads(why.stdout)["verified"] is True
    page = tmp_path / f"{name}.html"
    server.cli("solutions", "report", name, "--tiny", "--output", str(page))
    assert served["prediction_id"] in page.read_text()
    return result


@pytest.mark.parametrize("name", IN_TEST)
def test_a_tiny_run_ends_with_a_report_an_endpoint_and_a_chain(
    server: PlatformServer, name: str, tmp_path: Path
) -> None:
    if name != IN_TEST[0]:
        check_tiny(server, name, tmp_path)
        return
    # The first as one's own: a copy of it is run from its folder and goes by its own name.
    mine = tmp_path / "my-segments"
    assert server.json("solutions", "copy", name, str(mine))["name"] == "my-segments"
    again = server.cli("solutions", "copy", name, str(mine), check=False)
    assert "is there already" in again.stderr
    result = check_tiny(server, "my-segments", tmp_path, mine)
    assert (result["solution"], result["project"]) == ("my-segments", "solution-my-segments-tiny")
    assert server.json("solutions", "remove", "my-segments")["removed"] == [result["project"]]


def test_a_planted_leak_is_refused_and_said_and_nothing_is_left_behind(
    server: PlatformServer, tmp_path: Path
) -> None:
    name = PLANTED
    result = run(server, name, "--tiny", "--plant", "leak", rc=3)
    assert result["verdict"] == "refused"
    assert gates(result, "failed") == ["leakage"]
    assert result["served"]["role"] == "baseline"
    project = result["project"]
    with server.http() as http:
        report = http.get(f"/api/v1/projects/{project}/solution/report")
        assert "planted_leak" in report.text
        assert report.headers["content-security-policy"].startswith("sandbox;")
        assert http.get(f"/api/v1/projects/{project}/solution").json()["run"] == result["run"]
        assert (
            http.get(f"/api/v1/projects/{project}/solution/picture").headers["content-type"]
            == "image/svg+xml"
        )
        stranger = httpx.get(
            f"{server.url}/api/v1/projects/{project}/solution",
            headers={"Authorization": f"Bearer {server.key(server.project())}"},
        )
        assert stranger.status_code == 404
    found = server.home / "blobs"
    mark = result["served"]["prediction_id"].encode()  # other solutions' reports speak of planted leaks, too
    assert holds(found, mark)
    removed = server.json("solutions", "remove", name)
    assert project in removed["removed"]
    assert server.json("solutions", "remove", name)["removed"] == []
    assert not holds(found, mark), "the report's bytes are gone"
    gone = server.cli("solutions", "report", name, "--tiny", check=False)
    assert gone.returncode == 6
    assert f"stratal solutions run {name}" in gone.stderr
    with server.http() as http:
        assert http.get(f"/api/v1/predictions/{result['served']['prediction_id']}").status_code == 404


def holds(folder: Path, what: bytes) -> bool:
    """Does any file below `folder` hold these bytes?"""
    found = subprocess.run(["grep", "-r", "-q", "-F", what.decode(), str(folder)], check=False)
    return found.returncode == 0


def test_what_cannot_be_run_says_so(server: PlatformServer) -> None:
    unknown = server.cli("solutions", "run", "alchemy", check=False)
    assert unknown.returncode == 6
    nothing = server.cli("solutions", "run", PLANTED, "--download", check=False)
    assert nothing.returncode == 2
    assert "nothing to download" in nothing.stderr
    terms = server.cli("solutions", "run", "recommendation", "--download", check=False)
    assert terms.returncode == 2
    assert "no redistribution" in terms.stderr
    assert "--accept-terms" in terms.stderr


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_tiny_run(server: PlatformServer, name: str, tmp_path: Path) -> None:
    check_tiny(server, name, tmp_path)
    server.json("solutions", "remove", name)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("plant", "gate"),
    [("leak", "leakage"), ("labels", "labels"), ("baseline", "baseline"), ("checksum", "data")],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_planted_fault_fails_its_gate(server: PlatformServer, name: str, plant: str, gate: str) -> None:
    if plant == "labels" and not Catalogue().get(name).has_target:
        pytest.skip("nothing in its data is a label")
    result = run(server, name, "--tiny", "--plant", plant, rc=3)
    assert gate in gates(result, "failed")
    assert result["served"]["role"] == "baseline"


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_default_run_ends_as_it_declares(server: PlatformServer, name: str) -> None:
    result = run(server, name)
    declared = Catalogue().get(name)
    expected = "refused, as declared" if declared.refusal else "promoted"
    assert result["verdict"] == ("mechanics only" if declared.mechanics_only else expected)
    waiting = [gate.kind for gate in declared.gates if gate.terms.get("needs_download")]
    assert gates(result, "not judged") == waiting
    server.json("solutions", "remove", name)
