"""What a project whose budget is used up may not do: begin new work, at any door. Looking and removing it may.

What runs still writes (its checkpoint, its log, its run's last values): whether it may go on is the budget's to
say, and cutting it off in the middle of a write saves nothing.
"""

import re
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from stratal.identity.model import Principal
from stratal.ledger.budgets import Budgets

_LOOKING = {"GET", "HEAD", "OPTIONS", "DELETE"}
_PROJECT = re.compile(
    rb"/(?:api/v1/projects|iceberg/v1|git|f|hub/lfs)/([^/]+)/"
    rb"|/hub/(?:api/models/)?([^/]+)/[^/]+/(?:preupload|commit|tag|settings|info)\b"
)
_WORK = re.compile(
    rb"/api/v1/(sql|projects/[^/]+/("
    rb"jobs|sweeps|endpoints|functions|catalog/pulls|catalog/[^/]+/pull|models/[^/]+/versions/[^/]+/convert"
    rb"|pipelines/runs|pipelines/runs/[^/]+/retry|pipelines/deployed/[^/]+/runs"
    rb"|endpoints/[^/]+/(invocations|start|traffic|rollback)"
    rb"|functions/[^/]+/invocations/[^/]+/retry|apps|apps/[^/]+/rollback"
    rb"|indexes/[^/]+(/(search|ask|calibration))?|workspaces|workspaces/[^/]+/start))\Z"
)
"""The native API's ways to begin work."""
_STORES = re.compile(
    rb"/api/v1/projects/[^/]+/("
    rb"buckets|repositories|code/snapshots|code/packs"
    rb"|buckets/[^/]+/object|tables/[^/]+/import|repositories/[^/]+/snapshots)\Z"
)
"""Its ways to store more: what runs may."""
_NAMED = {"native", "iceberg", "git", "functions", "hub"}
"""The doors whose addresses name the project; at the others it is the key's."""
_MLFLOW_LOOKS = re.compile(rb"search|delete|/get|list|query")


def refuse_beyond_budget(budgets: Budgets, who: Principal, door: str, scope: Scope) -> None:
    """Raise `OverBudget` for a request that would begin work in a project that has spent its budget."""
    if not budgets.any_over:
        return
    path: bytes = scope["raw_path"]
    if not _begins_work(door, scope, path, running=who.workload is not None):
        return
    named = _PROJECT.match(path) if door in _NAMED else None
    project = who.project_id if named is None else unquote_to_bytes(named[1] or named[2]).decode("latin-1")
    budgets.refuse(project)


def _begins_work(door: str, scope: Scope, path: bytes, *, running: bool) -> bool:
    if door == "git":
        writing = path.endswith(b"/git-receive-pack") or b"git-receive-pack" in scope["query_string"]
        writing = writing or (scope["method"] == "PUT" and b"/info/lfs/objects/" in path)
        return writing and not running
    if scope["method"] in _LOOKING:
        return False
    match door:
        case "native":
            return _WORK.match(path) is not None or (not running and _STORES.match(path) is not None)
        case "inference":
            return path.endswith((b"/infer", b"/load"))
        case "openai":
            return not path.endswith(b"/cancel")
        case "functions":
            return True
        case "s3":
            return not running and not re.search(rb"(^|&)delete(=|&|$)", scope["query_string"])
        case "mlflow":
            return not running and not _MLFLOW_LOOKS.search(path)
        case "iceberg":
            return not running and not path.endswith((b"/oauth/tokens", b"/metrics"))
        case "hub":
            return not running and not path.endswith(b"/objects/batch") and b"/paths-info/" not in path
    return False
