"""What a URI names now: a version by number, alias, stage or ``latest``, or the one registered from a place."""

from sqlalchemy import Connection, select

from stratal.ai.models.model import STAGES, ModelVersion
from stratal.ai.models.rows import (
    alias_target,
    find_model,
    find_version,
    version_number,
    version_of,
    with_files,
)
from stratal.ai.models.sources import logged_model_of, open_source, parse_named
from stratal.ai.models.tables import model_versions
from stratal.collab.model import RootKind
from stratal.kernel.errors import NotFound


def version_named(connection: Connection, project_id: str, uri: str) -> ModelVersion:
    """The version that `uri` names, without its files. Raises `NotFound`, `Invalid` for what is no such URI."""
    if uri.startswith("runs:/") or logged_model_of(uri) is not None:
        return _registered_from(connection, project_id, uri)
    return _named(connection, project_id, uri)


def _named(connection: Connection, project_id: str, uri: str) -> ModelVersion:
    named = parse_named(uri)
    model = find_model(connection, project_id, named.name)
    if named.alias:
        number = alias_target(connection, model, named.alias)
        return find_version(connection, project_id, named.name, number)
    if version_number(named.version) is not None:
        return find_version(connection, project_id, named.name, named.version)
    query = select(model_versions).where(
        model_versions.c.model_id == model.id, model_versions.c.deleted_at.is_(None)
    )
    stage = {known.lower(): known for known in STAGES}.get(named.version.lower())
    if stage is not None:
        query = query.where(model_versions.c.stage == stage)
    elif named.version.lower() != "latest":
        raise NotFound(
            f"Model {named.name!r} has no version {named.version[:60]!r}.", reason="no_such_version"
        )
    row = connection.execute(query.order_by(model_versions.c.version.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFound(
            f"Model {named.name!r} has no version for {named.version!r} yet.", reason="no_such_version"
        )
    return version_of(row)


def _registered_from(connection: Connection, project_id: str, uri: str) -> ModelVersion:
    source = open_source(connection, project_id, uri)
    wanted = {(file.path, file.blob_key) for file in source.files}
    query = select(model_versions).where(
        model_versions.c.project_id == project_id, model_versions.c.deleted_at.is_(None)
    )
    if source.root.kind is RootKind.RUN:
        query = query.where(model_versions.c.run_id == source.root.id)
    else:
        query = query.where(model_versions.c.logged_model_id == source.root.id)
    for row in connection.execute(
        query.order_by(model_versions.c.created_at.desc(), model_versions.c.id.desc())
    ):
        version = with_files(connection, version_of(row))
        if {(file.path, file.blob_key) for file in version.files} == wanted:
            return version
    raise NotFound(
        f"No version was registered from {uri[:200]!r}.",
        hint="Register it first: mlflow.register_model(uri, name).",
        reason="not_registered",
    )
