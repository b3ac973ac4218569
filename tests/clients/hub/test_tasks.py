"""Models of every task, tiny and with random weights, made by a job, published by the Hub's client, deployed and asked."""

import base64
import io
import json
import struct
import wave
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, APITimeoutError, OpenAI

from platform_server import PlatformServer, wait_until

TESTS = Path(__file__).parents[2]
SAMPLES = TESTS.parent / "src" / "stratal" / "cli" / "catalog" / "samples"
NEEDS = (
    "accelerate>=1\ndiffusers>=0.42\nnumpy>=2\npillow>=11\nsafetensors>=0.4\nsentencepiece>=0.2\n"
    "torch==2.13.0\ntransformers>=5\n"
)
PUBLISH = """
import runpy, shutil, sys
from pathlib import Path
from huggingface_hub import HfApi

sys.argv = ["tiny_hub.py", "made"]
runpy.run_path("tiny_hub.py", run_name="__main__")
for folder in sorted(Path("made").iterdir()):
    shutil.copy("requirements.txt", folder)
    HfApi().create_repo(folder.name)
    HfApi().upload_folder(repo_id=folder.name, folder_path=folder)
"""
WORDS = "Ada met Bob in Rome."


@pytest.mark.soak
def test_a_model_of_each_task_is_published_deployed_and_answers_as_its_task_says(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    (tmp_path / "tiny_hub.py").write_text((TESTS / "tiny_hub.py").read_text())
    (tmp_path / "publish.py").write_text(PUBLISH)
    (tmp_path / "requirements.txt").write_text(NEEDS)
    asked = ("run", "--requirements", "requirements.txt", "--project", project, "--", "python", "publish.py")
    server.cli(*asked, timeout=1800, PWD=str(tmp_path))
    picture = base64.b64encode((SAMPLES / "ocr.png").read_bytes()).decode()
    sound = base64.b64encode((SAMPLES / "speech.wav").read_bytes()).decode()

    def ask(name: str, **inputs: Any) -> Any:
        server.cli("deploy", f"models:/{name}/1", "--name", name, "--project", project, timeout=1800)
        with server.http() as http:
            address = f"/api/v1/projects/{project}/endpoints/{name}/invocations"
            told = http.post(address, json={"inputs": inputs}, timeout=120)
            assert told.status_code == 200, (name, told.text)
            return told.json()["predictions"]

    (one,) = ask("classify", text=[WORDS])
    assert one["label"] in {"negative", "neutral", "positive"}
    assert abs(sum(one["probabilities"]) - 1) < 1e-6
    (one,) = ask("sort", text=[WORDS], labels=["news, sport"])
    assert one["label"] in {"news", "sport"}
    (told,) = ask("entities", text=[WORDS])
    assert all(WORDS[one["start"] : one["end"]] == one["text"] for one in json.loads(told))
    (one,) = ask("answer", text=[WORDS], question=["Where?"])
    assert WORDS[one["start"] : one["end"]] == one["answer"]
    (vector,) = ask("embed", text=[WORDS])
    assert abs(sum(value * value for value in vector) - 1) < 1e-4
    (plain,) = ask("rewrite", text=["translate English to German: " + WORDS], max_tokens=[8])
    assert ask("rewrite", text=[WORDS], target=["de"], max_tokens=[8]) == [plain]
    (one,) = ask("classify-image", image=[picture])
    assert one["label"] in {"cat", "dog"}
    objects = json.loads(ask("detect", image=[picture], threshold=[0.0])[0])
    assert objects
    assert {"label", "score", "x", "y", "width", "height"} == set(objects[0])
    assert isinstance(ask("transcribe", audio=[sound])[0], str)
    assert isinstance(ask("translate", audio=[sound], task=["translate"], language=["de"])[0], str)
    long = base64.b64encode(tone(40)).decode()  # longer than what is heard at once
    assert isinstance(ask("translate", audio=[long], language=["en"])[0], str)
    with server.http() as http:
        key = {"Authorization": "Bearer " + server.env(project)["OPENAI_API_KEY"]}

        def openai(path: str, **body: Any) -> Any:
            answer = http.post(f"/v1/{path}", headers=key, timeout=120, **body)
            return answer.status_code, answer.json()

        assert (
            openai("audio/translations", files={"file": ("a.wav", tone())}, data={"model": "translate"})[0]
            == 200
        )
        refused = openai(
            "audio/translations", files={"file": ("a.wav", tone())}, data={"model": "transcribe"}
        )
        assert (refused[0], refused[1]["error"]["param"]) == (400, "model")
        assert (
            len(openai("embeddings", json={"model": "embed", "input": WORDS})[1]["data"][0]["embedding"])
            == 16
        )
        judged = openai("moderations", json={"model": "classify", "input": WORDS})[1]["results"][0]
        assert set(judged["categories"]) == {"negative", "positive"}
        draws(server, project, openai, key)
        for name, inputs in {
            "sort": {"text": [WORDS], "labels": ["one"]},
            "answer": {"text": [WORDS]},
            "detect": {"image": [base64.b64encode(b"GIF89a").decode()]},
            "translate": {"audio": [sound], "language": ["xx"]},
            "rewrite": {"text": [WORDS], "source": ["en"], "target": ["fr"]},
        }.items():
            address = f"/api/v1/projects/{project}/endpoints/{name}/invocations"
            assert http.post(address, json={"inputs": inputs}, timeout=120).status_code == 400


def draws(server: PlatformServer, project: str, openai: Any, key: dict[str, str]) -> None:
    for name in ("draw", "hold-back"):
        server.cli("deploy", f"models:/{name}/1", "--name", name, "--project", project, timeout=1800)
    client = OpenAI(
        base_url=f"{server.url}/v1", api_key=key["Authorization"].removeprefix("Bearer "), max_retries=0
    )
    few = {"steps": 3, "seed": 7}
    both = client.images.generate(model="draw", prompt=WORDS, n=2, size="32x16", extra_body=few).data
    images = [base64.b64decode(one.b64_json or "") for one in both or []]
    assert [struct.unpack(">II", image[16:24]) for image in images] == [(32, 16)] * 2
    assert images[0] != images[1]
    second = {"model": "draw", "prompt": WORDS, "size": "32x16", "steps": 3, "seed": 8}
    told = openai("images/generations", json=second)[1]
    assert base64.b64decode(told["data"][0]["b64_json"]) == images[1]
    assert (told["seed"], told["output_format"]) == (8, "png")
    for asked, code in (
        ({"model": "draw", "size": "31x31"}, "bad_input"),
        ({"model": "embed"}, "invalid_value"),
        ({"model": "none"}, "model_not_found"),
        ({"model": "hold-back", "extra_body": few}, "bad_input"),
    ):
        with pytest.raises(APIStatusError) as refused:
            client.images.generate(prompt=WORDS, **asked)
        assert refused.value.code == code, asked
    assert [one.id for one in client.models.list() if one.id in ("draw", "rewrite")] == ["draw"]

    # Two thousand steps are left by a client that hangs up: the model is free again, and what was asked is on record.
    with pytest.raises(APITimeoutError):
        client.images.generate(
            model="draw", prompt="left", n=10, extra_body={"steps": 200}, timeout=httpx.Timeout(30, read=0.5)
        )
    with server.http() as http:
        place = f"/api/v1/projects/{project}/endpoints/draw"
        wait_until(lambda: http.get(place).json()["in_flight"] == 0)
        end = server.json(
            "endpoint",
            "draw",
            "draw",
            WORDS,
            "--steps",
            "3",
            "--seed",
            "8",
            "--size",
            "32x16",
            "--project",
            project,
        )
        assert base64.b64decode(end["images"][0]) == images[1]
        told = http.get(f"/api/v1/predictions/{end['prediction_id']}").json()
        assert base64.b64decode(told["outputs"][0]["data"][0]) == images[1]


def tone(seconds: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\1\2" * 16_000 * seconds)
    return out.getvalue()
