"""The Hub door without its client: what no client would send, and what an upload is held to."""

import base64
import hashlib
import itertools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratal.gateway.hub.wire import byte_range
from stratal.kernel.errors import RangeInvalid
from wired import Answer, Wired

pytestmark = pytest.mark.fast

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    running = Wired(tmp_path_factory.mktemp("hub") / "home")
    yield running
    running.close()


@pytest.fixture
def model(wired: Wired) -> str:
    """The address of a new, empty repository."""
    name = f"m{next(NUMBERS)}"
    made = wired.ask("POST", "/hub/api/repos/create", wired.admin, json={"name": name})
    assert made.status == 200, made
    return f"/hub/api/models/default/{name}"


def committed(wired: Wired, model: str, *changes: tuple[str, dict[str, Any]], parent: str = "") -> Answer:
    header = {"summary": "Change", "parentCommit": parent}
    lines = [{"key": key, "value": value} for key, value in [("header", header), *changes]]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    return wired.ask("POST", f"{model}/commit/main", wired.admin, body=body)


def added(path: str, data: bytes = b"x") -> tuple[str, dict[str, Any]]:
    return "file", {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}


def uploaded(wired: Wired, model: str, data: bytes, *, sent: bytes | None = None, oid: str = "") -> Answer:
    """Go the LFS way with `data`; `sent` are the bytes really put there."""
    oid = oid or hashlib.sha256(data).hexdigest()
    name = model.rpartition("/")[2]
    batch = wired.ask(
        "POST",
        f"/hub/default/{name}.git/info/lfs/objects/batch",
        wired.admin,
        json={"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]},
    )
    href = batch.json()["objects"][0]["actions"]["upload"]["href"]
    return wired.ask("PUT", href.partition("127.0.0.1:8484")[2], body=data if sent is None else sent)


def files(wired: Wired, model: str, revision: str = "main") -> list[str]:
    tree = wired.ask("GET", f"{model}/tree/{revision}?recursive=true", wired.admin).json()
    return [entry["path"] for entry in tree if entry["type"] == "file"]


def blobs(wired: Wired) -> int:
    root = wired.platform.settings.home.blobs / "artifacts"
    return sum(path.is_file() for path in Path(root).rglob("*"))


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "a\\b",
        "a/%2e%2e/b",
        ".git/config",
        "a\x00b",
        "",
        "a/",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(wired: Wired, model: str, path: str) -> None:
    before = wired.rows(), blobs(wired)
    answer = committed(wired, model, added(path))
    assert answer.status == 400, answer
    assert answer.headers["x-error-message"]
    assert (wired.rows(), blobs(wired)) == before


def test_links_are_no_files(wired: Wired, model: str) -> None:
    before = wired.rows(), blobs(wired)
    answer = committed(wired, model, ("symlink", {"path": "a", "target": "/etc/passwd"}))
    assert answer.status == 501
    assert "links" in answer.json()["error"]
    assert (wired.rows(), blobs(wired)) == before


def test_bytes_that_changed_on_the_way_are_refused_and_not_kept(wired: Wired, model: str) -> None:
    before = wired.rows(), blobs(wired)
    for sent in (b"lorem", b"ipsu", b"longer than that"):
        answer = uploaded(wired, model, b"ipsum", sent=sent)
        assert answer.status == 400, answer
    link = {"path": "w.bin", "algo": "sha256", "oid": hashlib.sha256(b"ipsum").hexdigest(), "size": 5}
    answer = committed(wired, model, ("lfsFile", link))
    assert (answer.status, "were not uploaded" in answer.json()["error"]) == (400, True)
    assert (wired.rows(), blobs(wired)) == before


def test_an_address_to_upload_to_is_good_for_its_bytes_and_its_key_only(wired: Wired, model: str) -> None:
    key = wired.key("default", "editor")
    name, oid = model.rpartition("/")[2], hashlib.sha256(b"weights").hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": oid, "size": 7}]}
    batch = wired.ask("POST", f"/hub/default/{name}.git/info/lfs/objects/batch", key, json=asked)
    href = batch.json()["objects"][0]["actions"]["upload"]["href"].partition("127.0.0.1:8484")[2]
    for wrong in (
        href.replace(oid, "0" * 64),
        href.replace("size=7", "size=8"),
        href.replace("until=", "until=9"),
        href.partition("?")[0],
        href[:-1] + ("0" if href[-1] != "0" else "1"),
    ):
        assert wired.ask("PUT", wrong, body=b"weights").status == 401, wrong
    assert wired.ask("PUT", href, body=b"weights").status == 200
    wired.ask("DELETE", f"/api/v1/keys/{key.partition('.')[0]}", wired.admin)
    assert wired.ask("PUT", href, body=b"weights").status == 401


def test_large_and_small_files_become_a_version_and_share_their_bytes_with_the_next(
    wired: Wired, model: str
) -> None:
    name = model.rpartition("/")[2]
    assert uploaded(wired, model, b"tensors").status == 200
    link = {"path": "model.bin", "algo": "sha256", "oid": hashlib.sha256(b"tensors").hexdigest(), "size": 7}
    first = committed(wired, model, ("lfsFile", link), added("config.json", b"{}")).json()["commitOid"]
    before = blobs(wired)
    second = committed(wired, model, added("notes/a.txt"), parent=first).json()["commitOid"]
    assert blobs(wired) == before + 1
    assert files(wired, model, first) == ["config.json", "model.bin"]
    assert files(wired, model) == files(wired, model, second) == ["config.json", "model.bin", "notes/a.txt"]
    stale = committed(wired, model, added("b.txt"), parent=first)
    assert stale.status == 412
    same = committed(wired, model, added("notes/a.txt"))
    assert same.json()["commitOid"] == second
    assert blobs(wired) == before + 1
    told = wired.ask("GET", f"/api/v1/projects/default/models/{name}/versions/2", wired.admin).json()
    assert [file["path"] for file in told["files"]] == files(wired, model)
    verified = wired.ask("GET", f"/api/v1/projects/default/models/{name}/versions/2/verify", wired.admin)
    assert verified.json()["verified"] is True
    clash = committed(wired, model, added("config.json/x"))
    assert (clash.status, "is a file" in clash.json()["error"]) == (400, True)
    emptied = [("deletedFile", {"path": path}) for path in files(wired, model)]
    assert committed(wired, model, *emptied).status == 400


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("training_args.bin", pickle.dumps({"a": 1})),
        ("pytorch_model.bin", b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + b"\0" * 40),
        ("model.joblib", b"anything"),
    ],
)
def test_files_that_carry_a_pickle_are_kept_and_labelled(
    wired: Wired, model: str, path: str, data: bytes
) -> None:
    committed(wired, model, added("model.safetensors"))
    assert "contains pickle" not in wired.ask("GET", model, wired.admin).json()["tags"]
    committed(wired, model, added(path, data))
    told = wired.ask("GET", model, wired.admin).json()
    assert {"contains pickle", "safetensors"} <= set(told["tags"])
    committed(wired, model, ("deletedFile", {"path": path}))
    assert "contains pickle" not in wired.ask("GET", model, wired.admin).json()["tags"]


def test_a_file_is_sent_whole_in_part_and_not_at_all_when_known(wired: Wired, model: str) -> None:
    committed(wired, model, added("a.txt", b"0123456789"), added("empty", b""))
    at = f"/hub/default/{model.rpartition('/')[2]}/resolve/main"
    whole = wired.ask("GET", f"{at}/a.txt", wired.admin)
    assert (whole.status, whole.body) == (200, b"0123456789")
    assert whole.headers["etag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert whole.headers["content-disposition"].startswith("attachment")
    part = wired.ask("GET", f"{at}/a.txt", wired.admin, headers={"Range": "bytes=3-5"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"345", "bytes 3-5/10")
    past = wired.ask("GET", f"{at}/a.txt", wired.admin, headers={"Range": "bytes=10-"})
    assert past.status == 416
    known = wired.ask("GET", f"{at}/a.txt", wired.admin, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status, known.body) == (304, b"")
    changed = wired.ask(
        "GET", f"{at}/a.txt", wired.admin, headers={"Range": "bytes=3-5", "If-Range": '"other"'}
    )
    assert changed.status == 200
    assert wired.ask("GET", f"{at}/empty", wired.admin).body == b""
    missing = wired.ask("HEAD", f"{at}/none.txt", wired.admin)
    assert (missing.status, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert missing.headers["x-repo-commit"] == whole.headers["x-repo-commit"]
    outside = wired.ask("GET", f"{at}/..%2f..%2fmaster.key", wired.admin)
    assert outside.status == 400


def test_uploads_that_nobody_commits_are_forgotten(wired: Wired, model: str, monkeypatch: Any) -> None:
    assert uploaded(wired, model, b"abandoned").status == 200
    before = blobs(wired)
    monkeypatch.setattr("stratal.ai.models.commits._KEPT", -1)
    assert uploaded(wired, model, b"another").status == 200
    assert blobs(wired) <= before
    oid = hashlib.sha256(b"abandoned").hexdigest()
    answer = committed(wired, model, ("lfsFile", {"path": "a.bin", "algo": "sha256", "oid": oid}))
    assert answer.status == 400


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=4-", (4, 6)),
        ("bytes=-3", (7, 3)),
        ("bytes=-30", (0, 10)),
        ("bytes=2-99", (2, 8)),
        ("bytes=5-2", None),
        ("bytes=1-2,4-5", None),
        ("lines=1-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges_are_read_as_the_specification_says(header: str, span: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_outside_is_told(header: str) -> None:
    with pytest.raises(RangeInvalid):
        byte_range(header, 10)


def test_metadata_that_stands_for_billions_of_values_is_refused_and_costs_nothing(
    wired: Wired, model: str
) -> None:
    """Asked without a key, as the client does."""

    def validated(head: str) -> Answer:
        return wired.ask("POST", "/hub/api/validate-yaml", None, json={"content": f"---\n{head}\n---\ntext"})

    nine = ",".join(["*a"] * 9)
    grown = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{nine.replace('a', f'a{n - 1}')}]" for n in range(1, 12))]
    merged = [
        "a0: &a0 {k: x}",
        *(f"a{n}: &a{n} {{<<: [{nine.replace('a', f'a{n - 1}')}]}}" for n in range(1, 12)),
    ]
    long = f"a: &a {'x' * 30_000}\nb: [{','.join(['*a'] * 5_000)}]"
    for head in ("\n".join(grown), "\n".join(merged), long, "x: " * 40_000, "a: [", "a: &a [*a]"):
        assert validated(head).status == 400, head[:40]
    assert validated("license: mit\ntags: &t [a]\nmore: *t").json() == {"errors": [], "warnings": []}
    bomb = "\n".join(["---", *grown, "---"]).encode()
    assert committed(wired, model, added("README.md", bomb)).status == 200
    assert wired.ask("GET", model, wired.admin).status == 200
    assert wired.ask("GET", "/hub/api/validate-yaml", wired.admin).status == 404


def test_a_name_that_no_file_system_holds_is_refused(wired: Wired, model: str) -> None:
    for path in ("a/" + "x" * 256, "é" * 128, "a/" + "é" * 128 + "/b"):
        refused = committed(wired, model, added(path))
        assert (refused.status, "bytes" in refused.body.decode()) == (400, True)
    assert committed(wired, model, added("x" * 255)).status == 200


def test_who_may_read_is_told_so_and_what_is_not_offered_too(wired: Wired, model: str) -> None:
    assert wired.ask("GET", f"{model}/auth-check", wired.admin).status == 200
    assert wired.ask("GET", f"{model[:-1]}-none/auth-check", wired.admin).status == 404
    assert wired.ask("GET", f"{model}/discussions", wired.admin).status == 501
