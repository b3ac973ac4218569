"""What is asked of Ray: room for a workload, an actor in it, and what machines there are. Blocks; the bridge's.

A workload's place is a *placement group* by the attempt's name: while there is no room it waits, and is
the demand that Ray's autoscaler sees. Both it and the actor are detached and named, so that a bridge that
was killed finds them again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stratal.engines.ray.leader import Leader
from stratal.engines.ray.record import part_name
from stratal.engines.ray.start import stay_on_loopback
from stratal.engines.ray.supervisor import Supervisor

NAMESPACE = "stratal"
_SUPERVISOR_CALLS = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """A node as Ray knows it: what it has in all, and what of it is free."""

    name: str
    id: str
    alive: bool
    cpus: float
    memory_bytes: int
    gpus: float
    address: str


class Cluster:
    """A connection as a driver. Raises `ConnectionError` and the like when there is no cluster to join."""

    Unreachable = (ray.exceptions.ActorUnavailableError,)
    """A supervisor does not answer right now; it may again."""
    Broken = (ray.exceptions.RayError,)
    """Anything that Ray says went wrong: a supervisor that is gone, above all."""

    def __init__(self, address: str, interface: str) -> None:
        stay_on_loopback()
        ray.init(
            address,
            namespace=NAMESPACE,
            _node_ip_address=interface,
            log_to_driver=False,
            configure_logging=False,
        )

    # -- places --------------------------------------------------------------------------------

    def room(self, name: str, bundles: Sequence[Mapping[str, float]], patience: float) -> bool:
        """Ask for a place of that name, once, on as few machines as have room; True when it is there in `patience` s."""
        place = _place(name)
        if place is None:
            place = placement_group([dict(one) for one in bundles], "PACK", name=name, lifetime="detached")
        return bool(place.wait(patience))

    def withdraw(self, name: str) -> None:
        """Give a place back, or the demand for it up. Whatever runs in it is killed."""
        place = _place(name)
        if place is not None:
            remove_placement_group(place)

    def places(self) -> list[str]:
        """The names of all places that were asked for and not given back."""
        table = ray.util.placement_group_table()
        return [str(one["name"]) for one in table.values() if one["name"] and one["state"] != "REMOVED"]

    def demand(self) -> list[dict[str, float]]:
        """The bundles that no machine has room for: what an autoscaler of Ray's sees."""
        table = ray.util.placement_group_table()
        waiting = [one for one in table.values() if one["state"] in {"PENDING", "RESCHEDULING"}]
        return [dict(bundle) for one in waiting for bundle in one["bundles"].values()]

    def layout(self, name: str) -> list[tuple[int, str, int]]:
        """For each machine on which a place that is there has bundles: one of them, the machine, how many."""
        placed = ray.util.placement_group_table(_place(name))["bundles_to_node_id"]
        names = {node["NodeID"]: str(node["NodeName"]) for node in ray.nodes()}
        machines: dict[str, list[int]] = {}
        for index in sorted(placed):
            machines.setdefault(placed[index], []).append(index)
        return [(held[0], names.get(node, node), len(held)) for node, held in machines.items()]

    # -- supervisors -----------------------------------------------------------------------------

    def supervise(self, name: str, place_name: str, index: int = 0) -> Any:
        """The supervisor of that name in its place: the one that is there, or a new one."""
        return self._actor(Supervisor, name, place_name, index).remote()

    def lead(self, name: str, layout: Sequence[tuple[int, str, int]]) -> Any:
        """The leader of the gang of that name, whose place lies on several machines, and a supervisor on each."""
        parts = [
            (self.supervise(part_name(name, number), name, index), machine, nodes)
            for number, (index, machine, nodes) in enumerate(layout)
        ]
        return self._actor(Leader, name, name, 0).remote(parts)

    def _actor(self, kind: type, name: str, place_name: str, index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(_place(place_name), placement_group_bundle_index=index)
        return ray.remote(kind).options(
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
            max_concurrency=_SUPERVISOR_CALLS,
            scheduling_strategy=strategy,
        )

    def supervisor(self, name: str) -> Any | None:
        """The supervisor of that name, if it lives."""
        try:
            return ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None

    # -- machines --------------------------------------------------------------------------------

    def machines(self) -> list[Machine]:
        """Every machine that is or was in the cluster since its head started."""
        found = []
        for node in ray.nodes():
            has = node["Resources"]
            machine = Machine(
                name=node["NodeName"],
                id=node["NodeID"],
                alive=bool(node["Alive"]),
                cpus=float(has.get("CPU", 0)),
                memory_bytes=int(has.get("memory", 0)),
                gpus=float(has.get("GPU", 0)),
                address=node["NodeManagerAddress"],
            )
            found.append(machine)
        return found


def _place(name: str) -> Any | None:
    try:
        return get_placement_group(name)
    except ValueError:
        return None
