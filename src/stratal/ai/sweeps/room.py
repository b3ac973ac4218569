"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from dataclasses import dataclass

from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.ai.sweeps.advisor import Advisor
from stratal.ai.sweeps.conductor import Conductor
from stratal.ai.sweeps.service import Sweeps
from stratal.collab.experiments import Experiments
from stratal.collab.runs import Runs
from stratal.compute.jobs import Jobs
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database


@dataclass(frozen=True, slots=True)
class Room:
    sweeps: Sweeps
    conductor: Conductor


def furnish(
    database: Database,
    jobs: Jobs,
    experiments: Experiments,
    runs: Runs,
    models: Models,
    registered: RegisteredModels,
    advisor: Advisor,
    clock: Clock,
) -> Room:
    conductor = Conductor(database, jobs, runs, models, registered, advisor, clock)
    return Room(Sweeps(database, jobs, experiments, runs, advisor, conductor.kick, clock), conductor)
