"""A solution as JSON, for the API and the command line alike."""

from dataclasses import asdict
from typing import Any

from stratal.ai.solutions.catalogue import project_of
from stratal.ai.solutions.manifest import Solution


def shown(solution: Solution) -> dict[str, Any]:
    """What ``solution.toml`` declares, without where it lies on this machine."""
    told = asdict(solution)
    for hidden in ("folder", "has_target"):
        del told[hidden]
    told["gates"] = [{"kind": g.kind, "title": g.title, **g.terms} for g in solution.gates]
    told["headline"] = solution.headline.name
    told["steps"] = list(solution.steps)
    told["project"] = project_of(solution.name)
    return told
