"""`stratal finetune` as a user runs it: rows in a bucket, a job, a version with its number beside the base model's."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from platform_server import PlatformServer

TESTS = Path(__file__).parents[2]
NEEDS = "numpy==2.4.6\npillow>=11\nsafetensors==0.8.0\nsentencepiece==0.2.3\ntorch==2.13.0\ntransformers==5.24.0\n"
PUBLISH = """
import runpy, sys
from huggingface_hub import HfApi

sys.argv = ["tiny_hub.py", "made", "--no-pictures"]
runpy.run_path("tiny_hub.py", run_name="__main__")
HfApi().create_repo("tiny")
HfApi().upload_folder(repo_id="tiny", folder_path="made/embed")
"""
BY_OPENAI = """
import json, time, openai
client = openai.OpenAI()
file = client.files.create(file=open("chats.jsonl", "rb"), purpose="fine-tune")
asked = dict(model="tiny", training_file=file.id, suffix="kinds")
try:
    client.fine_tuning.jobs.create(**asked, hyperparameters={"batch_size": 3})
    raise SystemExit("a batch size was taken")
except openai.BadRequestError as error:
    assert "batch_size" in str(error), error
job = client.fine_tuning.jobs.create(**asked, method={"type": "supervised", "supervised": {
    "hyperparameters": {"n_epochs": 40, "learning_rate_multiplier": 20}}})
while job.status in ("queued", "validating_files", "running"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
events = [one.message for one in client.fine_tuning.jobs.list_events(job.id).data]
judged = client.moderations.create(model=job.fine_tuned_model, input="2 7 1 8 2 8 1 8 2 8 4 5 9").results[0]
print(json.dumps({"status": job.status, "model": job.fine_tuned_model, "epochs": job.hyperparameters.n_epochs,
                  "events": events, "scores": judged.category_scores.model_extra}))
"""

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


def letters(kind: str, chance: random.Random) -> str:
    """Words that a model of bytes can tell apart by what they are made of."""
    return " ".join(
        chance.choice({"vowels": "aeiou", "digits": "0123456789"}[kind])
        for _ in range(chance.randint(10, 20))
    )


@pytest.mark.soak
def test_adapters_are_trained_in_a_transformer_merged_and_served(
    server: PlatformServer, tmp_path: Path
) -> None:
    """A transformer of random weights learns what its bytes are, on the CPU; by the command line and by openai."""
    project = server.project()
    given = ("--project", project)
    (tmp_path / "tiny_hub.py").write_text((TESTS / "tiny_hub.py").read_text())
    (tmp_path / "publish.py").write_text(PUBLISH)
    (tmp_path / "requirements.txt").write_text(NEEDS)
    asked = ("run", "--requirements", "requirements.txt", *given, "--", "python", "publish.py")
    server.cli(*asked, timeout=1800, PWD=str(tmp_path))
    chance = random.Random(0)
    made = [
        {"text": letters(kind, chance), "label": kind} for _ in range(120) for kind in ("vowels", "digits")
    ]
    pairs = [{"first": one["text"], "other": one["text"][::-1]} for one in made]
    bucket = f"{project}-rows"
    with server.http() as http:
        here = f"/api/v1/projects/{project}"
        assert http.post(f"{here}/buckets", json={"name": bucket}).status_code == 201
        for key, rows_ in (("rows.jsonl", made), ("pairs.jsonl", pairs)):
            data = "\n".join(json.dumps(row) for row in rows_).encode()
            assert (
                http.put(f"{here}/buckets/{bucket}/object", params={"key": key}, content=data).status_code
                == 201
            )
    base = ("--base", "models:/tiny/1", *given)
    quick = ("--epochs", "40", "--rate", "0.01")
    told = server.json(
        "finetune", "classify", f"s3://{bucket}/rows.jsonl", "--name", "kinds", *base, *quick, timeout=1800
    )
    metrics = told["metrics"]
    assert metrics["held_out_rows"] >= 10
    assert metrics["accuracy"] >= 0.9 > metrics["commonest_accuracy"]
    assert 0 <= metrics["base_accuracy"] <= 1
    version = server.json("models", "show", "kinds/1", *given)
    assert version["labels"] == []
    files = {file["path"] for file in version["files"]}
    assert {"model.safetensors", "config.json", "adapter/adapter_model.safetensors"} <= files
    assert version["job"] == str(told["job"])
    run = server.json("runs", "show", told["run"], *given)
    assert run["params"]["method"] == "lora"
    server.cli("deploy", told["uri"], "--name", "kinds", *given, timeout=900)
    with server.http() as http:
        asked_ = {"inputs": {"text": ["a e i o a u u i e o a e", "4 4 2 9 0 1 1 7 3 5 8 6"]}}
        answer = http.post(f"/api/v1/projects/{project}/endpoints/kinds/invocations", json=asked_).json()
        assert [one["label"] for one in answer["predictions"]] == ["vowels", "digits"]

    near = server.json(
        *("finetune", "embed", f"s3://{bucket}/pairs.jsonl", "--name", "near", "--first", "first"),
        *(*base, *quick),
        timeout=1800,
    )
    assert 0 < near["metrics"]["base_mrr"] <= 1
    assert near["metrics"]["mrr"] > near["metrics"]["base_mrr"] - 0.05
    server.cli("deploy", near["uri"], "--name", "near", *given, timeout=900)
    server.cli("deploy", "models:/tiny/1", "--name", "tiny", *given, timeout=900)
    chats = [
        {"messages": [{"role": "user", "content": r["text"]}, {"role": "assistant", "content": r["label"]}]}
        for r in made
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(one) for one in chats))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BY_OPENAI],
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **server.env(project),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    last = json.loads(done.stdout)
    assert (last["status"], last["model"], last["epochs"]) == ("succeeded", "tiny-kinds", 40)
    assert any("epoch 1" in line for line in last["events"])
    assert last["scores"]["digits"] > 0.5
    headless = server.cli(
        "finetune",
        "classify",
        f"s3://{bucket}/rows.jsonl",
        "--name",
        "x",
        *base,
        "--method",
        "head",
        check=False,
    )
    assert "no encoder that a head is put on" in headless.stderr
