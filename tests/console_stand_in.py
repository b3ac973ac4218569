"""The console on a stand-in for the native API: what its fast tests share."""

import asyncio
import time
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote, unquote

import httpx

from stratal.console.app import Console
from stratal.console.native import Refused

HOSTILE = "\"><img src=x onerror=alert(1)>'{{7*7}}"
BROWSER = {"accept": "text/html", "host": "localhost", "sec-fetch-site": "none"}


class Native:
    """Answers what it was given; asks for the cookie ``good`` as the real API would."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers = {
            "/api/v1/whoami": {"name": "admin", "project": "default", "role": "admin"},
            "/api/v1/projects": {"projects": [{"name": "default"}, {"name": "other"}]},
            **(answers or {}),
        }
        self.asked: list[str] = []

    async def __call__(
        self, method: str, path: str, params: Mapping[str, object] | None, cookie: str | None
    ) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if cookie != "good":
            return 401, {"error": {"code": "unauthenticated", "message": "You are not signed in."}}
        if path not in self.answers:
            return 404, {"error": {"code": "not_found", "message": f"There is no {unquote(path)}."}}
        return 200, self.answers[path]


class Accounts:
    """Lets in whoever has one of the browser's links, and ``ada`` with the password ``right``."""

    def __init__(self, browser: "Browser") -> None:
        self.browser = browser

    async def by_link(self, token: str, address: str, agent: str) -> str | None:
        if token not in self.browser.links:
            return None
        self.browser.links.discard(token)
        return "good"

    async def by_password(self, name: str, password: str, code: str, address: str, agent: str) -> str:
        if (name, password) != ("ada", "right"):
            raise Refused(401, "wrong_password", f"Name or password is wrong. {HOSTILE}")
        if code != "123456":
            raise Refused(401, "wrong_code" if code else "needs_code", "Now the code.")
        return "good"

    federated = True

    async def begin(self, redirect_uri: str, target: str) -> tuple[str, str]:
        return f"https://id.example.org/?redirect_uri={quote(redirect_uri, safe='')}", f"kept:{target}"

    async def finish(self, state: str, code: str, browser: str, address: str, agent: str) -> tuple[str, str]:
        if (state, code) != ("s", "c") or not browser.startswith("kept:"):
            raise Refused(401, "stale_login", f"Begin again. {HOSTILE}")
        return "good", browser.removeprefix("kept:")

    async def invitation(self, token: str) -> tuple[str, str, str]:
        if token != "invited":
            raise Refused(401, "spent_invitation", "This invitation was taken up.")
        return HOSTILE, "editor", HOSTILE

    async def accept(self, token: str, name: str, password: str, address: str, agent: str) -> str:
        await self.invitation(token)
        if name == "taken":
            raise Refused(409, "name_taken", f"The name is taken. {HOSTILE}")
        return "good"

    async def leave(self, token: str) -> None:
        self.browser.ended.append(token)


class Browser:
    """A console on a stand-in, with one link ``fresh`` that signs in once."""

    def __init__(self, native: Native | None = None, *, secure: bool = False) -> None:
        self.native = native or Native()
        self.links = {"fresh"}
        self.ended: list[str] = []

        self.console = Console(self.native, Accounts(self), cookie="session", secure=secure)

    def ask(self, method: str, path: str, *, cookie: str | None = "good", **options: Any) -> httpx.Response:
        headers = {**BROWSER, **options.pop("headers", {})}
        if cookie is not None:
            headers["cookie"] = f"session={cookie}"

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.console)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)


BASE = "/api/v1/projects/default"


def answers(word: str) -> dict[str, Any]:
    """What the native API says of a project in which everything that can be named is named `word`."""
    at = "2026-11-23T12:00:00.000Z"
    job: dict[str, Any] = {
        "id": 7,
        "name": word,
        "state": "running",
        "exit_code": None,
        "reason": word,
        "argv": ["python", word],
        "created_by": word,
        "queued_at": at,
        "started_at": at,
        "ended_at": None,
        "env": {word: word},
        "cpus": 1.0,
        "memory_bytes": 1 << 28,
        "network": "platform",
        "requirements": [word],
        "environment": "e" * 64,
        "snapshot": "c" * 64,
        "cwd": word,
        "source": {"kind": "git", "commit": word, "branch": word, "dirty": True, "untracked": [word]},
        "usage": {
            "cpu_seconds": 1.5,
            "peak_memory_bytes": 1 << 20,
            "wall_seconds": 2.0,
            "gpu_seconds": 2.0,
            "gpu_busy_seconds": 1.0,
            "gpu_peak_memory_bytes": 7,
        },
        "isolation": {
            "state": "not isolated",
            "complete": False,
            "sandbox": "none",
            "network": "open",
            "memory": "none",
            "landlock": False,
            "other_inputs": [word],
        },
        "log_bytes": 12,
        "gpus": 1,
        "nodes": 2,
        "procs_per_node": 2,
        "gpu_type": word,
        "gpu_uuids": [word],
        "attempt": 2,
        "retries": 3,
        "priority": 1,
        "array": None,
        "array_index": None,
        "after": [6],
        "checkpoint_bytes": 5,
    }
    member = {**job, "id": 8, "array": "a3", "array_index": 0}
    gpu = {
        "uuid": word,
        "type": word,
        "name": word,
        "memory_bytes": 1 << 33,
        "fake": True,
        "held": True,
        "project": word,
        "busy": 0.5,
        "memory_used_bytes": 1 << 30,
    }
    attempt = {
        "number": 1,
        "state": "failed",
        "exit_code": 3,
        "reason": word,
        "started_at": at,
        "ended_at": at,
        "log_bytes": 12,
    }
    table = {
        "name": word,
        "id": "tbl_1",
        "rows": 3,
        "bytes": 10,
        "files": 1,
        "snapshot_id": "123",
        "created_at": at,
        "created_by": word,
        "updated_at": at,
        "location": word,
        "columns": [{"name": word, "type": word, "required": True, "doc": word}],
        "snapshots": [
            {
                "snapshot_id": "123",
                "parent_id": None,
                "operation": word,
                "summary": {"added-records": word},
                "current": True,
                "committed_at": at,
                "committed_by": word,
                "workload": f"job:{word}",
            }
        ],
    }
    run = {
        "name": word,
        "id": "r1",
        "experiment": word,
        "experiment_id": "1",
        "state": "running",
        "started_at": at,
        "ended_at": None,
        "created_by": word,
        "job": "7",
        "metrics": {word: 0.25},
        "params": {word: word},
        "tags": {word: word},
        "series": [{"key": word, "count": 2, "points": []}],
        "datasets": [{"name": word, "digest": word, "context": word}],
        "models": [word],
    }
    version = {
        "name": word,
        "version": 1,
        "id": "mv_1",
        "uri": f"models:/{word}/1",
        "description": word,
        "aliases": [word],
        "run_id": "r1",
        "job": "7",
        "flavors": [word],
        "formats": [word],
        "labels": [word],
        "python_version": word,
        "created_at": at,
        "created_by": word,
        "tags": {word: word},
        "signature": {word: word},
        "requirements": word,
        "files": [{"path": word, "size": 3, "sha256": "a" * 64}],
        "forms": [
            {
                "kind": word,
                "id": word,
                "state": state,
                "why": word,
                "job": "7",
                "parity": {"real_rows": 1, "rows": 2, "apart": 1e-7, "estimator_ms": 5.5, "onnx_ms": 0.06},
                "size": 3,
                "files": [{"path": word, "size": 3, "sha256": "a" * 64}],
                "created_at": at,
                "ended_at": at,
                "created_by": word,
            }
            for state in ("made", "waiting", "converting", "refused", "failed")
        ],
    }
    model = {
        "name": word,
        "description": word,
        "latest_version": 1,
        "aliases": {word: 1},
        "created_at": at,
        "updated_at": at,
        "created_by": word,
        "tags": {word: word},
        "versions": [version],
    }
    stored = {
        "name": word,
        "version": "obj_1",
        "size": 3,
        "sha256": "a" * 64,
        "etag": word,
        "content_type": word,
        "metadata": {word: word},
        "created_at": at,
        "created_by": word,
    }
    slice_ = {"answered": 3, "failed": 1, "p50_ms": 1.5, "p95_ms": 2.5}
    recent = {**slice_, "p99_ms": 3.5}
    endpoint = {
        "name": word,
        "state": "failed",
        "model": word,
        "version": "1",
        "revision": 1,
        "url": word,
        "invocations_url": word,
        "failure": word,
        "created_at": at,
        "interface": {
            "columns": [word],
            "inputs": [{"name": word, "datatype": word, "shape": [-1, 1]}],
            "outputs": [{"name": word, "datatype": "FP64", "shape": [-1]}],
        },
        "idle_seconds": 600,
        "requests": 1,
        "awake": 1,
        "form_since": word,
        "active": {
            **{"number": 1, "model": word, "version": "1", "asked": word, "form": word, "converted_by": "7"},
            "runtime": word,
        },
        "max": 2,
        "in_flight": 3,
        "recent": recent,
        "traffic": [
            {
                "revision": 1,
                "version": "1",
                "model": word,
                "percent": 100,
                "condition": "awake",
                "failure": word,
                "waiting": 1,
                "replicas": [{"id": word, "in_flight": 1}],
                "recent": {**recent, "slice_seconds": 10, "slices": [{**slice_, "at": time.time() - 30}]},
            }
        ],
    }
    repository = {
        "name": word,
        "id": "repo_1",
        "description": word,
        "project": word,
        "protected": [word],
        "bytes": 3,
        "created_at": at,
        "created_by": word,
        "pushed_at": at,
        "pushed_by": word,
        "clone_url": word,
        "head": word,
        "branches": [{"name": word, "commit": "a" * 40}],
        "tags": [{"name": word, "commit": "a" * 40}],
    }
    merge = {
        "number": 1, "name": f"{word}!1", "repository": word, "title": word, "text": word, "source": word,
        "target": word, "state": "open", "created_at": at, "created_by": word, "ended_at": None, "ended_by": None,
        "merge_commit": None,
    }  # fmt: skip
    commit = {
        "id": "a" * 40,
        "parents": ["b" * 40],
        "author": word,
        "email": word,
        "authored_at": at,
        "committed_at": at,
        "subject": word,
        "message": f"{word}\n\n{word}",
        "changes": [{"path": word, "added": 1, "removed": None}],
        "diff": f"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-{word}\n+{word}\n",
        "diff_cut": True,
    }
    revision = {
        "number": 1,
        "seq": 1,
        "state": "failed",
        "failure": word,
        "target": word,
        "snapshot": "c" * 64,
        "source": {"commit": word},
        "requirements": [word],
        "environment": "e" * 64,
        "min": 0,
        "max": 1,
        "max_concurrency": 8,
        "idle_seconds": 300,
        "timeout_seconds": 60,
        "retries": 3,
        "memory_bytes": 1 << 29,
        "public": True,
        "schedule": word,
        "zone": word,
        "on": [word],
        "created_at": at,
        "created_by": word,
    }
    function = {
        "name": word,
        "state": "failed",
        "failure": word,
        "target": word,
        "revision": 1,
        "public": True,
        "replicas": 1,
        "in_flight": 2,
        "url": word,
        "created_at": at,
        "created_by": word,
        "active": None,
        "latest": revision,
        "invocations": {"dead": 1, "succeeded": 2},
        "running": [{"id": word, "started_at": at, "isolation": {"sandbox": word}}],
    }
    workspace = {
        "id": word,
        "name": word,
        "project": word,
        "state": "stopped",
        "failure": word,
        "stopped_why": word,
        "url": word,
        "workload": word,
        "requirements": [word],
        "environment": "e" * 64,
        "memory_bytes": 3,
        "cpus": 0.5,
        "idle_seconds": 60,
        "network": "open",
        "visitors": [word],
        "used_at": at,
        "created_at": at,
        "created_by": word,
        "servers": [{"id": word, "started_at": at, "ended_at": None, "isolation": {"sandbox": word}}],
    }
    save = {"id": 3, "path": word, "sha256": "a" * 64, "size": 3, "saved_at": at, "saved_by": word}
    invocation = {
        "id": "inv_1",
        "state": "dead",
        "trigger": word,
        "caller": word,
        "status": 500,
        "error": {"code": word, "type": word, "message": word},
        "attempt": 4,
        "failures": 4,
        "result_type": word,
        "result_bytes": 3,
        "log_bytes": 3,
        "waits_until": at,
        "created_at": at,
        "started_at": at,
        "ended_at": at,
        "seconds": 0.5,
    }
    check = {"path": word, "expected": word, "found": None, "state": "broken"}
    links = [
        {
            "kind": kind,
            "id": word,
            "name": f"{word}/1",
            "status": status,
            "facts": [{"name": word, "value": word}],
            "hashes": [
                {"what": word, "recorded": word, "recomputed": None, "status": status, "note": word},
            ],
        }
        for kind, status in (("prediction", "verified"), ("model version", "broken"), ("object", "unproven"))
    ]
    why = {
        "prediction_id": "pr_1",
        "project": "default",
        "verified": False,
        "status": "broken",
        "verdict": word,
        "other_inputs": [word],
        "chain": links,
    }
    tensor = {"name": word, "datatype": word, "shape": [1], "data": [word]}
    file = {"name": word, "kind": word, "status": "verified", "expected": word, "found": word}
    tried = [
        {
            "number": number,
            "state": state,
            "params": {word: 0.01 * number, "kind": word},
            "value": value,
            "job": 7,
            "run": "r1" if value else None,
            "reason": word,
            "begun_at": at,
            "ended_at": at if value else None,
        }
        for number, state, value in ((1, "succeeded", 0.5), (2, "pruned", 0.25), (3, "failed", None))
    ]
    sweep = {
        "id": 4,
        "name": word,
        "state": "running",
        "reason": word,
        "argv": ["python", word],
        "space": [
            {"name": word, "kind": "log", "low": 0.001, "high": 0.1, "step": None, "choices": []},
            {
                "name": "kind",
                "kind": "choice",
                "low": None,
                "high": None,
                "step": None,
                "choices": [word, "b"],
            },
        ],
        "metric": word,
        "direction": "maximize",
        "trials": 9,
        "parallel": 2,
        "states": {"running": 0, "succeeded": 1, "pruned": 1, "failed": 1, "stopped": 0},
        "best": tried[0],
        "register_as": word,
        "version": 1,
        "experiment": word,
        "run": "r1",
        "created_by": word,
        "created_at": at,
        "ended_at": None,
    }
    report = {
        "name": word,
        "id": word,
        "title": word,
        "version": 3,
        "created_at": at,
        "created_by": word,
        "updated_at": at,
        "updated_by": word,
    }
    return {
        f"{BASE}/sweeps": {"sweeps": [sweep]},
        f"{BASE}/sweeps/4": {**sweep, "tried": tried},
        f"{BASE}/jobs": {"jobs": [job, member], "next": None},
        f"{BASE}/jobs/7": job,
        f"{BASE}/jobs/7/why": {"id": 7, "waits_for": [{"what": "turn", "words": word, "ahead": 2}]},
        f"{BASE}/jobs/7/attempts": {"attempts": [attempt]},
        **_pipelines(word, at),
        f"{BASE}/nodes": {
            "nodes": [
                {
                    "name": word,
                    "cpus": 2.0,
                    "memory_bytes": 1 << 30,
                    "used": {"cpus": 1.0, "memory_bytes": 1 << 20, "gpus": 1, "jobs": 1},
                    "gpus": [{**gpu, "job": 7}, {**gpu, "job": None, "fake": False, "busy": None}],
                    "why_no_gpus": "",
                },
                {
                    "name": word,
                    "cpus": 2.0,
                    "memory_bytes": 1 << 30,
                    "used": {"cpus": 0, "memory_bytes": 0, "gpus": 0, "jobs": 0},
                    "gpus": [],
                    "why_no_gpus": word,
                },
            ]
        },
        f"{BASE}/arrays/3": {
            "id": "a3",
            "name": word,
            "size": 1,
            "parallel": 2,
            "created_by": word,
            "queued_at": at,
            "states": {"running": 1, "queued": 0},
        },
        f"{BASE}/code/snapshots/{'c' * 64}": {
            "id": "c" * 64,
            "bytes": 3,
            "created_at": at,
            "created_by": word,
            "files": [{"path": word, "mode": word, "sha256": "a" * 64, "size": 3}],
        },
        f"{BASE}/runs": {"runs": [run], "next_page_token": None},
        f"{BASE}/runs/r1": run,
        f"{BASE}/runs/r1/artifacts": {
            "artifacts": [{"name": word, "path": word, "directory": d, "size": 3} for d in (True, False)]
        },
        f"{BASE}/experiments": {"experiments": [{"name": word, "id": "1"}, {"name": word, "id": "2"}]},
        f"{BASE}/models": {"models": [model], "next_page_token": None},
        f"{BASE}/models/m": model,
        f"{BASE}/models/m/versions/1": version,
        f"{BASE}/models/m/versions/1/verify": {"verified": False, "files": [check]},
        f"{BASE}/tables": {"tables": [table]},
        f"{BASE}/tables/t": table,
        f"{BASE}/tables/t/verify": {"verified": True, "files": [file]},
        "/api/v1/sql": {"columns": [{"name": word, "type": "VARCHAR"}], "rows": [[word]], "snapshots": []},
        f"{BASE}/buckets": {"buckets": [{"name": word, "id": "b", "kind": word, "created_at": at}]},
        f"{BASE}/buckets/b/objects": {"objects": [stored], "prefixes": [word], "next_after": word},
        f"{BASE}/endpoints": {"endpoints": [endpoint]},
        f"{BASE}/endpoints/e": endpoint,
        f"{BASE}/endpoints/e/revisions": {
            "revisions": [
                {
                    "number": 1,
                    "seq": 1,
                    "state": "failed",
                    "failure": word,
                    "model": word,
                    "version": "1",
                    "model_version_id": word,
                    "job": "7",
                    "environment": "e" * 64,
                    "created_at": at,
                    "created_by": word,
                }
            ]
        },
        **_solutions(word, at),
        **_ready(word, at),
        f"{BASE}/members": {
            "members": [
                {"person": word, "role": "owner", "admin": a, "added_at": at, "added_by": word}
                for a in (True, False)
            ]
        },
        f"{BASE}/shares": {
            "shares": [
                {
                    "id": word,
                    "direction": direction,
                    "kind": word,
                    "name": word,
                    "as": word,
                    "from": word,
                    "to": word,
                    "created_at": at,
                    "created_by": word,
                }
                for direction in ("given", "received")
            ]
        },
        f"{BASE}/invitations": {
            "invitations": [{"id": word, "role": word, "note": word, "created_at": at, "created_by": word}]
        },
        f"{BASE}/keys": {
            "keys": [
                {
                    "name": word,
                    "id": word,
                    "role": word,
                    "kind": "person",
                    "principal": word,
                    "created_at": at,
                    "created_by": word,
                    "expires_at": at,
                    "revoked_at": revoked,
                    "used_at": at,
                }
                for revoked in (None, at)
            ]
        },
        "/api/v1/account": {"name": word, "has_password": True, "has_totp": False},
        f"{BASE}/webhooks": {"webhooks": [{"id": word, "url": word, "kinds": [word], "created_by": word}]},
        "/api/v1/instance/settings": {
            "settings": [{"name": word, "value": word, "what": word, "source": word}]
        },
        "/api/v1/sessions": {
            "sessions": [
                {
                    "id": word,
                    "person": word,
                    "address": word,
                    "agent": word,
                    "seen_at": at,
                    "created_at": at,
                    "current": c,
                }
                for c in (True, False)
            ]
        },
        **_spending(word, at),
        f"{BASE}/audit": {
            "entries": [
                {
                    "seq": number,
                    "at": at,
                    "actor": word,
                    "kind": kind,
                    "subject": word,
                    "door": word,
                    "address": word,
                    "data": {"name": word, "status": 403, "count": 2},
                }
                for number, kind in enumerate(("request.denied", word))
            ],
            "next": 1,
        },
        f"{BASE}/repositories": {"repositories": [repository], "quota_bytes": 9, "used_bytes": 3},
        f"{BASE}/repositories/r": repository,
        f"{BASE}/repositories/r/tree": {
            "commit": "a" * 40,
            "path": "",
            "entries": [
                {"name": name, "kind": kind, "id": "c" * 40, "size": None if kind == "folder" else 3}
                for name, kind in (
                    (word, "folder"),
                    (word, "file"),
                    ("README.md", "file"),
                    (word, "submodule"),
                )
            ],
        },
        f"{BASE}/repositories/r/file": {"text": f"{word}\n{word}", "bytes": 3, "cut": True, "path": word},
        f"{BASE}/repositories/r/blame": {
            "lines": [{"commit": "a" * 40, "author": word, "at": at, "subject": word, "text": word}] * 2
        },
        f"{BASE}/repositories/r/commits": {"commits": [commit], "next": 50},
        f"{BASE}/repositories/r/commits/{'a' * 40}": commit,
        f"{BASE}/repositories/r/search": {"found": [{"path": word, "line": 3, "text": word}], "more": True},
        f"{BASE}/comments": {
            "comments": [
                {
                    "id": id_,
                    "on": "run",
                    "of": word,
                    "text": f"{word}\n@{word}",
                    "author": word,
                    "mine": mine,
                    "created_at": at,
                    "edited_at": at if mine else None,
                }
                for id_, mine in (("cmt_1", True), ("cmt_2", False))
            ]
        },
        f"{BASE}/activity": {
            "events": [
                {
                    "seq": number,
                    "at": at,
                    "kind": kind,
                    "subject": word,
                    "actor": word,
                    "data": {"name": word, "on": "run", "of": word},
                }
                for number, kind in enumerate(("job.failed", "comment.created", "model.created", word))
            ],
            "next": 1,
        },
        "/api/v1/notifications": {
            "notifications": [
                {
                    "id": f"ntf_{on}",
                    "project": word,
                    "kind": "mention",
                    "words": word,
                    "on": on,
                    "of": word,
                    "created_at": at,
                    "read_at": None,
                }
                for on in ("run", "merge_request", word)
            ],
            "unread": 3,
        },
        "/api/v1/account/mail": {"address": "ada@example.org", "wanted": True, "offered": True},
        f"{BASE}/repositories/r/merges": {"merges": [merge]},
        f"{BASE}/repositories/r/merges/1": {
            **merge,
            "source_commit": "a" * 40,
            "target_commit": "b" * 40,
            "ahead": 2,
            "fast_forward": False,
            "related": True,
            "conflicts": [word],
            "checks": [
                {"name": word, "state": "failed", "job": job, "words": word, "created_at": at}
                for job in (7, None)
            ],
        },
        f"{BASE}/repositories/r/merges/1/diff": {
            "commits": [{"id": "a" * 40, "author": word, "at": at, "subject": word}],
            "changes": [{"path": word, "added": 1, "removed": None}],
            "diff": f"diff --git a/{word}\n@@ -1 +1 @@\n+{word}\n",
            "diff_cut": True,
        },
        f"{BASE}/workspaces": {"workspaces": [workspace]},
        f"{BASE}/reports": {"reports": [report]},
        f"{BASE}/reports/r": {**report, "text": word, "html": f"<p>{escape(word)}</p>"},
        f"{BASE}/reports/r/links": {
            "links": [
                {"id": word, "shows": word, "created_at": at, "created_by": word, "expires_at": at},
            ]
        },
        f"{BASE}/workspaces/w": workspace,
        f"{BASE}/workspaces/w/saves": {"saves": [save], "next": 3},
        f"{BASE}/functions": {"functions": [function]},
        f"{BASE}/functions/f": function,
        f"{BASE}/functions/f/revisions": {"revisions": [revision]},
        f"{BASE}/functions/f/invocations": {"invocations": [invocation], "next": None},
        f"{BASE}/functions/f/invocations/inv_1": invocation,
        "/api/v1/predictions/pr_1": {"id": "pr_1", "inputs": [tensor], "outputs": [tensor]},
        "/api/v1/predictions/pr_1/why": why,
    }


def _solutions(word: str, at: str) -> dict[str, Any]:
    """A solution that was run, in a project that the viewer sees, and was refused."""
    told = {"mean": 0.5, "low": 0.4, "high": 0.6}
    solution = {
        "name": word,
        "title": word,
        "field": word,
        "summary": word,
        "intended_use": word,
        "not_for": [word],
        "disclaimer": word,
        "project": "other",
        "headline": "auc",
        "metrics": [{"name": "auc", "title": word, "badge": "real", "better": "higher", "unit": word}],
        "sources": [{"title": word, "kind": word, "licence": word, "personal_data": word, "origin": word}],
        "request": [{word: word, "x": 1.5, "n": 2, "flag": True}],
    }
    result = {
        "solution": word,
        "run": word,
        "run_id": "r1",
        "size": "default",
        "planted": word,
        "verdict": "refused",
        "expected_refusal": word,
        "gates": [
            {"gate": word, "title": word, "status": status, "said": word} for status in ("passed", "failed")
        ],
        "numbers": {"auc": {"candidate": told, "baseline": told}},
        "usage": {"cpu_minutes": 1.0, "seeds": 3},
        "cost": {"total": word, "currency": word},
        "served": {
            "endpoint": word,
            "role": "baseline",
            "version": "1",
            "prediction_id": "pr_1",
            "answers": [{word: word}],
            "why": word,
        },
        "began": at,
    }
    return {
        "/api/v1/solutions": {"solutions": [solution, {**solution, "project": "unseen"}]},
        "/api/v1/solutions/s": solution,
        "/api/v1/projects/other/solution": result,
    }


def _replay(word: str, at: str) -> dict[str, Any]:
    other = {"of": word, "kind": "value", "name": word, "before": word, "after": "1", "same": False}
    put_in = {"kind": "table", "name": word, "version": "7", "state": "changed", "note": word}
    return {
        **{"id": 6, "of": word, "kind": "pipeline", "repeats": "5", "repeated_by": "9", "state": "ended"},
        **{"verdict": "differs", "reason": word, "reproduced": False, "inputs_unchanged": False},
        **{"altered": [put_in], "differing": [other], "inputs": [put_in], "results": [other]},
        **{"tolerance": 0.0, "ignored": [], "created_at": at, "created_by": word, "ended_at": at},
    }


def _pipelines(word: str, at: str) -> dict[str, Any]:
    """A deployed pipeline and a run of two steps and a partition, everything in it called `word`."""
    check = {"check": word, "table": word, "blocking": True, "passed": False, "words": word}
    step = {
        "name": word,
        "state": "failed",
        "reason": word,
        "after": [],
        "attempt": 2,
        "started_at": at,
        "ended_at": at,
        "checks": [check, {**check, "blocking": False}],
    }
    run = {
        "id": 5,
        "pipeline": word,
        "file": word,
        "state": "failed",
        "reason": word,
        "trigger": word,
        "parameters": {word: word},
        "output": {word: word},
        "snapshot": "c" * 64,
        "source": {"commit": word, "dirty": True},
        "states": {"failed": 1, word: 1},
        "partitions": [{"name": word, "state": "failed"}],
        "job": 7,
        "created_at": at,
        "created_by": word,
        "started_at": at,
        "ended_at": None,
    }
    other = {**step, "name": word + "[1]", "state": "cached", "after": [word], "checks": []}
    deployed = {
        "name": word,
        "version": 1,
        "schedule": word,
        "timezone": word,
        "on_table": word,
        "on_prefix": word,
        "on_model": word,
        "on_pipeline": word,
        "next_at": at,
        "last_run": 5,
        "last_state": "failed",
    }
    return {
        f"{BASE}/pipelines": {"pipelines": [deployed, {**deployed, "schedule": None, "last_run": None}]},
        f"{BASE}/pipelines/calendar/p": {
            "pipeline": "p",
            "partitions": [
                {"name": word, "state": "failed", "run": 5, "at": at, "times": 2},
                {"name": "2024-01-02", "state": "succeeded", "run": 5, "at": at, "times": 1},
            ],
        },
        f"{BASE}/replays": {"replays": [_replay(word, at)]},
        f"{BASE}/replays/6": _replay(word, at),
        f"{BASE}/tables/t/lineage": {
            "table": "t",
            "snapshot": "7",
            "unknown": None,
            "columns": [
                {
                    "name": word,
                    "sources": [{"table": word, "column": word}],
                    "roots": [{"table": word, "column": word}],
                }
            ],
        },
        f"{BASE}/impact": {
            "of": "t",
            "steps": [{"run": 5, "pipeline": word, "name": word, "state": "succeeded"}],
            "jobs": [],
            "tables": [{"name": word, "snapshots": ["7"], "current": True}],
            "objects": [word],
            "runs": [{"id": "r1", "name": word}],
            "models": [word],
            "endpoints": [
                {"name": word, "revision": 1, "model": word, "active": True, "predictions": 3}
            ],
            "predictions": 3,
        },
        f"{BASE}/pipelines/runs": {"runs": [run], "next": None},
        f"{BASE}/pipelines/runs/5": {**run, "steps": [step, other]},
        f"{BASE}/pipelines/runs/5/steps/{quote(word, safe='')}/log": {
            "name": word, "state": "failed", "job": 7, "log": word,
        },
    }  # fmt: skip


def _ready(word: str, at: str) -> dict[str, Any]:
    """Models of the catalogue, and an index of documents."""
    port = {"name": word, "datatype": word, "meaning": word}
    entry = {
        "name": word,
        "task": word,
        "title": word,
        "label": word,
        "source": word,
        "revision": word,
        "licence": word,
        "size": 3,
        "languages": word,
        "limits": [word],
        "requirements": [word],
        "checksums": {word: word},
        "measured": [{"metric": word, "value": 0.5, "sample": word, "command": word}],
        "inputs": [port],
        "outputs": [port],
        "options": [port],
    }
    task = {"name": word, "title": word, "label": word, "needs": word, "entries": [entry]}
    index = {
        "name": word,
        "state": "failed",
        "failure": word,
        "source": word,
        "table": word,
        "embedder": word,
        "ocr": word,
        "job": 7,
        "documents": 1,
        "passages": 2,
        "skipped": [{"document": word, "reason": word}],
        "built_at": at,
        "calibration": {
            "threshold": 0.5,
            "questions": 9,
            "answered": 1.0,
            "refused": None,
            "source": "people",
        },
    }
    return {
        "/api/v1/catalog": {"tasks": [task, {**task, "entries": []}]},
        "/api/v1/catalog/g": entry,
        f"{BASE}/indexes": {
            "indexes": [index, {**index, "documents": None, "passages": None, "built_at": None}]
        },
        f"{BASE}/indexes/i": index,
        f"{BASE}/indexes/{quote(word, safe='')}/search": {
            "passages": [
                {
                    "document": f"s3://b/{word}",
                    "page": 3,
                    "title": word,
                    "text": f"before {word} after",
                    "near": 0.5,
                    "words": 2.0,
                    "score": 0.03,
                    "confidence": 0.4,
                }
            ],
            "confidence": 0.4,
            "threshold": 0.5,
        },
    }


def _spending(word: str, at: str) -> dict[str, Any]:
    """What was spent, and a budget of which most is."""
    line = {
        "name": word,
        "cost": "3.999",
        "label": word,
        "project": word,
        "cpu_seconds": 12.5,
        "bytes_sent": 9,
    }
    costs = [line, {**line, "name": "job:7", "cost": "0.000044"}]
    report = {
        "currency": word,
        "by": "job",
        "since": "2026-11-01T00:00:00.000Z",
        "until": None,
        "total": "3.999044",
        "costs": costs,
        "so_far": {"total": "0.10", "costs": costs[:1]},
    }
    budget = {
        "project": word,
        "month": "2026-11",
        "amount": "4.00",
        "spent": "3.999044",
        "left": "0.000956",
        "currency": word,
        "stop": True,
        "state": "warned",
        "set_at": at,
        "set_by": word,
    }
    return {
        f"{BASE}/cost": report,
        "/api/v1/cost": {**report, "so_far": None},
        f"{BASE}/budget": budget,
        "/api/v1/budgets": {
            "budgets": [budget, {**budget, "project": "b", "state": "used up", "stop": False}]
        },
    }


def every_page(word: str) -> list[str]:
    """The address of every page of the project of `answers`, the side panel's pieces included."""
    below = [
        "",
        "/jobs",
        "/jobs/7",
        "/jobs/7/code",
        "/arrays/3",
        "/pipelines",
        "/pipelines/5",
        f"/pipelines/5/steps/{quote(word, safe='')}",
        "/pipelines/calendar/p",
        "/replays",
        "/replays/6",
        "/tables/t/lineage",
        "/nodes",
        "/solutions",
        "/solutions/s",
        "/runs",
        "/runs?select=r1",
        "/runs/r1",
        "/models",
        "/sweeps",
        "/sweeps/4",
        "/models/m",
        "/models/m/versions/1",
        "/models/m/versions/1?panel",
        "/models/m/versions/1/proof",
        "/tables",
        "/tables/t",
        "/tables/t/preview",
        "/tables/t/snapshots/123",
        "/tables/t/snapshots/123?panel",
        "/buckets",
        "/buckets/b",
        f"/buckets/b?object={quote(word)}",
        "/endpoints",
        "/endpoints/e",
        "/gallery",
        "/gallery/g",
        "/indexes",
        "/indexes/i",
        "/find",
        f"/find?index={quote(word, safe='')}&q={quote(word, safe='')}",
        "/audit",
        "/cost",
        "/cost?by=project",
        "/members",
        "/activity",
        "/inbox",
        f"/comments/run/{quote(word, safe='')}",
        "/keys",
        "/sessions",
        "/settings",
        "/repositories",
        "/repositories/r",
        "/repositories/r/file?path=x",
        "/repositories/r/file?path=x&blame=yes",
        "/repositories/r/commits?path=x",
        f"/repositories/r/commits/{'a' * 40}",
        "/repositories/r/search?q=x",
        "/repositories/r/merges",
        "/repositories/r/merges/1",
        "/functions",
        "/workspaces",
        "/workspaces/w",
        "/reports",
        "/reports/r",
        "/reports/r/edit",
        "/functions/f",
        "/functions/f/invocations/inv_1",
    ]
    return [*(f"/projects/default{path}" for path in below), "/predictions/pr_1", "/predictions/pr_1?panel"]
