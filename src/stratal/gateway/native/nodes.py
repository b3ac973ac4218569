"""``/api/v1/projects/{project}/nodes``: the machines that work runs on, and their GPUs."""

from typing import Annotated

from fastapi import APIRouter, Depends

from stratal.compute.nodes import GpuState, Node, Nodes
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]


def router(nodes: Nodes, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["jobs"])

    @api.get("/projects/{project}/nodes")
    async def list_nodes(who: Who, project: str) -> dict[str, object]:
        """Every machine: what it has, what of it is held, and its GPUs with the jobs that hold them."""
        place = await projects.get(who, project)
        return {"nodes": [_node(node) for node in await nodes.list(who, place.id)]}

    return api


def _node(node: Node) -> dict[str, object]:
    return {
        "name": node.name,
        "cpus": node.capacity.cpus,
        "memory_bytes": node.capacity.memory_bytes,
        "used": {
            "cpus": node.used.cpus,
            "memory_bytes": node.used.memory_bytes,
            "gpus": node.used.gpus,
            "jobs": node.jobs,
        },
        "gpus": [_gpu(state) for state in node.gpus],
        "why_no_gpus": node.capacity.why_no_gpus if not node.gpus else "",
    }


def _gpu(state: GpuState) -> dict[str, object]:
    gpu, sample, holder = state.gpu, state.sample, state.holder
    return {
        "uuid": gpu.uuid,
        "type": gpu.type,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "fake": gpu.fake,
        "held": holder is not None,
        "job": None if holder is None else holder.job_id,
        "replica": None if holder is None else holder.replica,
        "project": None if holder is None else holder.project,
        "busy": None if sample is None else sample.busy,
        "memory_used_bytes": None if sample is None else sample.memory_bytes,
    }
