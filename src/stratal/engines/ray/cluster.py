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

    def room(
        self, name: str, bundles: Sequence[Mapping[str, float]], patience: float, *, spread: bool = False
    ) -> bool:
        """Ask for a place of that name, once; True when it is there after `patience` seconds at most."""
        place = _place(name)
        if place is None:
            strategy = "SPREAD" if spread else "PACK"
            place = placement_group([dict(one) for one in bundles], strategy, name=name, lifetime="detached")
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

    # -- supervisors -----------------------------------------------------------------------------

    def supervise(self, name: str, place_name: str, index: int = 0, gpus: float = 0) -> Any:
        """The supervisor of that name in its place: the one that is there, or a new one."""
        strategy = PlacementGroupSchedulingStrategy(_place(place_name), placement_group_bundle_index=index)
        actor = ray.remote(Supervisor).options(
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=0,
            max_concurrency=_SUPERVISOR_CALLS,
            scheduling_strategy=strategy,
        )
        return actor.remote()

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
