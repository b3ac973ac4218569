"""What removing a project means for its models. Their files go with the project's artifacts."""

from sqlalchemy import Connection, delete, select

from stratal.ai.models.tables import (
    logged_model_params,
    logged_model_tags,
    logged_models,
    model_aliases,
    model_forms,
    model_version_tags,
    model_versions,
    registered_model_tags,
    registered_models,
)
from stratal.kernel.database import Database


async def purge_models(database: Database, project_id: str) -> None:
    """Remove every registered name, version and logged model of the project. Repeatable."""
    await database.write(lambda c: _purge(c, project_id))


def _purge(connection: Connection, project_id: str) -> None:
    versions = select(model_versions.c.id).where(model_versions.c.project_id == project_id)
    connection.execute(delete(model_version_tags).where(model_version_tags.c.version_id.in_(versions)))
    connection.execute(delete(model_forms).where(model_forms.c.project_id == project_id))
    connection.execute(delete(model_versions).where(model_versions.c.project_id == project_id))
    names = select(registered_models.c.id).where(registered_models.c.project_id == project_id)
    for table in (model_aliases, registered_model_tags):
        connection.execute(delete(table).where(table.c.model_id.in_(names)))
    connection.execute(delete(registered_models).where(registered_models.c.project_id == project_id))
    logged = select(logged_models.c.id).where(logged_models.c.project_id == project_id)
    for table in (logged_model_params, logged_model_tags):
        connection.execute(delete(table).where(table.c.model_id.in_(logged)))
    connection.execute(delete(logged_models).where(logged_models.c.project_id == project_id))
