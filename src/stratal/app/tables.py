"""Every room's tables, imported so that one `MetaData` knows them all (migrations, tests)."""

from stratal.ai.catalog import tables as catalog
from stratal.ai.endpoints import tables as endpoints
from stratal.ai.functions import tables as functions
from stratal.ai.models import tables as models
from stratal.ai.replays import tables as replays
from stratal.ai.retrieval import tables as retrieval
from stratal.ai.sweeps import tables as sweeps
from stratal.app import database as instance
from stratal.collab import tables as collab
from stratal.collab.reports import tables as reports
from stratal.collab.repositories import tables as repositories
from stratal.collab.talk import tables as talk
from stratal.collab.workspaces import tables as workspaces
from stratal.compute import tables as compute
from stratal.compute.services import tables as services
from stratal.data.features import tables as features
from stratal.data.lake import tables as lake
from stratal.data.objects import tables as objects
from stratal.data.pipelines import tables as pipelines
from stratal.data.queries import tables as queries
from stratal.identity import tables as identity
from stratal.identity.federation import tables as federation
from stratal.kernel import events
from stratal.kernel.database import metadata
from stratal.ledger import tables as ledger

ROOMS = (
    events,
    instance,
    identity,
    federation,
    ledger,
    compute,
    services,
    objects,
    lake,
    queries,
    pipelines,
    features,
    collab,
    models,
    catalog,
    endpoints,
    repositories,
    talk,
    reports,
    sweeps,
    functions,
    retrieval,
    workspaces,
    replays,
)

__all__ = ["ROOMS", "metadata"]
