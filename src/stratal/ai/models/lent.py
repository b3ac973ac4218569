"""Models of other projects that a project may read. There they are called ``<project>.<name>``.

What is shown of them is theirs to read: versions, aliases, tags and files. Where a version came from (its run,
its logged model) is not.
"""

from dataclasses import replace

from sqlalchemy import Connection, select

from stratal.ai.models.model import ModelVersion, RegisteredModel
from stratal.ai.models.tables import model_versions, registered_models
from stratal.identity.shares import Share, find_lent, lent_as


def home_of(connection: Connection, project_id: str, name: str) -> tuple[str, str]:
    """The project and the name there of what the project calls `name`: its own comes first."""
    query = select(registered_models.c.id).where(
        registered_models.c.project_id == project_id, registered_models.c.name == name
    )
    if connection.execute(query).first() is None:
        share = find_lent(connection, project_id, "model", name)
        if share is not None:
            return share.giver_id, share.name
    return project_id, name


def version_as_lent(version: ModelVersion, name: str) -> ModelVersion:
    """The version as a project sees it that calls its model `name`."""
    return replace(
        version,
        name=name,
        source=f"models:/{name}/{version.version}",
        run_id=None,
        run_link="",
        logged_model_id=None,
        workload=None,
    )


def model_as_lent(model: RegisteredModel, name: str) -> RegisteredModel:
    return replace(model, name=name, latest=tuple(version_as_lent(one, name) for one in model.latest))


def root_lent(connection: Connection, receiver_id: str, root_id: str) -> Share | None:
    """By which share the project may read the files at this root of artifacts, a version's; None: it may not."""
    model_id = connection.execute(
        select(model_versions.c.model_id).where(
            model_versions.c.id == root_id, model_versions.c.deleted_at.is_(None)
        )
    ).scalar()
    return None if model_id is None else lent_as(connection, receiver_id, "model", model_id)


def find_shareable(connection: Connection, project_id: str, name: str) -> tuple[str, str] | None:
    """The id and name of the project's own model called so."""
    query = select(registered_models.c.id).where(
        registered_models.c.project_id == project_id, registered_models.c.name == name
    )
    found = connection.execute(query).scalar()
    return None if found is None else (found, name)
