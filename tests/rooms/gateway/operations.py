"""One platform filled with one of everything, and a request that makes sense for every operation of every door."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sqlalchemy import update

from stratal.compute.tables import jobs
from wired import Answer, Wired

CODE = b"print('hello')\n"
CODE_SHA256 = hashlib.sha256(CODE).hexdigest()
SNAPSHOT = {
    "files": [{"path": "main.py", "mode": "100644", "sha256": CODE_SHA256, "size": len(CODE)}],
}
SCHEMA = {"type": "struct", "fields": [{"id": 1, "name": "x", "type": "long", "required": False}]}
SWEEP = {
    "job": {"argv": ["true"]},
    "space": [{"name": "x", "kind": "int", "low": 1, "high": 3}],
    "metric": "auc",
}


@dataclass(frozen=True)
class Route:
    """The weakest caller who may, a request that makes sense, and what it gets. `{names}` are the world's.

    `foreign` is what the owner of another project gets.
    """

    weakest: str
    path: str
    good: int = 200
    json: Any = None
    body: bytes = b""
    foreign: int = 404


P = "/projects/{project}"
NATIVE: dict[tuple[str, str], Route] = {
    # who one is, projects, keys
    ("GET", "/openapi.json"): Route("anybody", "/openapi.json", foreign=200),
    ("GET", "/whoami"): Route("viewer", "/whoami", foreign=200),
    ("GET", "/projects"): Route("viewer", "/projects", foreign=200),
    ("POST", "/projects"): Route("admin", "/projects", 201, json={"name": "gamma"}, foreign=403),
    ("GET", f"{P}/keys"): Route("owner", f"{P}/keys"),
    ("POST", f"{P}/keys"): Route("owner", f"{P}/keys", 201, json={"name": "new", "role": "viewer"}),
    ("POST", "/login-links"): Route("admin", "/login-links", 201, foreign=403),
    ("GET", f"{P}/events"): Route("viewer", f"{P}/events?after=0"),
    # jobs and code
    ("GET", f"{P}/jobs"): Route("viewer", f"{P}/jobs"),
    ("POST", f"{P}/jobs"): Route("editor", f"{P}/jobs", 201, json={"argv": ["true"]}),
    ("GET", f"{P}/jobs/{{job_id}}"): Route("viewer", f"{P}/jobs/{{job}}"),
    ("GET", f"{P}/tables/{{name}}/lineage"): Route("viewer", f"{P}/tables/ns.t/lineage"),
    ("GET", f"{P}/pipelines/runs/{{run_id}}/openlineage"): Route(
        "viewer", f"{P}/pipelines/runs/{{pipeline_run}}/openlineage"
    ),
    ("GET", f"{P}/impact"): Route("viewer", f"{P}/impact?of=ns.t"),
    ("GET", f"{P}/replays"): Route("viewer", f"{P}/replays"),
    ("POST", f"{P}/replays"): Route("editor", f"{P}/replays", 201, json={"of": "job:{done_job}"}),
    ("GET", f"{P}/replays/{{replay_id}}"): Route("viewer", f"{P}/replays/{{replay}}"),
    ("GET", f"{P}/jobs/{{job_id}}/why"): Route("viewer", f"{P}/jobs/{{job}}/why"),
    ("GET", f"{P}/jobs/{{job_id}}/attempts"): Route("viewer", f"{P}/jobs/{{job}}/attempts"),
    ("GET", f"{P}/arrays/{{array_id}}"): Route("viewer", f"{P}/arrays/1"),
    ("POST", f"{P}/arrays/{{array_id}}/stop"): Route("editor", f"{P}/arrays/1/stop"),
    ("GET", f"{P}/nodes"): Route("viewer", f"{P}/nodes"),
    ("GET", f"{P}/quota"): Route("viewer", f"{P}/quota"),
    ("GET", f"{P}/reports"): Route("viewer", f"{P}/reports"),
    ("POST", f"{P}/reports"): Route("editor", f"{P}/reports", 201, json={"name": "new", "text": "# New"}),
    ("POST", f"{P}/reports-preview"): Route("viewer", f"{P}/reports-preview", json={"text": "*so*"}),
    ("GET", f"{P}/reports/{{name}}"): Route("viewer", f"{P}/reports/weekly?html=true"),
    ("PUT", f"{P}/reports/{{name}}"): Route("editor", f"{P}/reports/weekly", json={"text": "# Anew"}),
    ("DELETE", f"{P}/reports/{{name}}"): Route("editor", f"{P}/reports/spare", 204),
    ("GET", f"{P}/reports/{{name}}/links"): Route("viewer", f"{P}/reports/weekly/links"),
    ("POST", f"{P}/reports/{{name}}/links"): Route(
        "owner", f"{P}/reports/weekly/links", 201, json={"expires_at": "{soon}"}
    ),
    ("DELETE", f"{P}/reports/{{name}}/links/{{link}}"): Route(
        "owner", f"{P}/reports/weekly/links/{{link}}", 204
    ),
    ("GET", f"{P}/shares"): Route("viewer", f"{P}/shares"),
    ("POST", f"{P}/shares"): Route(
        "owner", f"{P}/shares", 201, json={"kind": "bucket", "name": "alpha-spare", "to": "default"}
    ),
    ("DELETE", f"{P}/shares/{{share}}"): Route("owner", f"{P}/shares/{{share}}", 204),
    ("GET", "/budgets"): Route("viewer", "/budgets", foreign=200),
    ("GET", f"{P}/budget"): Route("viewer", f"{P}/budget"),
    ("PUT", f"{P}/budget"): Route("admin", f"{P}/budget", json={"amount": "1000.00"}),
    ("DELETE", f"{P}/budget"): Route("admin", f"{P}/budget", 204),
    ("PUT", f"{P}/quota"): Route("admin", f"{P}/quota", json={"cpus": 64, "jobs": None}),
    ("GET", f"{P}/jobs/{{job_id}}/logs"): Route("viewer", f"{P}/jobs/{{job}}/logs"),
    ("GET", f"{P}/jobs/{{job_id}}/diff"): Route("viewer", f"{P}/jobs/{{job}}/diff"),
    ("POST", f"{P}/jobs/{{job_id}}/stop"): Route("editor", f"{P}/jobs/{{job}}/stop"),
    ("GET", f"{P}/environments/{{environment_id}}/lock"): Route(
        "viewer", f"{P}/environments/{'0' * 64}/lock", 404
    ),
    ("POST", f"{P}/code/packs"): Route(
        "editor",
        f"{P}/code/packs",
        201,
        body=bytes.fromhex(CODE_SHA256) + len(CODE).to_bytes(8, "big") + CODE,
    ),
    ("POST", f"{P}/code/snapshots"): Route("editor", f"{P}/code/snapshots", 201, json=SNAPSHOT),
    ("GET", f"{P}/code/snapshots/{{snapshot_id}}"): Route("viewer", f"{P}/code/snapshots/{{snapshot}}"),
    # objects
    ("GET", f"{P}/buckets"): Route("viewer", f"{P}/buckets"),
    ("POST", f"{P}/buckets"): Route("editor", f"{P}/buckets", 201, json={"name": "alpha-more"}),
    ("GET", f"{P}/buckets/{{bucket}}/objects"): Route("viewer", f"{P}/buckets/alpha-data/objects"),
    ("GET", f"{P}/buckets/{{bucket}}/object"): Route("viewer", f"{P}/buckets/alpha-data/object?key=k"),
    ("PUT", f"{P}/buckets/{{bucket}}/object"): Route(
        "editor", f"{P}/buckets/alpha-data/object?key=new", 201, body=b"x"
    ),
    # tables and SQL
    ("GET", f"{P}/tables"): Route("viewer", f"{P}/tables"),
    ("GET", f"{P}/tables/{{name}}"): Route("viewer", f"{P}/tables/ns.t"),
    ("GET", f"{P}/tables/{{name}}/files"): Route("viewer", f"{P}/tables/ns.t/files", 404),
    ("GET", f"{P}/tables/{{name}}/verify"): Route("viewer", f"{P}/tables/ns.t/verify", 404),
    ("POST", f"{P}/tables/{{name}}/import"): Route(
        "editor", f"{P}/tables/new/import", 400, json={"source": "s3://alpha-data/k"}
    ),
    ("PUT", f"{P}/tables/{{name}}/import"): Route("editor", f"{P}/tables/new/import", 400, body=b"x"),
    ("POST", "/sql"): Route("viewer", "/sql", 400, json={"sql": "", "project": "alpha"}),
    ("GET", f"{P}/queries"): Route("viewer", f"{P}/queries"),
    ("GET", f"{P}/search"): Route("viewer", f"{P}/search?q=k"),
    # repositories (nothing was pushed to any: whoever may not is told so before that is found out)
    ("GET", f"{P}/repositories"): Route("viewer", f"{P}/repositories"),
    ("POST", f"{P}/repositories"): Route("editor", f"{P}/repositories", 201, json={"name": "more"}),
    ("PUT", f"{P}/repository-quota"): Route("admin", f"{P}/repository-quota", json={"bytes": 1 << 30}),
    ("GET", f"{P}/repositories/{{name}}"): Route("viewer", f"{P}/repositories/repo"),
    ("PATCH", f"{P}/repositories/{{name}}"): Route(
        "owner", f"{P}/repositories/repo", json={"protected": ["main", "release/*"]}
    ),
    ("GET", f"{P}/repositories/{{name}}/tree"): Route("viewer", f"{P}/repositories/repo/tree", 404),
    ("GET", f"{P}/repositories/{{name}}/file"): Route("viewer", f"{P}/repositories/repo/file?path=a", 404),
    ("GET", f"{P}/repositories/{{name}}/raw"): Route("viewer", f"{P}/repositories/repo/raw?path=a", 404),
    ("GET", f"{P}/repositories/{{name}}/commits"): Route("viewer", f"{P}/repositories/repo/commits", 404),
    ("GET", f"{P}/repositories/{{name}}/commits/{{commit}}"): Route(
        "viewer", f"{P}/repositories/repo/commits/main", 404
    ),
    ("GET", f"{P}/repositories/{{name}}/blame"): Route("viewer", f"{P}/repositories/repo/blame?path=a", 404),
    ("GET", f"{P}/repositories/{{name}}/search"): Route("viewer", f"{P}/repositories/repo/search?q=a", 404),
    ("GET", f"{P}/repositories/{{name}}/checks"): Route("viewer", f"{P}/repositories/repo/checks", 404),
    ("GET", f"{P}/repositories/{{name}}/merges"): Route("viewer", f"{P}/repositories/repo/merges"),
    ("POST", f"{P}/repositories/{{name}}/merges"): Route(
        "editor", f"{P}/repositories/repo/merges", 404, json={"source": "topic", "title": "t"}
    ),
    ("GET", f"{P}/repositories/{{name}}/merges/{{number}}"): Route(
        "viewer", f"{P}/repositories/repo/merges/1", 404
    ),
    ("GET", f"{P}/repositories/{{name}}/merges/{{number}}/diff"): Route(
        "viewer", f"{P}/repositories/repo/merges/1/diff", 404
    ),
    ("POST", f"{P}/repositories/{{name}}/merges/{{number}}/accept"): Route(
        "editor", f"{P}/repositories/repo/merges/1/accept", 404, json={}
    ),
    ("POST", f"{P}/repositories/{{name}}/merges/{{number}}/close"): Route(
        "editor", f"{P}/repositories/repo/merges/1/close", 404
    ),
    ("POST", f"{P}/repositories/{{name}}/snapshots"): Route(
        "editor", f"{P}/repositories/repo/snapshots", 404, json={}
    ),
    # pipelines (the journal and the tables of a step are its worker's and its own alone)
    ("GET", f"{P}/pipelines"): Route("viewer", f"{P}/pipelines"),
    ("PUT", f"{P}/pipelines/deployed/{{name}}"): Route(
        "editor", f"{P}/pipelines/deployed/more", json={"file": "main.py", "snapshot": "{snapshot}"}
    ),
    ("POST", f"{P}/pipelines/deployed/{{name}}/runs"): Route(
        "editor", f"{P}/pipelines/deployed/nightly/runs", 201, json={"parameters": {"a": 1}}
    ),
    ("POST", f"{P}/pipelines/deployed/{{name}}/hook"): Route(
        "editor", f"{P}/pipelines/deployed/nightly/hook", json={}
    ),
    ("GET", f"{P}/pipelines/calendar/{{name}}"): Route("viewer", f"{P}/pipelines/calendar/nightly"),
    # features: there is none, since no query runs in this world
    ("GET", f"{P}/features"): Route("viewer", f"{P}/features"),
    ("PUT", f"{P}/features/{{view}}"): Route(
        "editor", f"{P}/features/v", 404, json={"table": "no.such", "on": ["a"], "known_at": "b"}
    ),
    ("GET", f"{P}/features/{{view}}"): Route("viewer", f"{P}/features/v", 404),
    ("GET", f"{P}/features/{{view}}/row"): Route("viewer", f"{P}/features/v/row?a=1", 404),
    ("POST", f"{P}/features/{{view}}/lookup"): Route(
        "viewer", f"{P}/features/v/lookup", 404, json={"keys": [{"a": 1}]}
    ),
    ("DELETE", f"{P}/features/{{view}}"): Route("editor", f"{P}/features/v", 404),
    ("GET", f"{P}/pipelines/runs"): Route("viewer", f"{P}/pipelines/runs"),
    ("POST", f"{P}/pipelines/runs"): Route(
        "editor", f"{P}/pipelines/runs", 201, json={"file": "main.py", "snapshot": "{snapshot}"}
    ),
    ("GET", f"{P}/pipelines/runs/{{run_id}}"): Route("viewer", f"{P}/pipelines/runs/{{pipeline_run}}"),
    ("GET", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/log"): Route(
        "viewer", f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/log", 404
    ),
    ("GET", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/report"): Route(
        "viewer", f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/report", 404
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/open"): Route(
        "editor", f"{P}/pipelines/runs/{{pipeline_run}}/open", 409, json={}
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/journal"): Route(
        "editor", f"{P}/pipelines/runs/{{pipeline_run}}/journal", 409, json={"epoch": 1}
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/begin"): Route(
        "editor", f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/begin", 404, json={}
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/finish"): Route(
        "editor",
        f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/finish",
        404,
        json={"attempt": 1, "state": "succeeded"},
    ),
    ("PUT", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/tables/{{table}}"): Route(
        "editor",
        f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/tables/ns.t?attempt=1&number=1",
        404,
        body=b'{"x": 1}',
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/steps/{{step}}/tables/{{table}}"): Route(
        "editor",
        f"{P}/pipelines/runs/{{pipeline_run}}/steps/a/tables/ns.t?attempt=1&number=1",
        404,
        json={"sql": "select 1 as x"},
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/cancel"): Route(
        "editor", f"{P}/pipelines/runs/{{cancelled_run}}/cancel"
    ),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/retry"): Route(
        "editor", f"{P}/pipelines/runs/{{pipeline_run}}/retry", 409
    ),
    # runs and models
    ("GET", f"{P}/experiments"): Route("viewer", f"{P}/experiments"),
    ("GET", f"{P}/runs"): Route("viewer", f"{P}/runs"),
    ("GET", f"{P}/runs/{{run_id}}"): Route("viewer", f"{P}/runs/{{run}}"),
    ("GET", f"{P}/runs/{{run_id}}/metric"): Route("viewer", f"{P}/runs/{{run}}/metric?key=auc"),
    ("GET", f"{P}/runs/{{run_id}}/artifacts"): Route("viewer", f"{P}/runs/{{run}}/artifacts"),
    ("GET", f"{P}/models"): Route("viewer", f"{P}/models"),
    ("GET", f"{P}/models/{{name}}"): Route("viewer", f"{P}/models/m"),
    ("GET", f"{P}/models/{{name}}/versions/{{version}}"): Route("viewer", f"{P}/models/m/versions/1"),
    ("POST", f"{P}/models/{{name}}/versions/{{version}}/convert"): Route(
        "editor", f"{P}/models/m/versions/1/convert", 400
    ),
    # Handed in by the job that converts the version; none does.
    ("PUT", f"{P}/models/{{name}}/versions/{{version}}/forms/{{kind}}/file"): Route(
        "editor", f"{P}/models/m/versions/1/forms/onnx/file", 409, body=b"x"
    ),
    ("POST", f"{P}/models/{{name}}/versions/{{version}}/forms/{{kind}}"): Route(
        "editor", f"{P}/models/m/versions/1/forms/onnx", 409, json={"why": "it cannot be"}
    ),
    ("GET", f"{P}/models/{{name}}/versions/{{version}}/verify"): Route(
        "viewer", f"{P}/models/m/versions/1/verify"
    ),
    ("POST", f"{P}/catalog/pulls"): Route(
        "editor", f"{P}/catalog/pulls", 400, json={"source": "hf:org/name"}
    ),
    ("POST", f"{P}/finetunes"): Route(
        "editor",
        f"{P}/finetunes",
        404,
        json={"aim": "classify", "name": "new", "source": "s3://alpha-data/k", "base": "models:/none/1"},
    ),
    # retrieval (nothing here makes embeddings: whoever may not is told so before that is found out)
    ("GET", f"{P}/indexes"): Route("viewer", f"{P}/indexes"),
    ("GET", f"{P}/indexes/{{name}}"): Route("viewer", f"{P}/indexes/i", 404),
    ("PUT", f"{P}/indexes/{{name}}"): Route(
        "editor", f"{P}/indexes/i", 404, json={"source": "s3://alpha-data/**", "embedder": "none"}
    ),
    ("DELETE", f"{P}/indexes/{{name}}"): Route("editor", f"{P}/indexes/i", 404),
    ("POST", f"{P}/indexes/{{name}}/search"): Route(
        "viewer", f"{P}/indexes/i/search", 404, json={"query": "x"}
    ),
    ("POST", f"{P}/indexes/{{name}}/ask"): Route("viewer", f"{P}/indexes/i/ask", 404, json={"question": "x"}),
    ("POST", f"{P}/indexes/{{name}}/calibration"): Route(
        "editor", f"{P}/indexes/i/calibration", 404, json={"questions": []}
    ),
    ("POST", f"{P}/indexes/{{name}}/built"): Route(
        "editor", f"{P}/indexes/i/built", 404, json={"documents": 1, "passages": 1}
    ),
    # sweeps
    ("GET", f"{P}/sweeps"): Route("viewer", f"{P}/sweeps"),
    ("POST", f"{P}/sweeps"): Route("editor", f"{P}/sweeps", 201, json=SWEEP),
    ("GET", f"{P}/sweeps/{{sweep_id}}"): Route("viewer", f"{P}/sweeps/{{sweep}}"),
    ("POST", f"{P}/sweeps/{{sweep_id}}/stop"): Route("editor", f"{P}/sweeps/{{sweep}}/stop"),
    ("GET", "/catalog"): Route("viewer", "/catalog", foreign=200),
    ("GET", "/catalog/{name}"): Route("viewer", "/catalog/langid", foreign=200),
    ("POST", f"{P}/catalog/{{name}}/pull"): Route("editor", f"{P}/catalog/langid/pull", 201),
    # endpoints (there is none: whoever may not is told so before that is found out)
    ("GET", f"{P}/endpoints"): Route("viewer", f"{P}/endpoints"),
    ("POST", f"{P}/endpoints"): Route(
        "editor", f"{P}/endpoints", 404, json={"name": "ep", "model": "models:/none/1"}
    ),
    ("GET", f"{P}/endpoints/{{name}}"): Route("viewer", f"{P}/endpoints/ep", 404),
    ("GET", f"{P}/endpoints/{{name}}/revisions"): Route("viewer", f"{P}/endpoints/ep/revisions", 404),
    ("GET", f"{P}/endpoints/{{name}}/logs"): Route("viewer", f"{P}/endpoints/ep/logs", 404),
    ("GET", f"{P}/endpoints/{{name}}/replicas"): Route("viewer", f"{P}/endpoints/ep/replicas", 404),
    ("POST", f"{P}/endpoints/{{name}}/traffic"): Route(
        "editor", f"{P}/endpoints/ep/traffic", 404, json={"traffic": {"v1": 100}}
    ),
    ("POST", f"{P}/endpoints/{{name}}/rollback"): Route(
        "editor", f"{P}/endpoints/ep/rollback", 404, json={"to": None}
    ),
    ("POST", f"{P}/endpoints/{{name}}/stop"): Route("editor", f"{P}/endpoints/ep/stop", 404),
    ("POST", f"{P}/endpoints/{{name}}/start"): Route("editor", f"{P}/endpoints/ep/start", 404),
    ("POST", f"{P}/endpoints/{{name}}/chat"): Route(
        "viewer", f"{P}/endpoints/ep/chat", 404, json={"messages": [{"role": "user", "content": "x"}]}
    ),
    ("POST", f"{P}/endpoints/{{name}}/pictures"): Route(
        "viewer", f"{P}/endpoints/ep/pictures", 404, json={"prompt": "x"}
    ),
    ("POST", f"{P}/endpoints/{{name}}/invocations"): Route(
        "viewer", f"{P}/endpoints/ep/invocations", 404, json={"inputs": [[1.0]]}
    ),
    ("DELETE", f"{P}/endpoints/{{name}}"): Route("editor", f"{P}/endpoints/ep", 404),
    # workspaces (there is none, as with endpoints)
    ("GET", f"{P}/workspaces"): Route("viewer", f"{P}/workspaces"),
    ("POST", f"{P}/workspaces"): Route(
        "editor", f"{P}/workspaces", 400, json={"name": "eda", "memory_bytes": 1}
    ),
    ("GET", f"{P}/workspaces/{{name}}"): Route("viewer", f"{P}/workspaces/none", 404),
    ("POST", f"{P}/workspaces/{{name}}/visits"): Route("editor", f"{P}/workspaces/none/visits", 404),
    ("POST", f"{P}/workspaces/{{name}}/start"): Route("editor", f"{P}/workspaces/none/start", 404),
    ("POST", f"{P}/workspaces/{{name}}/stop"): Route("editor", f"{P}/workspaces/none/stop", 404),
    ("DELETE", f"{P}/workspaces/{{name}}"): Route("editor", f"{P}/workspaces/none", 404),
    ("GET", f"{P}/workspaces/{{name}}/logs"): Route("editor", f"{P}/workspaces/none/logs", 404),
    ("GET", f"{P}/workspaces/{{name}}/saves"): Route("viewer", f"{P}/workspaces/none/saves", 404),
    ("PUT", f"{P}/workspaces/{{name}}/saves"): Route(
        "editor", f"{P}/workspaces/none/saves?path=a.ipynb", 404, body=b"{}"
    ),
    ("GET", f"{P}/workspaces/{{name}}/saves/{{save}}/content"): Route(
        "viewer", f"{P}/workspaces/none/saves/1/content", 404
    ),
    ("POST", f"{P}/workspaces/{{name}}/saves/{{save}}/restore"): Route(
        "editor", f"{P}/workspaces/none/saves/1/restore", 404, json={}
    ),
    # apps (there is none, as with endpoints)
    ("GET", f"{P}/apps"): Route("viewer", f"{P}/apps"),
    ("POST", f"{P}/apps"): Route(
        "editor", f"{P}/apps", 404, json={"name": "shop", "target": "a.py:app", "snapshot": "0" * 64}
    ),
    ("GET", f"{P}/apps/{{name}}"): Route("viewer", f"{P}/apps/shop", 404),
    ("GET", f"{P}/apps/{{name}}/revisions"): Route("viewer", f"{P}/apps/shop/revisions", 404),
    ("GET", f"{P}/apps/{{name}}/requests"): Route("viewer", f"{P}/apps/shop/requests", 404),
    ("GET", f"{P}/apps/{{name}}/logs"): Route("viewer", f"{P}/apps/shop/logs", 404),
    ("POST", f"{P}/apps/{{name}}/visits"): Route("viewer", f"{P}/apps/shop/visits", 404),
    ("POST", f"{P}/apps/{{name}}/rollback"): Route("editor", f"{P}/apps/shop/rollback", 404, json={}),
    ("DELETE", f"{P}/apps/{{name}}"): Route("editor", f"{P}/apps/shop", 404),
    # functions (there is none, as with endpoints)
    ("GET", f"{P}/functions"): Route("viewer", f"{P}/functions"),
    ("POST", f"{P}/functions"): Route(
        "editor", f"{P}/functions", 404, json={"name": "fn", "target": "a.py:f", "snapshot": "0" * 64}
    ),
    ("GET", f"{P}/functions/{{name}}"): Route("viewer", f"{P}/functions/fn", 404),
    ("GET", f"{P}/functions/{{name}}/revisions"): Route("viewer", f"{P}/functions/fn/revisions", 404),
    ("POST", f"{P}/functions/{{name}}/rollback"): Route("editor", f"{P}/functions/fn/rollback", 404, json={}),
    ("GET", f"{P}/functions/{{name}}/logs"): Route("viewer", f"{P}/functions/fn/logs", 404),
    ("GET", f"{P}/functions/{{name}}/invocations"): Route("viewer", f"{P}/functions/fn/invocations", 404),
    ("GET", f"{P}/functions/{{name}}/invocations/{{invocation_id}}"): Route(
        "viewer", f"{P}/functions/fn/invocations/inv_1", 404
    ),
    ("GET", f"{P}/functions/{{name}}/invocations/{{invocation_id}}/log"): Route(
        "viewer", f"{P}/functions/fn/invocations/inv_1/log", 404
    ),
    ("POST", f"{P}/functions/{{name}}/invocations/{{invocation_id}}/retry"): Route(
        "editor", f"{P}/functions/fn/invocations/inv_1/retry", 404
    ),
    ("DELETE", f"{P}/functions/{{name}}"): Route("editor", f"{P}/functions/fn", 404),
    ("GET", "/predictions/{prediction_id}"): Route("viewer", "/predictions/pr_none", 404),
    ("GET", "/predictions/{prediction_id}/why"): Route("viewer", "/predictions/pr_none/why", 404),
    # people (what is about one's own account is for people alone: no key of a service may)
    ("GET", f"{P}/members"): Route("viewer", f"{P}/members"),
    ("POST", f"{P}/members"): Route("owner", f"{P}/members", 201, json={"person": "admin", "role": "owner"}),
    ("PUT", f"{P}/members/{{person}}"): Route("owner", f"{P}/members/admin", json={"role": "owner"}),
    ("GET", f"{P}/invitations"): Route("owner", f"{P}/invitations"),
    ("POST", f"{P}/invitations"): Route("owner", f"{P}/invitations", 201, json={"role": "viewer"}),
    ("DELETE", f"{P}/invitations/{{invitation}}"): Route("owner", f"{P}/invitations/{{invitation}}", 204),
    ("POST", "/invitations/join"): Route("person", "/invitations/join", json={"token": "x"}, foreign=403),
    ("GET", "/people"): Route("admin", "/people", foreign=403),
    ("GET", "/instance/settings"): Route("admin", "/instance/settings", foreign=403),
    ("GET", "/sessions"): Route("person", "/sessions", foreign=403),
    ("DELETE", "/sessions/{session}"): Route("admin", "/sessions/ses_none", 404, foreign=403),
    ("GET", "/account"): Route("person", "/account", foreign=403),
    ("POST", "/account/password"): Route(
        "person", "/account/password", json={"new": "a long password"}, foreign=403
    ),
    ("POST", "/account/totp"): Route("person", "/account/totp", foreign=403),
    ("PUT", "/account/totp"): Route(
        "person", "/account/totp", json={"code": "1", "sealed": "x"}, foreign=403
    ),
    ("POST", "/account/totp/drop"): Route("person", "/account/totp/drop", json={"code": "1"}, foreign=403),
    ("POST", "/device"): Route("anybody", "/device", 201, json={}, foreign=201),
    ("POST", "/device/token"): Route(
        "anybody", "/device/token", json={"device_code": "{device}"}, foreign=200
    ),
    ("GET", "/device/{code}"): Route("viewer", "/device/BBBB-BBBB", 404),
    ("POST", f"{P}/device"): Route("person", f"{P}/device", json={"user_code": "BBBB-BBBB"}),
    # who did what
    ("GET", "/audit"): Route("admin", "/audit", foreign=403),
    ("GET", "/audit/verify"): Route("admin", "/audit/verify", foreign=403),
    ("GET", "/audit/export"): Route("admin", "/audit/export", foreign=403),
    ("GET", f"{P}/audit"): Route("owner", f"{P}/audit?by=admin"),
    ("GET", f"{P}/audit/export"): Route("owner", f"{P}/audit/export"),
    # what it costs
    ("GET", "/cost"): Route("viewer", "/cost", foreign=200),
    ("GET", f"{P}/cost"): Route("viewer", f"{P}/cost?by=job"),
    ("GET", "/usage"): Route("viewer", "/usage", foreign=200),
    ("GET", f"{P}/usage"): Route("viewer", f"{P}/usage"),
    ("GET", "/prices"): Route("viewer", "/prices", foreign=200),
    ("POST", "/prices"): Route(
        "admin",
        "/prices",
        201,
        json={"name": "cpu_hour", "price": "0.05", "since": "2099-01-01"},
        foreign=403,
    ),
    ("DELETE", "/prices/{name}"): Route("admin", "/prices/cpu_hour?since=2099-01-01", 204, foreign=403),
    # ready solutions (none has been run: whoever may not is told so before that is found out)
    ("GET", "/solutions"): Route("viewer", "/solutions", foreign=200),
    ("GET", "/solutions/{name}"): Route("viewer", "/solutions/disease-diagnosis", foreign=200),
    ("GET", f"{P}/solution"): Route("viewer", f"{P}/solution", 404),
    ("GET", f"{P}/solution/report"): Route("viewer", f"{P}/solution/report", 404),
    ("GET", f"{P}/solution/picture"): Route("viewer", f"{P}/solution/picture", 404),
    # talk (a comment is its author's alone; notifications are people's)
    ("GET", f"{P}/comments"): Route("viewer", f"{P}/comments?on=job&of={{job}}"),
    ("POST", f"{P}/comments"): Route(
        "viewer", f"{P}/comments", 201, json={"on": "job", "of": "{job}", "text": "well done"}
    ),
    ("PATCH", f"{P}/comments/{{comment}}"): Route(
        "viewer", f"{P}/comments/{{comment}}", json={"text": "better"}
    ),
    ("GET", f"{P}/activity"): Route("viewer", f"{P}/activity?kind=job."),
    ("GET", "/notifications"): Route("person", "/notifications", foreign=403),
    ("POST", "/notifications/read"): Route("person", "/notifications/read", json={}, foreign=403),
    ("GET", "/account/mail"): Route("person", "/account/mail", foreign=403),
    ("PUT", "/account/mail"): Route(
        "person", "/account/mail", json={"address": "a@example.org"}, foreign=403
    ),
    ("GET", f"{P}/webhooks"): Route("owner", f"{P}/webhooks"),
    ("POST", f"{P}/webhooks"): Route("owner", f"{P}/webhooks", 201, json={"url": "https://example.org/"}),
    ("POST", f"{P}/webhooks/{{webhook}}/test"): Route("owner", f"{P}/webhooks/{{webhook}}/test", 202),
    ("GET", f"{P}/webhooks/{{webhook}}/deliveries"): Route("owner", f"{P}/webhooks/{{webhook}}/deliveries"),
    ("DELETE", f"{P}/webhooks/{{webhook}}"): Route("owner", f"{P}/webhooks/{{webhook}}", 204),
    ("DELETE", f"{P}/comments/{{comment}}"): Route("viewer", f"{P}/comments/{{comment}}", 204),
    # what takes something away, in an order in which each still finds it
    ("DELETE", f"{P}/repositories/{{name}}"): Route("owner", f"{P}/repositories/repo", 204),
    ("DELETE", f"{P}/pipelines/deployed/{{name}}/hook"): Route(
        "editor", f"{P}/pipelines/deployed/nightly/hook", 204
    ),
    ("DELETE", f"{P}/pipelines/deployed/{{name}}"): Route("editor", f"{P}/pipelines/deployed/nightly", 204),
    ("DELETE", f"{P}/tables/{{name}}"): Route("editor", f"{P}/tables/ns.t", 204),
    ("DELETE", f"{P}/buckets/{{bucket}}/object"): Route(
        "editor", f"{P}/buckets/alpha-data/object?key=k", 204
    ),
    ("DELETE", f"{P}/buckets/{{bucket}}"): Route("editor", f"{P}/buckets/alpha-empty", 204),
    ("DELETE", "/keys/{key_id}"): Route("owner", "/keys/{victim}", 204),
    ("DELETE", f"{P}/members/{{person}}"): Route("owner", f"{P}/members/admin", 409),
    ("DELETE", P): Route("owner", P, 204),
}


@dataclass(frozen=True)
class Operation:
    """An operation of another door. `refused` are the words of its dialect for (no key, too weak, another project's)."""

    door: str
    method: str
    path: str
    weakest: str
    good: int = 200
    json: Any = None
    body: bytes = b""
    foreign: int = 404


ICEBERG = "/iceberg/v1/alpha/namespaces"
MLFLOW = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts"
BATCH = {"run_id": "{run}", "metrics": [{"key": "auc", "value": 0.5, "timestamp": 1}]}
HUB = "/hub/api/models/alpha/m"
COMMIT = b"""{"key": "header", "value": {"summary": "more"}}
{"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}}
"""
TENSOR = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]}
GIT = "/git/alpha/repo.git"
OTHERS = [
    Operation("s3", "GET", "/alpha-data/k", "viewer"),
    Operation("s3", "HEAD", "/alpha-data/k", "viewer"),
    Operation("s3", "GET", "/alpha-data?list-type=2", "viewer"),
    Operation("s3", "GET", "/", "viewer", foreign=200),
    Operation("s3", "PUT", "/alpha-data/new", "editor", body=b"x"),
    Operation("s3", "PUT", "/alpha-made", "editor", foreign=200),
    Operation("s3", "POST", "/alpha-data/new?uploads=", "editor"),
    Operation("s3", "POST", "/alpha-data?delete=", "editor",
              body=b"<Delete><Object><Key>new</Key></Object></Delete>"),
    Operation("s3", "DELETE", "/alpha-data/new", "editor", 204),
    Operation("s3", "DELETE", "/alpha-spare", "editor", 204),
    Operation("iceberg", "GET", "/iceberg/v1/config?warehouse=alpha", "viewer"),
    Operation("iceberg", "GET", ICEBERG, "viewer"),
    Operation("iceberg", "POST", ICEBERG, "editor", json={"namespace": ["more"]}),
    Operation("iceberg", "GET", f"{ICEBERG}/ns/tables", "viewer"),
    Operation("iceberg", "HEAD", f"{ICEBERG}/ns/tables/t", "viewer", 204),
    Operation("iceberg", "GET", f"{ICEBERG}/ns/tables/t", "viewer"),
    Operation("iceberg", "GET", f"{ICEBERG}/ns/tables/t/credentials", "viewer"),
    Operation("iceberg", "POST", f"{ICEBERG}/ns/properties", "editor", json={"updates": {"a": "b"}}),
    Operation("iceberg", "POST", f"{ICEBERG}/ns/tables", "editor", json={"name": "u", "schema": SCHEMA}),
    Operation("iceberg", "POST", f"{ICEBERG}/ns/tables/t", "editor",
              json={"updates": [{"action": "set-properties", "updates": {"a": "b"}}]}),
    Operation("iceberg", "POST", f"{ICEBERG}/ns/register", "editor", 400,
              json={"name": "r", "metadata-location": "s3://alpha-data/k"}),
    Operation("iceberg", "POST", "/iceberg/v1/alpha/transactions/commit", "editor", 204, json={"table-changes": []}),
    Operation("iceberg", "POST", "/iceberg/v1/alpha/tables/rename", "editor", 204,
              json={"source": {"namespace": ["ns"], "name": "u"},
                    "destination": {"namespace": ["ns"], "name": "v"}}),
    Operation("iceberg", "DELETE", f"{ICEBERG}/ns/tables/v", "editor", 204),
    Operation("mlflow", "GET", f"{MLFLOW}/experiments/get?experiment_id={{experiment}}", "viewer"),
    Operation("mlflow", "GET", f"{MLFLOW}/runs/get?run_id={{run}}", "viewer"),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/search", "viewer",
              json={"experiment_ids": ["{experiment}"]}, foreign=200),
    Operation("mlflow", "GET", f"{MLFLOW}/metrics/get-history?run_id={{run}}&metric_key=auc", "viewer"),
    Operation("mlflow", "GET", f"{MLFLOW}/artifacts/list?run_id={{run}}", "viewer"),
    Operation("mlflow", "GET", f"{ARTIFACTS}/model/MLmodel", "viewer"),
    Operation("mlflow", "GET", f"{MLFLOW}/registered-models/get?name=m", "viewer"),
    Operation("mlflow", "GET", f"{MLFLOW}/model-versions/get-download-uri?name=m&version=1", "viewer"),
    Operation("mlflow", "POST", f"{MLFLOW}/experiments/create", "editor", json={"name": "e2"}, foreign=200),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/create", "editor", json={"experiment_id": "{experiment}"}),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/log-batch", "editor", json=BATCH),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/set-tag", "editor",
              json={"run_id": "{run}", "key": "a", "value": "b"}),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/update", "editor",
              json={"run_id": "{run}", "status": "FINISHED"}),
    Operation("mlflow", "POST", f"{MLFLOW}/logged-models", "editor",
              json={"experiment_id": "{experiment}", "name": "lm"}),
    Operation("mlflow", "PUT", f"{ARTIFACTS}/new.txt", "editor", body=b"x"),
    Operation("mlflow", "DELETE", f"{ARTIFACTS}/new.txt", "editor"),
    Operation("mlflow", "POST", f"{MLFLOW}/registered-models/create", "editor", json={"name": "n"}, foreign=200),
    Operation("mlflow", "POST", f"{MLFLOW}/registered-models/alias", "editor",
              json={"name": "m", "alias": "best", "version": "1"}),
    Operation("mlflow", "POST", f"{MLFLOW}/model-versions/create", "editor",
              json={"name": "m", "source": "runs:/{run}/model"}),
    Operation("mlflow", "POST", f"{MLFLOW}/runs/delete", "editor", json={"run_id": "{run}"}),
    Operation("hub", "GET", "/hub/api/whoami-v2", "viewer", foreign=200),
    Operation("hub", "GET", "/hub/api/models", "viewer", foreign=200),
    Operation("hub", "GET", f"{HUB}", "viewer"),
    Operation("hub", "GET", f"{HUB}/revision/main", "viewer"),
    Operation("hub", "GET", f"{HUB}/tree/main", "viewer"),
    Operation("hub", "POST", f"{HUB}/paths-info/main", "viewer", body=b"paths=MLmodel"),
    Operation("hub", "GET", f"{HUB}/commits/main", "viewer"),
    Operation("hub", "GET", f"{HUB}/refs", "viewer"),
    Operation("hub", "GET", "/hub/alpha/m/resolve/main/MLmodel", "viewer"),
    Operation("hub", "HEAD", "/hub/alpha/m/resolve/main/MLmodel", "viewer"),
    Operation("hub", "POST", "/hub/api/repos/create", "editor", json={"name": "made", "organization": "alpha"}),
    Operation("hub", "POST", f"{HUB}/preupload/main", "editor",
              json={"files": [{"path": "a.txt", "size": 1, "sample": "YQ=="}]}),
    Operation("hub", "POST", "/hub/alpha/m.git/info/lfs/objects/batch", "editor",
              json={"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}),
    Operation("hub", "GET", "/hub/api/datasets", "viewer", foreign=200),
    Operation("hub", "GET", "/hub/api/datasets/alpha/alpha-data/tree/main", "viewer"),
    Operation("hub", "GET", "/hub/datasets/alpha/alpha-data/resolve/main/k", "viewer"),
    Operation("hub", "POST", f"{HUB}/commit/main", "editor", body=COMMIT),
    Operation("hub", "POST", f"{HUB}/tag/main", "editor", json={"tag": "good"}),
    Operation("hub", "DELETE", f"{HUB}/tag/good", "editor"),
    Operation("hub", "PUT", f"{HUB}/settings", "editor", json={"private": True}),
    Operation("hub", "POST", "/hub/api/repos/move", "editor",
              json={"fromRepo": "alpha/made", "toRepo": "alpha/moved"}),
    Operation("hub", "DELETE", "/hub/api/repos/delete", "editor",
              json={"name": "moved", "organization": "alpha"}),
    Operation("mlflow", "DELETE", f"{MLFLOW}/registered-models/delete", "editor", json={"name": "m"}),
    Operation("inference", "GET", "/v2/health/ready", "anybody", foreign=200),
    Operation("inference", "GET", "/v2", "viewer", foreign=200),
    Operation("inference", "POST", "/v2/repository/index", "viewer", foreign=200),
    Operation("inference", "GET", "/v2/models/ep", "viewer", 404),
    Operation("inference", "GET", "/v2/models/ep/ready", "viewer", 404),
    Operation("inference", "POST", "/v2/models/ep/infer", "viewer", 404, json=TENSOR),
    Operation("git", "GET", f"{GIT}/info/refs?service=git-upload-pack", "viewer"),
    Operation("git", "GET", f"{GIT}/info/refs?service=git-receive-pack", "editor"),
    Operation("lfs", "POST", f"{GIT}/info/lfs/objects/batch", "viewer",
              json={"operation": "download", "objects": [{"oid": "0" * 64, "size": 1}]}),
    Operation("lfs", "POST", f"{GIT}/info/lfs/objects/batch", "editor",
              json={"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}),
    Operation("lfs", "GET", f"{GIT}/info/lfs/objects/{'0' * 64}", "viewer", 404),
    Operation("lfs", "PUT", f"{GIT}/info/lfs/objects/{hashlib.sha256(b'x').hexdigest()}", "editor", body=b"x"),
    Operation("lfs", "POST", f"{GIT}/info/lfs/locks/verify", "viewer", 404, json={}),
    Operation("openai", "GET", "/v1/models", "viewer", foreign=200),
    Operation("openai", "GET", "/v1/models/ep", "viewer", 404),
    Operation("openai", "POST", "/v1/embeddings", "viewer", 404, json={"model": "ep", "input": "x"}),
    Operation("openai", "POST", "/v1/completions", "viewer", 404, json={"model": "ep", "prompt": "x"}),
    Operation("openai", "POST", "/v1/chat/completions", "viewer", 404,
              json={"model": "ep", "messages": [{"role": "user", "content": "x"}]}),
    Operation("openai", "POST", "/v1/audio/speech", "viewer", 404, json={"model": "ep", "input": "x"}),
    Operation("openai", "POST", "/v1/audio/transcriptions", "viewer", 400, foreign=400),
    Operation("openai", "POST", "/v1/audio/translations", "viewer", 400, foreign=400),
    Operation("openai", "POST", "/v1/images/generations", "viewer", 400, foreign=400,
              json={"model": "ep", "prompt": "x"}),
    Operation("openai", "POST", "/v1/responses", "viewer", 404, json={"model": "ep", "input": "x"}),
    Operation("openai", "GET", "/v1/files", "viewer", foreign=200),
    Operation("openai", "POST", "/v1/files", "editor", 400, foreign=400),
    Operation("openai", "GET", "/v1/files/file-1", "viewer", 404),
    Operation("openai", "GET", "/v1/files/file-1/content", "viewer", 404),
    Operation("openai", "DELETE", "/v1/files/file-1", "editor", 404),
    Operation("openai", "GET", "/v1/fine_tuning/jobs", "viewer", foreign=200),
    Operation("openai", "POST", "/v1/fine_tuning/jobs", "editor", 404,
              json={"training_file": "file-1", "model": "ep"}),
    Operation("openai", "GET", "/v1/fine_tuning/jobs/ftjob-1", "viewer", 404),
    Operation("openai", "GET", "/v1/fine_tuning/jobs/ftjob-1/events", "viewer", 404),
    Operation("openai", "POST", "/v1/fine_tuning/jobs/ftjob-1/cancel", "editor", 404),
    Operation("openai", "GET", "/v1/batches", "viewer", foreign=200),
    Operation("openai", "POST", "/v1/batches", "editor", 404,
              json={"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}),
    Operation("openai", "GET", "/v1/batches/batch_1", "viewer", 404),
    Operation("openai", "POST", "/v1/batches/batch_1/cancel", "editor", 404),
    Operation("openai", "POST", "/v1/moderations", "viewer", 404, json={"model": "ep", "input": "x"}),
    Operation("functions", "POST", "/f/alpha/fn", "viewer", 404, json={}),
    Operation("functions", "POST", "/f/alpha/fn?async=1", "viewer", 404, json={}),
    Operation("functions", "GET", "/f/alpha/fn/invocations/inv_1", "viewer", 404),
    Operation("mcp", "GET", "/mcp", "viewer", 405, foreign=200),
    Operation("operations", "GET", "/healthz", "anybody", foreign=200),
    Operation("operations", "GET", "/readyz", "anybody", foreign=200),
    Operation("mlflow", "GET", "/version", "anybody", foreign=200),
]  # fmt: skip


class World:
    """Project alpha with one of everything, project beta with nothing, and a key of each kind."""

    def __init__(self, wired: Wired) -> None:
        self.wired = wired
        wired.project("alpha")
        wired.project("beta")
        self.keys: dict[str, str | None] = {
            "nobody": None,
            "admin": wired.admin,
            **{role: wired.key("alpha", role) for role in ("viewer", "editor", "owner")},
            "stranger": wired.key("beta", "owner"),
            "revoked": wired.key("alpha", "owner"),
        }
        self._made("DELETE", f"/api/v1/keys/{self._id('revoked')}", None, 204)
        self.names = {"project": "alpha", "victim": wired.key("alpha", "editor").partition(".")[0]}
        self._fill()

    def _id(self, caller: str) -> str:
        return str(self.keys[caller]).partition(".")[0]

    def _made(
        self, method: str, path: str, json: Any, status: int = 200, body: bytes = b"", by: str = "admin"
    ) -> Any:
        answer = self.wired.ask(
            method, path.format_map(self.__dict__.get("names", {})), self.keys[by], json=json, body=body
        )
        assert answer.status == status, (method, path, answer)
        return answer.json() if answer.body[:1] == b"{" else None

    def _fill(self) -> None:
        here = "/api/v1/projects/alpha"
        self._made("PUT", f"{here}/budget", {"amount": "1000.00"})
        for bucket in ("alpha-data", "alpha-empty", "alpha-spare"):
            self._made("POST", f"{here}/buckets", {"name": bucket}, 201)
        self.names["soon"] = str(int(time.time() * 1000) + 86_400_000)
        for name in ("weekly", "spare"):
            self._made("POST", f"{here}/reports", {"name": name, "text": "# secret"}, 201)
        until = {"expires_at": int(self.names["soon"])}
        self.names["link"] = self._made("POST", f"{here}/reports/weekly/links", until, 201)["id"]
        shared = {"kind": "bucket", "name": "alpha-data", "to": "default"}
        self.names["share"] = self._made("POST", f"{here}/shares", shared, 201)["id"]
        self._made("POST", f"{here}/repositories", {"name": "repo"}, 201)
        self._made("PUT", f"{here}/buckets/alpha-data/object?key=k", None, 201, b"secret")
        self._made("POST", ICEBERG, {"namespace": ["ns"]})
        self._made("POST", f"{ICEBERG}/ns/tables", {"name": "t", "schema": SCHEMA})
        self.names["job"] = str(self._made("POST", f"{here}/jobs", {"argv": ["true"]}, 201)["id"])
        self._made("POST", f"{here}/jobs", {"argv": ["true"], "array": "2"}, 201)
        said = {"on": "job", "of": self.names["job"], "text": "hm"}
        self.names["comment"] = self._made("POST", f"{here}/comments", said, 201, by="viewer")["id"]
        hook = {"url": "https://example.org/hook", "kinds": ["none"]}
        self.names["webhook"] = self._made("POST", f"{here}/webhooks", hook, 201)["id"]
        done = self._made("POST", f"{here}/jobs", {"argv": ["true"]}, 201)["id"]
        ended = update(jobs).where(jobs.c.id == done).values(state="succeeded")
        self.wired.platform.database.write_now(lambda c: c.execute(ended))
        self.names["done_job"] = str(done)
        asked = {"of": f"job:{done}"}
        self.names["replay"] = str(self._made("POST", f"{here}/replays", asked, 201)["id"])
        self.names["sweep"] = str(self._made("POST", f"{here}/sweeps", SWEEP, 201)["id"])
        pack = NATIVE["POST", f"{P}/code/packs"].body
        self._made("POST", f"{here}/code/packs", None, 201, pack)
        self.names["snapshot"] = self._made("POST", f"{here}/code/snapshots", SNAPSHOT, 201)["id"]
        asked = {"file": "main.py", "snapshot": self.names["snapshot"]}
        self._made("PUT", f"{here}/pipelines/deployed/nightly", asked)
        for name in ("pipeline_run", "cancelled_run"):
            self.names[name] = str(self._made("POST", f"{here}/pipelines/runs", asked, 201)["id"])
        self.names["experiment"] = self._made(
            "POST", f"{MLFLOW}/experiments/create", {"name": "e"}, by="owner"
        )["experiment_id"]
        self.names["invitation"] = self._made("POST", f"{here}/invitations", {"role": "viewer"}, 201)["id"]
        self.names["device"] = self._made("POST", "/api/v1/device", {}, 201)["device_code"]
        self._made("POST", f"{here}/members", {"person": "admin", "role": "owner"}, 201)
        run = self._made(
            "POST", f"{MLFLOW}/runs/create", {"experiment_id": self.names["experiment"]}, by="owner"
        )
        self.names["run"] = run["run"]["info"]["run_id"]
        self._made("POST", f"{MLFLOW}/runs/log-batch", self.filled(BATCH), by="owner")
        self._made("PUT", f"{ARTIFACTS}/model/MLmodel", None, 200, b"flavors: {}\n", by="owner")
        self._made("POST", f"{MLFLOW}/registered-models/create", {"name": "m"}, by="owner")
        source = {"name": "m", "source": f"runs:/{self.names['run']}/model"}
        self._made("POST", f"{MLFLOW}/model-versions/create", source, by="owner")

    def filled(self, value: Any) -> Any:
        """`value` with the world's names put in for ``{name}`` in its strings."""
        if isinstance(value, str):
            return value.format_map(self.names)
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items()}
        return value

    def native(self, caller: str, method: str, route: Route) -> Answer:
        path = "/api/v1" + route.path.format_map(self.names)
        return self.wired.ask(method, path, self.keys[caller], json=self.filled(route.json), body=route.body)

    def other(self, caller: str, operation: Operation) -> Answer:
        path = operation.path.format_map(self.names)
        if operation.door == "s3":
            headers = signature(self.keys[caller], operation.method, path, operation.body)
            return self.wired.ask(operation.method, path, headers=headers, body=operation.body)
        return self.wired.ask(
            operation.method, path, self.keys[caller], json=self.filled(operation.json), body=operation.body
        )


def signature(
    key: str | None, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> list[tuple[bytes, bytes]]:
    """The headers of a request signed as boto signs it, the given ones included; `path` is raw, with its query."""
    request = AWSRequest(method, f"http://127.0.0.1:8484{path}", data=body, headers=dict(headers or {}))
    request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    key_id, _, secret = (key or "st1k00000000000000000000.none").partition(".")
    S3SigV4Auth(Credentials(key_id, secret), "s3", "us-east-1").add_auth(request)
    return [
        (name.lower().encode(), value if isinstance(value, bytes) else str(value).encode("latin-1"))
        for name, value in request.headers.items()
        if name.lower() not in {"host", "content-length"}
    ]
