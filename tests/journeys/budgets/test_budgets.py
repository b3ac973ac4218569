"""A budget of 0.01 against a job that would never end: stopped whatever is killed, refused at real clients, exact."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import httpx
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from platform_server import PlatformServer, wait_until
from stratal.cli.demo.overspend import Overspend

# Takes its time to save what it has when it is told to end.
RUNAWAY = """
import os, pathlib, signal, sys, time

def save(*_):
    print("told to end", flush=True)
    time.sleep(5)
    pathlib.Path(os.environ["STRATAL_CHECKPOINT_DIR"], "count").write_text("7")
    print("saved", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
while True:
    pass
"""
FUNCTION = """
def handler(event):
    return {"event": event}
"""


def s3(env: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
        config=Config(retries={"max_attempts": 1}),
    )


def amounts(lines: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(line["cost"]) for line in lines), Decimal(0))


def at_rest(
    server: PlatformServer, project: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Decimal] | None:
    """The ledger's rows, the reports and what the budget says is spent; None when bytes were written down meanwhile."""
    rows = server.json("cost", "--rows", "--project", project)["usage"]
    kinds = ("project", "user", "job", "endpoint", "function")
    reports = [server.json("cost", "--by", by, "--project", project) for by in kinds]
    spent = Decimal(server.json("budget", "show", "--project", project)["spent"])
    same = rows == server.json("cost", "--rows", "--project", project)["usage"]
    return (rows, reports, spent) if same else None


def test_a_runaway_job_is_stopped_over_a_kill_and_every_client_is_told_why(
    fresh_server: PlatformServer, tmp_path: Path
) -> None:
    server = fresh_server
    project = server.project("runaway")
    env = server.env(project)
    bucket = s3(env)
    bucket.create_bucket(Bucket="kept")
    bucket.put_object(Bucket="kept", Key="one", Body=b"1")
    (tmp_path / "app.py").write_text(FUNCTION)
    server.json(
        *("function", "deploy", str(tmp_path / "app.py") + ":handler", "--name", "fn", "--public"),
        *("--min", "1", "--project", project),
        PWD=str(tmp_path),
    )
    with server.http() as http:

        def get(path: str, **params: Any) -> dict[str, Any]:
            answer = http.get(f"/api/v1/projects/{project}{path}", params=params)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        assert http.post(f"/f/{project}/fn", json=1).json() == {"event": 1}
        server.json("prices", "set", "cpu_hour", "36")  # a hundredth a second
        server.json("budget", "set", project, "0.01/month", "--stop")
        asked = {
            "argv": ["python", "-c", RUNAWAY],
            "memory_bytes": 256 << 20,
            "grace_seconds": 60,
            "retries": 3,
        }
        job = http.post(f"/api/v1/projects/{project}/jobs", json=asked).json()["id"]

        # The stop is decided, and everything that decided it is killed.
        wait_until(lambda: get(f"/jobs/{job}")["stop_requested_at"], seconds=120)
        server.kill()
        server.up()
        ended = wait_until(lambda: (told := get(f"/jobs/{job}"))["ended_at"] and told, seconds=120)
        assert (ended["state"], ended["attempt"]) == ("failed", 1)
        assert f"The budget of project '{project}'" in ended["reason"]
        log = http.get(f"/api/v1/projects/{project}/jobs/{job}/logs").text.splitlines()
        assert [line for line in log if not line.startswith("stratal")] == ["told to end", "saved"]
        assert ended["checkpoint_bytes"]

        # Who asks for more is told so, in the words of what they use; what is there can be had and removed.
        with pytest.raises(ClientError, match="used up") as refused:
            bucket.put_object(Bucket="kept", Key="two", Body=b"2")
        assert refused.value.response["Error"]["Code"] == "OverBudget"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        assert bucket.get_object(Bucket="kept", Key="one")["Body"].read() == b"1"
        bucket.delete_object(Bucket="kept", Key="one")
        chat = openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])
        with pytest.raises(openai.RateLimitError, match="used up") as limited:
            chat.embeddings.create(model="any", input="text")
        assert limited.value.code == "insufficient_quota"
        chat.close()
        # A public function, which anybody may call without a key, has no replica left and answers nobody.
        wait_until(lambda: not get("/functions/fn")["running"])
        for headers in ({}, {"Authorization": f"Bearer {env['STRATAL_API_KEY']}"}):
            answer = httpx.post(f"{server.url}/f/{project}/fn", json=1, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "over_budget"), answer.text
        done = server.cli("run", "--project", project, "--no-code", "--", "true", check=False)
        assert done.returncode != 0
        assert "used up" in done.stderr
        assert "used up" in server.cli("status").stdout

        # The ledger's rows are what every report adds up to, and what the budget is held against.
        rows, reports, spent = wait_until(lambda: at_rest(server, project))
        for report in reports:
            assert amounts(report["costs"]) == Decimal(report["total"]) == amounts(rows)
        assert spent == amounts(rows)
        assert get("/cost", by="job")["so_far"]["costs"] == []

        # A higher budget opens everything again.
        server.json("budget", "set", project, "100/month")
        assert http.post(f"/f/{project}/fn", json=2).json() == {"event": 2}
        bucket.put_object(Bucket="kept", Key="two", Body=b"2")
    bucket.close()


def test_the_demo_shows_it_and_leaves_nothing() -> None:
    story = Overspend("36")
    try:
        said = {name: step(lambda _: None) for name, _, step in story.steps()}
    finally:
        story.close()
    result = story.result
    assert (result["state"], result["refused_status"], result["sums_agree"]) == ("failed", 429, True), said
    assert "saved a checkpoint" in said["stop"]
    assert Decimal(result["cost"]) >= Decimal(result["budget"])
    assert not story.home.exists()
