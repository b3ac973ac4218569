"""Repositories with the real git client: what people do with them, and what must not be possible."""

import base64
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until


@dataclass
class Person:
    """Somebody with a key of a project, at a shell with ``eval "$(stratal env)"``."""

    server: PlatformServer
    project: str
    key: str
    folder: Path

    @cached_property
    def environ(self) -> dict[str, str]:
        said = {
            style: self.server.cli(
                "env", "--project", self.project, "--format", style, STRATAL_API_KEY=self.key
            ).stdout
            for style in ("sh", "dotenv", "json")
        }
        variables = dict(word.split("=", 1) for word in shlex.split(said["dotenv"]))
        assert variables == json.loads(said["json"])
        assert variables == dict(word.split("=", 1) for word in shlex.split(said["sh"]) if word != "export")
        assert not re.search(r"\$\{|=\".*\$", said["dotenv"]), "readers of dotenv files would replace that"
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
        }
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "STRATAL_"))
        }
        return {**kept, **variables, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}

    def git(
        self, *arguments: str, at: str = ".", check: bool = True, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder / at,
            env={**self.environ, **env},
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=120,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"git {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done

    def url(self, name: str) -> str:
        return f"{self.server.url}/git/{self.project}/{name}.git"

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self.server.http(self.key) as http:
            return http.request(method, f"/api/v1/projects/{self.project}{path}", **options)

    def made(self, name: str) -> str:
        """Create a repository; its address."""
        assert self.api("POST", "/repositories", json={"name": name}).status_code == 201
        return self.url(name)


@pytest.fixture(scope="module")
def project(server: PlatformServer) -> str:
    return server.project()


@pytest.fixture(scope="module")
def owner(server: PlatformServer, project: str, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(server, project, server.key(project, "owner"), tmp_path_factory.mktemp("owner"))


@pytest.fixture(scope="module")
def viewer(server: PlatformServer, project: str, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(server, project, server.key(project, "viewer"), tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def study(owner: Person) -> str:
    """A repository with three commits on ``trunk`` and a tag, in the owner's folder ``study`` too."""
    address = owner.made("study")
    owner.git("init", "-q", "-b", "trunk", "study")
    place = owner.folder / "study"
    (place / "README.md").write_text("# A study\n")
    (place / "src").mkdir()
    (place / "src" / "näme with space.py").write_text("print('one')\n")
    (place / "run.sh").write_text("#!/bin/sh\necho ran here\n")
    (place / "run.sh").chmod(0o755)
    (place / "link").symlink_to("src")
    owner.git("add", ".", at="study")
    owner.git("commit", "-qm", "Begin", at="study")
    (place / "src" / "näme with space.py").write_text("print('one')\nprint('two')\n")
    owner.git("commit", "-qam", "Say two", "-m", "Because one was not enough.", at="study")
    owner.git("tag", "-a", "v1", "-m", "The first", at="study")
    (place / "bytes.bin").write_bytes(bytes(range(256)) * 10)
    owner.git("add", ".", at="study")
    owner.git("commit", "-qm", "Add bytes", at="study")
    owner.git("remote", "add", "origin", address, at="study")
    owner.git("push", "-q", "origin", "trunk", "v1", at="study")
    return address


def test_what_was_pushed_is_cloned_fetched_and_found_in_the_api(
    owner: Person, viewer: Person, study: str
) -> None:
    head = owner.git("rev-parse", "HEAD", at="study").stdout.strip()
    told = owner.api("GET", "/repositories/study").json()
    assert (told["head"], told["protected"], told["clone_url"]) == ("trunk", ["trunk"], study)
    assert told["branches"] == [{"name": "trunk", "commit": head}]
    assert [tag["name"] for tag in told["tags"]] == ["v1"]
    assert told["bytes"] > 0
    assert told["pushed_by"].startswith("service:")

    viewer.git("clone", "-q", study, "whole")
    assert viewer.git("rev-parse", "HEAD", at="whole").stdout.strip() == head
    assert (viewer.folder / "whole" / "bytes.bin").read_bytes() == bytes(range(256)) * 10
    viewer.git("fsck", "--strict", at="whole")
    viewer.git("clone", "-q", "--depth", "1", study, "shallow")
    assert viewer.git("rev-list", "--count", "HEAD", at="shallow").stdout.strip() == "1"
    viewer.git("fetch", "-q", "--unshallow", at="shallow")
    assert viewer.git("rev-list", "--count", "HEAD", at="shallow").stdout.strip() == "3"
    viewer.git("clone", "-q", "--filter=blob:none", "--no-checkout", study, "partial")
    viewer.git("-c", "protocol.version=0", "clone", "-q", study, "older")

    (owner.folder / "study" / "more.txt").write_text("more\n")
    owner.git("add", ".", at="study")
    owner.git("commit", "-qm", "More", at="study")
    owner.git("push", "-q", "origin", "trunk", at="study")
    viewer.git("pull", "-q", at="whole")
    assert (viewer.folder / "whole" / "more.txt").read_text() == "more\n"


def test_looking_into_it(owner: Person, study: str) -> None:
    def ask(rest: str) -> Any:
        answer = owner.api("GET", f"/repositories/study{rest}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    entries = {entry["name"]: entry for entry in ask("/tree?rev=v1")["entries"]}
    assert {name: entry["kind"] for name, entry in entries.items()} == {
        "src": "folder", "README.md": "file", "run.sh": "program", "link": "link",
    }  # fmt: skip
    path = "src/n%C3%A4me%20with%20space.py"
    assert ask("/tree?path=src")["entries"][0]["name"] == "näme with space.py"
    assert ask(f"/file?path={path}&rev=v1")["text"] == "print('one')\nprint('two')\n"
    assert ask("/file?path=bytes.bin")["text"] is None
    raw = owner.api("GET", "/repositories/study/raw?path=bytes.bin")
    assert raw.content == bytes(range(256)) * 10
    assert raw.headers["content-disposition"].startswith("attachment")
    told = ask("/commits?rev=v1")["commits"]
    assert [commit["subject"] for commit in told] == ["Say two", "Begin"]
    assert told[0]["message"] == "Say two\n\nBecause one was not enough."
    assert [c["subject"] for c in ask(f"/commits?path={path}&limit=1")["commits"]] == ["Say two"]
    commit = ask(f"/commits/{told[0]['id']}")
    assert commit["changes"] == [{"path": "src/näme with space.py", "added": 1, "removed": 0}]
    assert "+print('two')" in commit["diff"]
    lines = ask(f"/blame?path={path}")["lines"]
    assert [(line["subject"], line["text"]) for line in lines] == [
        ("Begin", "print('one')"), ("Say two", "print('two')"),
    ]  # fmt: skip
    found = ask("/search?q=PRINT(&rev=v1")["found"]
    assert [(f["path"], f["line"]) for f in found] == [
        ("src/näme with space.py", 1),
        ("src/näme with space.py", 2),
    ]
    assert ask("/search?q=nowhere-to-be-found")["found"] == []


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("/tree?rev=none", 404),
        ("/tree?rev=--output=x", 400),
        ("/tree?rev=HEAD..v1", 400),
        ("/tree?rev=trunk:src", 400),
        ("/tree?path=../x", 400),
        ("/tree?path=src/../..", 400),
        ("/tree?path=/etc", 400),
        ("/tree?path=none", 404),
        ("/file?path=src", 404),
        ("/file?path=none", 404),
        ("/blame?path=bytes.bin", 400),
        ("/commits/--all", 400),
        ("/search?q=%20", 400),
    ],
)
def test_what_cannot_be_looked_at_is_refused(owner: Person, study: str, rest: str, status: int) -> None:
    answer = owner.api("GET", f"/repositories/study{rest}")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_who_may_not_push_is_told_so(
    owner: Person, viewer: Person, study: str, server: PlatformServer
) -> None:
    viewer.git("clone", "-q", study, "theirs")
    viewer.git("commit", "-q", "--allow-empty", "-m", "Mine", at="theirs")
    refused = viewer.git("push", "origin", "trunk", at="theirs", check=False)
    assert refused.returncode != 0
    assert "needs the role editor" in refused.stderr
    anonymous = viewer.git("ls-remote", study, check=False, STRATAL_API_KEY="st1k00000000000000000000.none")
    assert anonymous.returncode != 0
    assert "Authentication failed" in anonymous.stderr
    answer = httpx.get(f"{study}/info/refs?service=git-upload-pack")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="Stratal"')
    lost = viewer.git("ls-remote", study, check=False, STRATAL_API_KEY=server.key("default", "owner"))
    assert lost.returncode != 0
    assert "not found" in lost.stderr


def test_a_protected_branch_only_grows(owner: Person) -> None:
    address = owner.made("kept")
    owner.git("init", "-q", "-b", "main", "kept")
    for number in range(2):
        owner.git("commit", "-q", "--allow-empty", "-m", str(number), at="kept")
    owner.git("push", "-q", address, "main", "main:topic", at="kept")
    owner.git("commit", "-q", "--amend", "--allow-empty", "-m", "other", at="kept")
    for refspec in ("+main:main", ":main"):
        refused = owner.git("push", address, refspec, at="kept", check=False)
        assert "main is protected" in refused.stderr, refused.stderr
    owner.git("push", "-q", address, "+main:topic", at="kept")
    owner.git("push", "-q", address, ":topic", at="kept")
    odd = owner.git("push", address, "main:refs/stratal/x", at="kept", check=False)
    assert odd.returncode != 0
    owner.server.cli("repo", "protect", "kept", "--off", "--project", owner.project)
    owner.git("push", "-q", address, "+main:main", at="kept")
    main, topic = "refs/heads/main", "refs/heads/topic"
    assert _pushed(owner, "kept", 5) == [main, topic, topic, topic, main]
    owner.server.cli("repo", "rm", "kept", "--yes", "--project", owner.project)
    assert owner.git("ls-remote", address, check=False).returncode != 0


def _pushed(person: Person, name: str, count: int) -> list[str]:
    """The first `count` refs that the project's events say were pushed to a repository."""
    found: list[str] = []
    address = f"/api/v1/projects/{person.project}/events?after=0"
    with person.server.http(person.key) as http, http.stream("GET", address) as answer:
        for line in answer.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if event.get("kind") == "repository.pushed" and event["name"] == name:
                found.append(event["ref"])
                if len(found) == count:
                    return found
    raise AssertionError(found)


# -- trees that git would not make ---------------------------------------------------------------------


def _object(folder: Path, kind: bytes, data: bytes) -> str:
    """Write a loose object as it is, which git's own commands would refuse."""
    whole = kind + b" %d\0" % len(data) + data
    name = hashlib.sha1(whole).hexdigest()
    place = folder / ".git" / "objects" / name[:2] / name[2:]
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(zlib.compress(whole))
    return name


@pytest.mark.parametrize(
    ("mode", "name"),
    [("100644", ".."), ("40000", ".git"), ("40000", ".GIT"), ("100644", "../../etc/cron.d/x"), ("40000", "."),
     ("40000", "git~1")],
)  # fmt: skip
def test_a_tree_that_leads_out_is_refused(owner: Person, mode: str, name: str) -> None:
    address = owner.url("hostile")
    owner.api("POST", "/repositories", json={"name": "hostile"})
    place = owner.folder / f"hostile-{mode}-{name.replace('/', '_')}"
    owner.git("init", "-q", str(place))
    blob = _object(place, b"blob", b"evil\n")
    inner = _object(place, b"tree", b"100644 config\0" + bytes.fromhex(blob))
    target = blob if mode == "100644" else inner
    tree = _object(place, b"tree", f"{mode} {name}".encode() + b"\0" + bytes.fromhex(target))
    who = b"A <a@example.org> 1700000000 +0000"
    commit = _object(
        place,
        b"commit",
        b"tree " + tree.encode() + b"\nauthor " + who + b"\ncommitter " + who + b"\n\nevil\n",
    )
    (place / ".git" / "refs" / "heads" / "evil").write_text(commit + "\n")
    refused = owner.git("push", address, "evil", at=str(place), check=False)
    assert refused.returncode != 0, refused.stderr
    assert "evil" not in owner.git("ls-remote", address).stdout


def test_a_name_that_is_no_text_is_refused(owner: Person) -> None:
    """Nothing could say later what was pushed there."""
    address = owner.made("named")
    owner.git("init", "-q", "-b", "main", "named")
    owner.git("commit", "-q", "--allow-empty", "-m", "x", at="named")
    owner.git("push", "-q", address, "main", "main:größe", "main:fix/#7", at="named")
    odd = os.fsdecode(b"main:refs/heads/latin\xe9")
    refused = owner.git("push", address, odd, at="named", check=False)
    assert "UTF-8" in refused.stderr, refused.stderr
    named = owner.api("GET", "/repositories/named").json()["branches"]
    assert {one["name"] for one in named} == {"main", "größe", "fix/#7"}
    for name in ("größe", "fix/#7"):
        found = owner.api("GET", "/repositories/named/commits", params={"rev": name})
        assert [one["subject"] for one in found.json()["commits"]] == ["x"], found.text


def test_a_push_that_breaks_off_leaves_nothing(owner: Person) -> None:
    """What had come in by then would be in the project's quota for ever, or beside it."""
    owner.made("broken")
    number = owner.api("GET", "/repositories/broken").json()["id"]
    objects = owner.server.home / "repositories" / f"{number}.git" / "objects"
    incoming = lambda: list(objects.glob("*incoming*"))  # noqa: E731

    def body() -> Iterator[bytes]:
        yield _packet(f"{'0' * 40} {'1' * 40} refs/heads/main\0 report-status") + b"0000"
        yield b"PACK" + (2).to_bytes(4, "big") + (100).to_bytes(4, "big")
        wait_until(incoming)
        raise InterruptedError

    with owner.server.http(owner.key) as http, pytest.raises(InterruptedError):
        http.post(
            f"/git/{owner.project}/broken.git/git-receive-pack",
            content=body(),
            headers={"Content-Type": "application/x-git-receive-pack-request"},
        )
    wait_until(lambda: not incoming())


def test_a_small_pack_that_says_it_is_large_costs_no_memory(owner: Person) -> None:
    """A file of zeros, and one that is forty times the first: 640 MiB in some kilobytes."""
    owner.api("POST", "/repositories", json={"name": "swollen"})
    base = bytes(0xFFFFFF)
    delta = _size(len(base)) + _size(40 * len(base)) + b"\xf0\xff\xff\xff" * 40
    head = lambda kind, data: bytes([kind << 4 | len(data) & 15 | 128]) + _size(len(data) >> 4)  # noqa: E731
    known = hashlib.sha1(b"blob %d\0" % len(base) + base).digest()
    pack = b"PACK" + (2).to_bytes(4, "big") * 2 + head(3, base) + zlib.compress(base)
    pack += head(7, delta) + known + zlib.compress(delta)
    pack += hashlib.sha1(pack).digest()
    told = f"{'0' * 40} {known.hex()} refs/heads/main\0 report-status"
    with owner.server.http(owner.key) as http:
        answer = http.post(
            f"/git/{owner.project}/swollen.git/git-receive-pack",
            content=_packet(told) + b"0000" + pack,
            headers={"Content-Type": "application/x-git-receive-pack-request"},
        )
    assert b"unpack ok" not in answer.content
    assert owner.git("ls-remote", owner.url("swollen")).stdout == ""


def _size(number: int) -> bytes:
    """A number as packs have it: seven bits a byte, the smallest first."""
    more = b""
    while number > 127:
        more, number = more + bytes([number & 127 | 128]), number >> 7
    return more + bytes([number])


def test_addresses_that_lead_out_are_not_followed(owner: Person, study: str) -> None:
    with owner.server.http(owner.key) as http:
        for path in (
            f"/git/{owner.project}/..%2f..%2fkeys/info/refs?service=git-upload-pack",
            f"/git/{owner.project}/%2e%2e/info/refs?service=git-upload-pack",
            f"/git/{owner.project}/..;/study.git/info/refs?service=git-upload-pack",
            f"/git/{owner.project}/study.git/objects/info/packs",
            f"/git/{owner.project}/study.git/HEAD",
            f"/git/{owner.project}/study.git/config",
            f"/git/{owner.project}/study.git/info/refs%00?service=git-upload-pack",
        ):
            request = http.build_request("GET", path)
            answer = http.send(request)
            assert answer.status_code == 404, (path, answer.status_code)
        assert http.get(f"/git/{owner.project}/study.git/info/refs").status_code == 501


# -- bodies --------------------------------------------------------------------------------------------


def _packet(text: str) -> bytes:
    return f"{len(text) + 4:04x}{text}".encode()


def test_a_compressed_request_is_opened_and_a_broken_one_refused(owner: Person, study: str) -> None:
    body = _packet("command=ls-refs\n") + b"0001" + _packet("ref-prefix refs/heads/\n") + b"0000"
    headers = {"Content-Type": "application/x-git-upload-pack-request", "Git-Protocol": "version=2"}
    with owner.server.http(owner.key) as http:
        address = f"/git/{owner.project}/study.git/git-upload-pack"
        plain = http.post(address, content=body, headers=headers)
        packed = http.post(
            address, content=gzip.compress(body), headers={**headers, "Content-Encoding": "gzip"}
        )
        assert plain.status_code == packed.status_code == 200
        assert b"refs/heads/trunk" in plain.content
        assert plain.content == packed.content
        odd = http.post(address, content=body, headers={**headers, "Content-Encoding": "br"})
        assert odd.status_code == 501
        wrong = http.post(address, content=body, headers={**headers, "Content-Type": "text/plain"})
        assert wrong.status_code == 400
        torn = gzip.compress(os.urandom(5000))[:-2000]
        broken = http.post(address, content=torn, headers={**headers, "Content-Encoding": "gzip"})
        assert broken.status_code >= 400


def test_a_push_over_the_quota_is_refused(owner: Person, server: PlatformServer) -> None:
    address = owner.made("big")
    owner.git("init", "-q", "-b", "main", "big")
    (owner.folder / "big" / "noise").write_bytes(os.urandom(3 << 20))
    owner.git("add", ".", at="big")
    owner.git("commit", "-qm", "Noise", at="big")
    server.cli("repo", "quota", owner.project, "1MiB")
    refused = owner.git("push", address, "main", at="big", check=False)
    assert refused.returncode != 0
    assert "main" not in owner.git("ls-remote", address).stdout
    server.cli("repo", "quota", owner.project, "0")
    refused = owner.git("push", address, "main", at="big", check=False)
    assert "quota" in refused.stderr
    server.cli("repo", "quota", owner.project, "default")
    owner.git("push", "-q", address, "main", at="big")


# -- jobs ----------------------------------------------------------------------------------------------


def test_a_job_runs_a_commit_and_clones_with_its_own_credential(owner: Person, study: str) -> None:
    done = owner.server.cli(
        "run", "--project", owner.project, "--git", "study@v1", "--json", "--", "sh", "-c",
        './run.sh; cat src/*.py; git clone -q "$STRATAL_URL/git/$STRATAL_PROJECT/study.git" copy && ls copy',
    )  # fmt: skip
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded", done.stderr
    assert job["source"]["commit"] == owner.git("rev-parse", "v1^{commit}", at="study").stdout.strip()
    assert job["source"]["remote"] == study
    assert not job["source"]["dirty"]
    log = owner.api("GET", f"/jobs/{job['id']}/logs").text
    assert "ran here\nprint('one')\nprint('two')\n" in log
    assert "bytes.bin" in log
    page = _page(owner, f"/projects/{owner.project}/jobs/{job['id']}")
    assert f"/projects/{owner.project}/repositories/study/commits/{job['source']['commit']}" in page


def _page(person: Person, path: str) -> str:
    link = str(person.server.json("login-link")["url"])
    with httpx.Client(base_url=person.server.url, follow_redirects=True) as browser:
        browser.get(link, headers={"accept": "text/html"})
        answer = browser.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200
    return answer.text


def test_basic_and_bearer_are_the_same_key(owner: Person, study: str) -> None:
    key_id, _, secret = owner.key.partition(".")
    pair = base64.b64encode(f"{key_id}:{secret}".encode()).decode()
    for header in (f"Basic {pair}", f"Bearer {owner.key}"):
        answer = httpx.get(f"{study}/info/refs?service=git-upload-pack", headers={"Authorization": header})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-git-upload-pack-advertisement"


def test_a_push_is_checked_and_a_merge_waits_for_it(owner: Person) -> None:
    """`.stratal/ci.toml` through the real thing: push, job, check on the merge request, and what it lets in."""
    address = owner.made("checked")
    owner.git("init", "-q", "-b", "main", "checked")
    place = owner.folder / "checked"
    (place / ".stratal").mkdir()
    (place / ".stratal" / "ci.toml").write_text(
        '[[check]]\nname = "holds"\ncommand = ["sh", "check.sh"]\nbranches = ["topic"]\n'
    )
    (place / "check.sh").write_text("grep -q right answer.txt\n")
    (place / "answer.txt").write_text("right\n")
    owner.git("add", ".", at="checked")
    owner.git("commit", "-qm", "Begin", at="checked")
    owner.git("remote", "add", "origin", address, at="checked")
    owner.git("push", "-q", "origin", "main", at="checked")
    owner.git("checkout", "-q", "-b", "topic", at="checked")

    def push(answer: str) -> str:
        (place / "answer.txt").write_text(f"{answer}\n")
        owner.git("commit", "-qam", f"Say {answer}", at="checked")
        owner.git("push", "-q", "origin", "topic", at="checked")
        return owner.git("rev-parse", "HEAD", at="checked").stdout.strip()

    head = push("wrong")
    made = owner.api(
        "POST",
        "/repositories/checked/merges",
        json={"title": "An answer", "source": "topic", "target": "main"},
    )
    assert made.status_code == 201, made.text
    merge = f"/repositories/checked/merges/{made.json()['number']}"

    def state(commit: str) -> str:
        found = owner.api("GET", merge).json()
        if found["source_commit"] != commit or not found["checks"]:
            return ""
        (check,) = found["checks"]
        assert check["name"] == "holds"
        return str(check["state"])

    wait_until(lambda: state(head) == "failed", seconds=120)
    refused = owner.api("POST", f"{merge}/accept", json={})
    assert (refused.status_code, "holds" in refused.text) == (409, True), refused.text
    assert owner.git("ls-remote", "origin", "main", at="checked").stdout.split()[0] != head
    head = push("right again")
    wait_until(lambda: state(head) == "succeeded", seconds=120)
    done = owner.api("POST", f"{merge}/accept", json={})
    assert done.status_code == 200, done.text
    owner.git("fetch", "-q", "origin", at="checked")
    assert owner.git("show", "origin/main:answer.txt", at="checked").stdout == "right again\n"


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed (Debian: git-lfs)")
def test_large_files_go_with_git_lfs_and_only_editors_push_them(owner: Person, viewer: Person) -> None:
    address = owner.made("heavy")
    owner.git("init", "-q", "-b", "main", "heavy")
    owner.git("lfs", "install", "--local", "--skip-smudge", at="heavy")
    owner.git("lfs", "track", "*.bin", at="heavy")
    data = bytes(range(256)) * 8192
    (owner.folder / "heavy" / "a.bin").write_bytes(data)
    owner.git("add", ".", at="heavy")
    owner.git("commit", "-qm", "Heavy", at="heavy")
    owner.git("remote", "add", "origin", address, at="heavy")
    owner.git("push", "-q", "origin", "main", at="heavy")
    assert owner.git("show", "HEAD:a.bin", at="heavy").stdout.startswith("version https://git-lfs.github.com")
    oid = hashlib.sha256(data).hexdigest()

    viewer.git("clone", "-q", address, "heavy", GIT_LFS_SKIP_SMUDGE="1")
    viewer.git("lfs", "install", "--local", at="heavy")
    viewer.git("lfs", "pull", at="heavy")
    assert (viewer.folder / "heavy" / "a.bin").read_bytes() == data
    (viewer.folder / "heavy" / "b.bin").write_bytes(data[1:])
    viewer.git("add", ".", at="heavy")
    viewer.git("commit", "-qm", "More", at="heavy")
    refused = viewer.git("lfs", "push", "origin", "main", at="heavy", check=False)
    assert refused.returncode != 0
    assert "editor" in refused.stderr + refused.stdout

    def lfs(who: Person, method: str, path: str, **options: Any) -> httpx.Response:
        with owner.server.http(who.key) as http:
            return http.request(method, f"/git/{owner.project}/heavy.git/info/lfs/{path}", **options)

    assert lfs(viewer, "GET", f"objects/{oid}").content == data
    assert lfs(viewer, "PUT", f"objects/{oid}", content=data).status_code == 403
    assert lfs(owner, "PUT", f"objects/{'0' * 64}", content=data).status_code == 400
    assert lfs(owner, "GET", f"objects/{'1' * 64}").status_code == 404
    wrong = lfs(
        owner, "POST", "objects/batch", json={"operation": "upload", "objects": [{"oid": "../x", "size": 1}]}
    )
    assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/vnd.git-lfs+json")
    before = owner.api("GET", "/repositories").json()["used_bytes"]
    assert owner.api("DELETE", "/repositories/heavy").status_code == 204
    assert before - owner.api("GET", "/repositories").json()["used_bytes"] > len(data)


@pytest.mark.soak
def test_a_repository_of_five_thousand_files(owner: Person, viewer: Person) -> None:
    address = owner.made("many")
    owner.git("init", "-q", "-b", "main", "many")
    place = owner.folder / "many"
    for number in range(5000):
        path = place / f"part{number % 50:02}" / f"file{number:05}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64encode(os.urandom(1500)))
    owner.git("add", "-A", at="many")
    owner.git("commit", "-qm", "Many", at="many")
    owner.git("push", "-q", address, "main", at="many")
    viewer.git("clone", "-q", address, "many")
    assert len(viewer.git("ls-files", at="many").stdout.splitlines()) == 5000
    viewer.git("clone", "-q", "--depth", "1", address, "thin")
    (place / "one.txt").write_text("more")
    owner.git("add", "-A", at="many")
    owner.git("commit", "-qm", "One more", at="many")
    owner.git("push", "-q", address, "main", at="many")
    viewer.git("fetch", "-q", at="many")
    for clone in ("many", "thin"):
        viewer.git("pull", "-q", at=clone)
        assert (viewer.folder / clone / "one.txt").read_text() == "more"
        viewer.git("fsck", "--no-dangling", at=clone)
    refused = viewer.git("push", "-q", address, "HEAD:refs/heads/mine", at="many", check=False)
    assert refused.returncode != 0
    listed = owner.api("GET", "/repositories/many/tree", params={"path": "part07"}).json()
    assert len(listed["entries"]) == 100


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed (Debian: git-lfs)")
def test_three_hundred_megabytes_of_large_files(owner: Person, viewer: Person) -> None:
    address = owner.made("large")
    owner.git("init", "-q", "-b", "main", "large")
    owner.git("lfs", "install", "--local", "--skip-smudge", at="large")
    owner.git("lfs", "track", "*.bin", at="large")
    sums = {}
    for name in ("a.bin", "b.bin", "c.bin"):
        digest = hashlib.sha256()
        with (owner.folder / "large" / name).open("wb") as file:
            for _ in range(100):
                block = os.urandom(1 << 20)
                digest.update(block)
                file.write(block)
        sums[name] = digest.hexdigest()
    owner.git("add", ".", at="large")
    owner.git("commit", "-qm", "Large", at="large")
    owner.git("remote", "add", "origin", address, at="large")
    owner.git("push", "-q", "origin", "main", at="large")
    viewer.git("clone", "-q", address, "large", GIT_LFS_SKIP_SMUDGE="1")
    viewer.git("lfs", "install", "--local", at="large")
    viewer.git("lfs", "pull", at="large")
    for name, expected in sums.items():
        with (viewer.folder / "large" / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == expected
    assert owner.api("DELETE", "/repositories/large").status_code == 204
