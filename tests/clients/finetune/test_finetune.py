"""`stratal finetune` as a user runs it: rows in a bucket, a job, a version with its number beside the base model's."""

import json
import random

from platform_server import PlatformServer

PARTS = {
    "billing": (
        [
            "My invoice",
            "The bill",
            "The last payment",
            "The refund",
            "My credit card statement",
            "The price on the receipt",
        ],
        [
            "is wrong",
            "shows too much",
            "was charged twice",
            "has not arrived",
            "does not match the order",
            "went up again",
        ],
    ),
    "delivery": (
        [
            "My parcel",
            "The courier",
            "The shipment",
            "The package",
            "The driver",
            "The box from the warehouse",
        ],
        [
            "is late",
            "left it in the rain",
            "came damaged",
            "went to a neighbour",
            "cannot be tracked",
            "never rang the bell",
        ],
    ),
    "login": (
        [
            "My password",
            "The sign-in page",
            "The account",
            "The code by mail",
            "The reset link",
            "Two-factor sign-in",
        ],
        [
            "does not work",
            "is locked",
            "is refused",
            "expired at once",
            "keeps failing",
            "asks again and again",
        ],
    ),
}


def rows() -> list[dict[str, str]]:
    """108 messages of three kinds, in an order of their own."""
    made = [
        {"text": f"{subject} {trouble}.", "label": label}
        for label, (subjects, troubles) in PARTS.items()
        for subject in subjects
        for trouble in troubles
    ]
    random.Random(0).shuffle(made)
    return made


def test_a_classifier_is_trained_measured_registered_and_answers(server: PlatformServer) -> None:
    project = server.project()
    given = ("--project", project)
    bucket = f"{project}-rows"
    with server.http() as http:
        here = f"/api/v1/projects/{project}"
        assert http.post(f"{here}/buckets", json={"name": bucket}).status_code == 201
        for key, data in (
            ("rows.jsonl", "\n".join(json.dumps(row) for row in rows())),
            ("broken.jsonl", '{"text": "a", "label": "b"}\nnot json'),
        ):
            sent = http.put(f"{here}/buckets/{bucket}/object", params={"key": key}, content=data.encode())
            assert sent.status_code == 201
    address = f"s3://{bucket}/rows.jsonl"
    made = server.json("finetune", "classify", address, "--name", "tickets", *given, timeout=900)
    metrics = made["metrics"]
    assert metrics["held_out_rows"] >= 10
    assert metrics["accuracy"] >= 0.9 > metrics["commonest_accuracy"]
    assert metrics["accuracy"] >= metrics["base_accuracy"] - 0.05
    version = server.json("models", "show", "tickets/1", *given)
    assert version["labels"] == []
    assert "head.safetensors" in {file["path"] for file in version["files"]}
    assert version["job"] == str(made["job"])
    run = server.json("runs", "show", made["run"], *given)
    assert run["metrics"]

    server.cli("deploy", made["uri"], "--name", "moderation", *given, timeout=600)
    with server.http(server.key(project, "viewer")) as http:
        asked = {"inputs": {"text": ["The parcel has not come.", "I was charged twice."]}}
        told = http.post(f"/api/v1/projects/{project}/endpoints/moderation/invocations", json=asked).json()
        assert [one["label"] for one in told["predictions"]] == ["delivery", "billing"]
        judged = http.post("/v1/moderations", json={"input": "I cannot sign in with my password."}).json()
        (result,) = judged["results"]
        assert result["flagged"]
        assert max(result["category_scores"], key=result["category_scores"].get) == "login"

    wrong = server.cli(
        "finetune", "classify", f"s3://{bucket}/broken.jsonl", "--name", "x", *given, check=False, timeout=600
    )
    assert wrong.returncode == 1
    lost = server.cli("finetune", "classify", f"s3://{bucket}/none", "--name", "x", *given, check=False)
    assert lost.returncode == 6
