"""`stratal models try` and `bench` as a user runs them: environments built, replicas started, answers given."""

import base64
import json
import os
import subprocess
import wave
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from platform_server import PlatformServer


def tried(server: PlatformServer, project: str, task: str, *given: str) -> dict[str, object]:
    return server.json("models", "try", task, *given, "--project", project, timeout=600)


def test_texts_are_answered_measured_and_explained(server: PlatformServer) -> None:
    project = server.project()
    language = tried(server, project, "language")
    assert [one["language"] for one in language["predictions"]] == [language["expected"]]  # type: ignore[index,attr-defined]
    mine = tried(server, project, "language", "Où est la gare, s'il vous plaît ?")
    assert mine["predictions"][0]["language"] == "fr"  # type: ignore[index]
    told = server.json("models", "bench", "language", "--project", project)
    shown = server.json("models", "catalog", "language", "--project", project)
    assert told["value"] == pytest.approx(shown["measured"][0]["value"], abs=0.01)
    why = server.json("why", str(mine["prediction_id"]), check=False)  # no job made it, which is said
    states = {link["kind"]: link["status"] for link in why["chain"]}
    assert (states["prediction"], states["model version"], states["job"]) == (
        "verified",
        "verified",
        "unproven",
    )
    called = server.cli("endpoint", "show", "langid", "--project", project).stdout.partition("Call it:\n")[2]
    asked = subprocess.run(
        called.partition("\n\n")[0],
        shell=True,
        env={**os.environ, **server.env(project)},
        capture_output=True,
        timeout=60,
    )
    assert len(json.loads(asked.stdout)["predictions"]) == 1
    nothing = server.cli("models", "try", "summarise", "--project", project, check=False)
    assert (nothing.returncode, "No well-kept library" in nothing.stderr) == (6, True)
    away = server.cli("models", "try", "chat", "--project", project, check=False)
    assert (away.returncode, "STRATAL_HUB_UPSTREAM" in away.stderr) == (1, True)


@pytest.mark.soak
@pytest.mark.parametrize("task", ["embed", "sentiment", "ocr", "faces", "transcribe", "voice"])
def test_every_task_answers_its_sample_and_gives_its_number_again(server: PlatformServer, task: str) -> None:
    project = server.project()
    told = tried(server, project, task)
    answers, expected = told["predictions"], told["expected"]
    assert isinstance(answers, list)
    key = {"sentiment": "label", "ocr": "text", "faces": "count"}.get(task)
    if task == "voice":
        (segments,) = (json.loads(one["segments"]) for one in answers)
        assert len(segments) == expected
        assert abs(segments[0]["start"] - 1.08) < 0.1
        return
    if task == "embed":
        near, far = (sum(a * b for a, b in zip(answers[0], answers[i], strict=True)) for i in (1, 2))
        assert near > 0.6 > 0.3 > far
    else:
        assert [one[key] if key else one for one in answers] == [expected]
    number = server.json("models", "bench", task, "--project", project, timeout=600)["value"]
    shown = server.json("models", "catalog", task, "--project", project)
    assert number == pytest.approx(shown["measured"][0]["value"], abs=0.06)


@pytest.mark.soak
def test_what_is_no_picture_is_refused_by_the_model_and_it_goes_on(server: PlatformServer) -> None:
    project = server.project()
    tried(server, project, "faces")
    with server.http() as http:
        address = f"/api/v1/projects/{project}/endpoints/haar-faces/invocations"
        for wrong in ("not base64!", base64.b64encode(b"GIF89a").decode()):
            answer = http.post(address, json={"inputs": {"image": [wrong]}})
            assert answer.status_code == 400, answer.text
    assert tried(server, project, "faces")["predictions"]


@pytest.mark.soak
def test_where_nothing_is_said_nothing_is_heard_and_the_next_is_heard_as_before(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    for seconds in (0, 0.001, 2):
        told = tried(server, project, "transcribe", silence(tmp_path / "silent.wav", seconds))
        assert told["predictions"] == [""], seconds
    told = tried(server, project, "transcribe")
    assert told["predictions"] == [told["expected"]]


def silence(path: Path, seconds: float) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(2 * int(8_000 * seconds)))
    return str(path)


@pytest.mark.soak
def test_dark_text_on_nothing_is_read(server: PlatformServer, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (420, 80), (0, 0, 0, 0))
    font = ImageFont.load_default(36)
    ImageDraw.Draw(picture).text((20, 20), "Platform 9", fill=(0, 0, 0, 255), font=font)
    picture.save(tmp_path / "sign.png")
    told = tried(server, server.project(), "ocr", str(tmp_path / "sign.png"))
    assert [one["text"].split() for one in told["predictions"]] == [["Platform", "9"]]  # type: ignore[attr-defined]
