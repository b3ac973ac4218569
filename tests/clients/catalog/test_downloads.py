"""Catalogue entries that are fetched from a hub: one here, with tiny models under the entries' names and commits."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from platform_server import PlatformServer
from stratal.ai.catalog.entries import ENTRIES

TESTS = Path(__file__).parents[2]
PUBLISH = """
import runpy, sys
from huggingface_hub import HfApi

sys.argv = ["tiny_hub.py", "made"]
runpy.run_path("tiny_hub.py", run_name="__main__")
for name in ("entities", "detect"):
    HfApi().create_repo(f"tiny-{name}")
    HfApi().upload_folder(repo_id=f"tiny-{name}", folder_path=f"made/{name}")
"""


class Hub(ThreadingHTTPServer):
    """Answers as a hub does for the catalogue's repositories, with whatever `files` holds for each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits = {entry.hub.repo: entry.hub.commit for entry in ENTRIES if entry.hub}
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        for repo, files in self.server.files.items():
            commit = self.server.commits[repo]
            if path == f"/api/models/{repo}/revision/{commit}":
                listed = [
                    {"rfilename": name, "size": len(data), "lfs": {"sha256": sha256(data), "size": len(data)}}
                    if name.endswith(".safetensors")
                    else {"rfilename": name, "size": len(data)}
                    for name, data in files.items()
                ]
                return self._send(json.dumps({"sha": commit, "siblings": listed}).encode())
            name = path.removeprefix(f"/{repo}/resolve/{commit}/")
            if name in files:
                self.server.sent.append(f"{repo}/{name}")
                return self._send(files[name])
        return self.send_error(404)

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.soak
def test_an_entry_is_fetched_once_answers_without_the_hub_and_what_changes_is_refused(
    hub: Hub, tmp_path: Path
) -> None:
    server = PlatformServer(tmp_path / "home", STRATAL_HUB_UPSTREAM=hub.url)
    server.up()
    try:
        entry = next(one for one in ENTRIES if one.name == "yolos-tiny")
        (tmp_path / "tiny_hub.py").write_text((TESTS / "tiny_hub.py").read_text())
        (tmp_path / "publish.py").write_text(PUBLISH)
        (tmp_path / "requirements.txt").write_text("".join(f"{line}\n" for line in entry.requirements))
        asked = ("run", "--requirements", "requirements.txt", "--", "python", "publish.py")
        server.cli(*asked, timeout=1800, PWD=str(tmp_path))
        for name, repo in (("entities", "dslim/bert-base-NER"), ("detect", "hustvl/yolos-tiny")):
            hub.files[repo] = read(server, f"tiny-{name}")
        hub.files["openai/whisper-base"] = {"config.json": b"{}", "model.safetensors": b"not Whisper"}

        told = server.json("models", "try", "entities", timeout=1800)
        assert told["model"] == "bert-base-ner"
        text = "Ada Lovelace wrote to Charles Babbage from London."
        assert all(
            text[one["start"] : one["end"]] == one["text"] for one in json.loads(told["predictions"][0])
        )
        (found,) = server.json("models", "try", "detect", "--with", "threshold=0", timeout=1800)[
            "predictions"
        ]
        assert {"label", "score", "x", "y", "width", "height"} == set(json.loads(found)[0])
        version = server.json("models", "show", "yolos-tiny/1")
        sums = {file["path"]: file["sha256"] for file in version["files"]}
        assert sums["model.safetensors"] == sha256(hub.files["hustvl/yolos-tiny"]["model.safetensors"])
        assert entry.hub is not None
        assert entry.hub.commit in version["description"]

        server.json("projects", "create", "second")
        hub.sent.clear()
        refused = server.cli("models", "pull", "whisper-base", check=False)
        assert (refused.returncode != 0, "model.safetensors has the SHA-256" in refused.stderr) == (
            True,
            True,
        )
        assert hub.sent == []  # what the hub tells was enough
        hub.files["hustvl/yolos-tiny"]["config.json"] += b" "
        refused = server.cli("models", "pull", "detect", "--project", "second", check=False)
        assert (refused.returncode != 0, "config.json has the SHA-256" in refused.stderr) == (True, True)
        assert server.json("models", "ls", "--project", "second")["models"] == []
        server.kill()  # what was seen first is on record
        server.up()
        refused = server.cli("models", "pull", "detect", "--project", "second", check=False)
        assert "config.json has the SHA-256" in refused.stderr
        hub.files.clear()
        again = server.json("models", "pull", "detect")
        assert again["uri"] == "models:/yolos-tiny/1"
        assert server.json("models", "try", "entities", "Ada met Bob.", timeout=600)["predictions"]
    finally:
        server.down()


def read(server: PlatformServer, name: str) -> dict[str, bytes]:
    """The files of a model, by the Hub door."""
    with server.http() as http:
        told = http.get(f"/hub/api/models/default/{name}").json()["siblings"]
        names = [one["rfilename"] for one in told]
        return {one: http.get(f"/hub/default/{name}/resolve/main/{one}").content for one in names}
