"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.records import payer
from stratal.ai.endpoints.rollout import KIND, Rollouts
from stratal.ai.endpoints.runtime import Runtime
from stratal.ai.endpoints.service import Endpoints
from stratal.ai.endpoints.serving import Serving
from stratal.ai.models.conversion import Conversions
from stratal.ai.models.forms import Forms
from stratal.ai.models.registry import Models
from stratal.ai.predictions.service import Predictions
from stratal.ai.predictions.spool import Spool
from stratal.compute.environments import Environments
from stratal.compute.jobs import Jobs
from stratal.compute.services.services import Services
from stratal.identity.shares import Shares
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database


@dataclass(frozen=True, slots=True)
class Room:
    endpoints: Endpoints
    serving: Serving
    predictions: Predictions
    spool: Spool
    rollouts: Rollouts

    async def start(self) -> None:
        await self.spool.start()
        await self.rollouts.start()

    async def close(self) -> None:
        """Let go; replicas go on and are found again."""
        await self.rollouts.close()
        await self.spool.close()


def furnish(
    database: Database,
    services: Services,
    environments: Environments,
    jobs: Jobs,
    models: Models,
    runtime: Runtime,
    clock: Clock,
    forms: Forms,
    conversions: Conversions,
    shares: Shares | None = None,
    *,
    spool: Path,
    layouts: Path,
    variables: Mapping[str, str],
) -> Room:
    """`spool` and `layouts` (model files) are folders of this machine; `variables` are for every replica's libraries."""
    rows = Spool(spool)
    predictions = Predictions(rows, database)
    services.paid_by(KIND, payer)
    laid_out = Layouts(layouts, models.blobs)
    serving = Serving(predictions, clock, shares=shares)
    rollouts = Rollouts(database, services, environments, laid_out, runtime, serving, variables)
    endpoints = Endpoints(
        database,
        models.resolve,
        jobs,
        runtime,
        rollouts,
        services,
        serving,
        predictions,
        clock,
        forms.served,
        conversions.deployed,
    )
    conversions.serves = serving.serves
    return Room(endpoints, serving, predictions, rows, rollouts)
