"""The unmodified huggingface_hub client, given the variables of `stratal env` and nothing else."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer

PREAMBLE = """
import hashlib, json, os, sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub import errors
api = HfApi()
here = Path.cwd()
project = os.environ["STRATAL_PROJECT"]

def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception as error:
        return type(error).__name__
"""


class Script:
    """Runs scripts as a user would, in one project; each prints one JSON value."""

    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.project = server.project()
        self.folder = folder
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        quiet = {"HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.env = {**kept, **server.env(self.project), **quiet, "HOME": str(folder)}

    def run(self, text: str, **more: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(text)],
            env={**self.env, **more},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def script(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(server, tmp_path_factory.mktemp("hub"))


def test_a_folder_goes_up_comes_down_and_is_a_version(server: PlatformServer, script: Script) -> None:
    source = script.folder / "model"
    (source / "onnx").mkdir(parents=True)
    (source / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (source / "README.md").write_text("---\nlicense: mit\npipeline_tag: fill-mask\n---\n# Model\n")
    (source / "model.safetensors").write_bytes(os.urandom(3_000_000))
    (source / "onnx" / "model.onnx").write_bytes(os.urandom(200_000))
    (source / "training_args.bin").write_bytes(b"\x80\x04}.")
    (source / "empty.txt").touch()
    (source / "linked.json").symlink_to("config.json")
    told = script.run(
        """
        name = f"{project}/tiny"
        made = api.create_repo(name).repo_id
        again = api.create_repo(name, exist_ok=True).repo_id
        first = api.upload_folder(repo_id=name, folder_path="model", commit_message="First", commit_description="why")
        same = api.upload_folder(repo_id=name, folder_path="model")
        second = api.upload_file(path_or_fileobj=b"more", path_in_repo="notes.txt", repo_id=name)
        api.create_tag(name, tag="blessed", revision=first.oid)
        info = api.model_info(name, files_metadata=True)
        newest = snapshot_download(name)
        tagged = snapshot_download(name, revision="blessed", local_dir="tagged")
        print(json.dumps({
            "who": api.whoami()["name"], "names": [made, again], "same": same.oid == first.oid,
            "sha": info.sha == second.oid, "tag": info.pipeline_tag, "tags": info.tags, "library": info.library_name,
            "history": [[c.title, c.message] for c in api.list_repo_commits(name)],
            "refs": [[t.name, t.target_commit == first.oid] for t in api.list_repo_refs(name).tags],
            "listed": [m.id for m in api.list_models(author=project, search="tin")],
            "sizes": {s.rfilename: s.size for s in info.siblings},
            "sums": {str(p.relative_to(newest)): hashlib.sha256(p.read_bytes()).hexdigest()
                     for p in Path(newest).rglob("*") if p.is_file()},
            "tagged": sorted(os.listdir(tagged)),
        }))
        """
    )
    name = f"{script.project}/tiny"
    assert (told["who"], told["names"], told["same"]) == (script.project, [name, name], True)
    assert (told["sha"], told["tag"], told["library"]) == (True, "fill-mask", "transformers")
    assert {"license:mit", "safetensors", "onnx", "contains pickle"} <= set(told["tags"])
    assert told["history"][1] == ["First", "why"]
    assert (told["refs"], told["listed"]) == ([["blessed", True]], [name])
    local = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    local["notes.txt"] = b"more"
    assert told["sums"] == {path: hashlib.sha256(data).hexdigest() for path, data in local.items()}
    assert told["sizes"] == {path: len(data) for path, data in local.items()}
    assert "notes.txt" not in told["tagged"]
    shown = server.json("models", "show", "tiny@blessed", "--project", script.project)
    assert {file["path"] for file in shown["files"]} == local.keys() - {"notes.txt"}
    assert shown["labels"] == ["contains pickle"]


def test_commits_change_remove_and_copy_and_the_file_system_reads_ranges(script: Script) -> None:
    told = script.run(
        """
        name = f"{project}/ops"
        api.create_repo(name)
        weights = os.urandom(100_000)
        api.create_commit(name, commit_message="a", operations=[
            CommitOperationAdd("w.bin", weights), CommitOperationAdd("d/a.txt", b"a"), CommitOperationAdd("d/b.txt", b"b")])
        api.create_commit(name, commit_message="b", operations=[
            CommitOperationDelete("d/"), CommitOperationCopy("w.bin", "copy.bin")])
        fs = HfFileSystem()
        with fs.open(f"{name}/w.bin") as file:
            file.seek(50_000)
            middle = file.read(10) == weights[50_000:50_010]
        with fs.open(f"{name}/d/c.txt", "w") as file:
            file.write("through the file system")
        old = api.list_repo_files(name, revision="v1")
        print(json.dumps({
            "middle": middle, "old": old, "files": api.list_repo_files(name),
            "tree": [t.path for t in api.list_repo_tree(name, "d")], "text": fs.cat(f"{name}/d/c.txt").decode(),
            "paths": [p.path for p in api.get_paths_info(name, ["d", "w.bin", "none"])],
        }))
        """
    )
    assert told == {
        "middle": True,
        "old": ["d/a.txt", "d/b.txt", "w.bin"],
        "files": ["copy.bin", "d/c.txt", "w.bin"],
        "tree": ["d/c.txt"],
        "text": "through the file system",
        "paths": ["d", "w.bin"],
    }


def test_what_is_not_there_or_not_allowed_is_told_as_the_client_expects(
    server: PlatformServer, script: Script
) -> None:
    other = server.project()
    told = script.run(
        """
        name = f"{project}/errors"
        api.create_repo(name)
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name)
        viewer, other = os.environ["VIEWER"], os.environ["OTHER"]
        print(json.dumps([
            refused(hf_hub_download, name, "none.txt"),
            refused(hf_hub_download, name, "x.txt", revision="none"),
            refused(hf_hub_download, f"{project}/none", "x.txt"),
            refused(hf_hub_download, f"{other}/none", "x.txt"),
            refused(api.upload_file, path_or_fileobj=b"y", path_in_repo="y.txt", repo_id=name, token=viewer),
            refused(api.create_commit, name, [CommitOperationAdd("y", b"y")], commit_message="m", parent_commit="0" * 40),
            refused(api.create_commit, name, [CommitOperationDelete("none")], commit_message="m"),
            refused(api.create_branch, name, branch="b"),
            refused(api.create_repo, f"{project}/data", repo_type="dataset"),
            refused(HfApi(token=viewer[:-1] + "-").whoami),
            [api.file_exists(name, "x.txt"), api.file_exists(name, "y.txt"), api.repo_exists(f"{project}/none")],
            api.model_info(name, token=viewer).id == name,
        ]))
        """,
        VIEWER=server.key(script.project, "viewer"),
        OTHER=other,
    )
    assert told == [
        "RemoteEntryNotFoundError",
        "RevisionNotFoundError",
        "RepositoryNotFoundError",
        "RepositoryNotFoundError",
        "HfHubHTTPError",
        "HfHubHTTPError",
        "RemoteEntryNotFoundError",
        "HfHubHTTPError",
        "HfHubHTTPError",
        "HfHubHTTPError",
        [True, False, False],
        True,
    ]


def test_a_bucket_is_a_data_set_that_clients_read(server: PlatformServer, script: Script) -> None:
    bucket = f"{script.project}-rows"
    with server.http() as http:
        here = f"/api/v1/projects/{script.project}/buckets"
        assert http.post(here, json={"name": bucket}).status_code == 201
        for key, data in (("train/a.csv", b"x,y\n1,2\n"), ("test.csv", b"x,y\n3,4\n"), ("bad//key", b"x")):
            assert http.put(f"{here}/{bucket}/object", params={"key": key}, content=data).status_code == 201
    told = script.run(
        """
        name = f"{project}/{os.environ['BUCKET']}"
        info = api.dataset_info(name, files_metadata=True)
        place = snapshot_download(name, repo_type="dataset")
        fs = HfFileSystem()
        again = hf_hub_download(name, "test.csv", repo_type="dataset", revision=info.sha)
        print(json.dumps({
            "files": api.list_repo_files(name, repo_type="dataset"), "size": sum(s.size for s in info.siblings),
            "text": Path(place, "train", "a.csv").read_text(), "again": Path(again).read_text(),
            "glob": fs.glob(f"datasets/{name}/**/*.csv"), "cat": fs.cat(f"datasets/{name}/test.csv").decode(),
            "listed": [one.id for one in api.list_datasets(author=project)],
            "none": refused(api.dataset_info, f"{project}/none"),
            "old": refused(hf_hub_download, name, "test.csv", repo_type="dataset", revision="0" * 40),
            "write": refused(api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id=name, repo_type="dataset"),
        }))
        """,
        BUCKET=bucket,
    )
    name = f"{script.project}/{bucket}"
    assert (told["files"], told["size"]) == (["test.csv", "train/a.csv"], 16)
    assert (told["text"], told["again"], told["cat"]) == ("x,y\n1,2\n", "x,y\n3,4\n", "x,y\n3,4\n")
    assert told["glob"] == [f"datasets/{name}/test.csv", f"datasets/{name}/train/a.csv"]
    assert (told["listed"], told["none"], told["old"]) == (
        [name],
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
    )
    assert told["write"] == "HfHubHTTPError"


def test_a_second_platform_pulls_from_this_ones_hub_by_its_own_setting(
    server: PlatformServer, script: Script, tmp_path: Path
) -> None:
    script.run(
        """
        name = f"{project}/shared"
        api.create_repo(name)
        api.create_commit(name, commit_message="a", operations=[
            CommitOperationAdd("config.json", b"{}"), CommitOperationAdd("w.safetensors", b"0" * 200_000),
            CommitOperationAdd("pytorch_model.bin", b"\\x80\\x04}.")])
        print(json.dumps(None))
        """
    )
    other = PlatformServer(
        tmp_path / "home",
        STRATAL_HUB_UPSTREAM=f"{server.url}/hub",
        STRATAL_HUB_UPSTREAM_TOKEN=server.key(script.project, "viewer"),
    )
    try:
        other.up()
        made = other.json("models", "pull", f"hf:{script.project}/shared@v1", "--as", "mine")
        assert (made["name"], made["files"], made["labels"]) == ("mine", 2, [])
        assert [one["path"] for one in made["left_out"]] == ["pytorch_model.bin"]
        trusted = other.json(
            "models", "pull", f"hf:{script.project}/shared", "--as", "mine", "--allow-pickle"
        )
        assert (trusted["version"], trusted["labels"]) == (2, ["contains pickle"])
        missing = other.cli("models", "pull", f"hf:{script.project}/none", check=False)
        assert (missing.returncode, "does not show it" in missing.stderr) == (6, True)
    finally:
        other.down()
