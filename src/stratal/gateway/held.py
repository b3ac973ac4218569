"""What a replay may not do at any door: begin work, deploy, push, change what others see.

The rooms keep aside what a workload that is held to a past writes into tables, objects, runs and the registry. All
else that changes something is refused here, at the door, before anybody has to think of it: what is allowed is listed.
"""

import re

from starlette.types import Scope

from stratal.identity.model import Principal
from stratal.ledger.past import Pasts, refused_in_past

_LOOKING = {"GET", "HEAD", "OPTIONS"}
_KEPT_ASIDE = re.compile(
    rb"/api/v1/(sql|projects/[^/]+/("
    rb"buckets|buckets/[^/]+/object|tables/[^/]+/import"
    rb"|code/(snapshots|packs)"
    rb"|pipelines/runs/[^/]+/(open|journal|steps/.+)"
    rb"|endpoints/[^/]+/invocations"
    rb"|features/[^/]+/lookup"
    rb"|indexes/[^/]+/(search|ask)))\Z"
)
"""The native API's changes that a replay makes for itself alone, or that only ask something."""
_ASKING = re.compile(
    rb"/v1/(chat/completions|completions|embeddings|responses|moderations|audio/(transcriptions|translations))\Z"
)
_SHOWN = re.compile(rb"registered-models/alias\Z|model-versions/transition-stage\Z")
"""MLflow's changes of what a name in the registry means; the rest is the registry's to keep aside."""
_WHAT = {
    "functions": "call a function, whose effects are its own",
    "git": "push",
    "mcp": "act as an agent",
    "openai": "keep files or begin work",
    "mlflow": "say which version a name means",
}


async def refuse_effects(pasts: Pasts, who: Principal, door: str, scope: Scope) -> None:
    """Raise `Conflict` (``held_to_past``) for a request of a replay whose effect others would see."""
    if who.workload is None or await pasts.of(who) is None:
        return
    path: bytes = scope["raw_path"]
    if door == "git":
        pushing = path.endswith(b"/git-receive-pack") or b"git-receive-pack" in scope["query_string"]
        refused = pushing or (scope["method"] == "PUT" and b"/info/lfs/" in path)
    elif scope["method"] in _LOOKING:
        return
    else:
        refused = {
            "native": _KEPT_ASIDE.match(path) is None,
            "openai": _ASKING.match(path) is None,
            "mlflow": _SHOWN.search(path) is not None,
            "functions": True,
            "mcp": True,
        }.get(door, False)
    if refused:
        raise refused_in_past(_WHAT.get(door, "begin work or change what others see"))
