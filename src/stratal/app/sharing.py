"""What can be shared with other projects: each room says how its things are found."""

from sqlalchemy import Connection, select

from stratal.ai.endpoints.records import endpoint_named
from stratal.ai.models.lent import find_shareable as find_model
from stratal.data.lake.lent import find_shareable as find_table
from stratal.data.objects.model import BucketKind
from stratal.data.objects.tables import buckets
from stratal.identity.shares import Shares
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database


def furnish_shares(database: Database, clock: Clock) -> Shares:
    shares = Shares(database, clock)
    shares.offer("bucket", _bucket)
    shares.offer("table", find_table)
    shares.offer("model", find_model)
    shares.offer("endpoint", _endpoint)
    return shares


def _bucket(connection: Connection, project_id: str, name: str) -> tuple[str, str] | None:
    """Not the lake's bucket: of that, tables are shared one by one."""
    query = select(buckets.c.id).where(
        buckets.c.project_id == project_id,
        buckets.c.name == name,
        buckets.c.kind == BucketKind.USER.value,
    )
    found = connection.execute(query).scalar()
    return None if found is None else (found, name)


def _endpoint(connection: Connection, project_id: str, name: str) -> tuple[str, str] | None:
    found = endpoint_named(connection, project_id, name)
    return None if found is None else (found.id, found.name)
