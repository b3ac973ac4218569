"""The registry's rows as values, and how they are found."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Table, select

from stratal.ai.models.model import Facts, ModelFile, ModelVersion, RegisteredModel
from stratal.ai.models.tables import (
    model_aliases,
    model_version_tags,
    model_versions,
    registered_model_tags,
    registered_models,
)
from stratal.collab.artifacts import files_below
from stratal.kernel.errors import NotFound

_BATCH = 500


def find_model(connection: Connection, project_id: str, name: str) -> RegisteredModel:
    """The registered model's own row. Raises `NotFound`."""
    row = connection.execute(
        select(registered_models).where(
            registered_models.c.project_id == project_id, registered_models.c.name == name
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no registered model {name[:200]!r}.", reason="no_such_model")
    return model_of(row)


def find_version(connection: Connection, project_id: str, name: str, version: str | int) -> ModelVersion:
    """The version `version` (a number) of the model `name`, without files and tags. Raises `NotFound`."""
    model = find_model(connection, project_id, name)
    number = version_number(version)
    row = None
    if number is not None:
        row = connection.execute(
            select(model_versions).where(
                model_versions.c.model_id == model.id,
                model_versions.c.version == number,
                model_versions.c.deleted_at.is_(None),
            )
        ).one_or_none()
    if row is None:
        raise NotFound(
            f"Model {name[:200]!r} has no version {str(version)[:60]!r}.", reason="no_such_version"
        )
    return version_of(row)


def alias_target(connection: Connection, model: RegisteredModel, alias: str) -> int:
    """The version that an alias names. Raises `NotFound`."""
    found = connection.execute(
        select(model_aliases.c.version).where(
            model_aliases.c.model_id == model.id, model_aliases.c.alias == alias
        )
    ).scalar()
    if found is None:
        raise NotFound(f"Model {model.name!r} has no alias {alias[:100]!r}.", reason="no_such_alias")
    return int(found)


def version_number(version: str | int) -> int | None:
    """A version as a number, None when the text is none that could be."""
    text = str(version)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None


def model_of(row: Any) -> RegisteredModel:
    return RegisteredModel(
        row.id, row.project_id, row.name, row.description, row.created_at, row.updated_at, row.created_by
    )


def version_of(row: Any) -> ModelVersion:
    return ModelVersion(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        version=row.version,
        source=row.source,
        run_id=row.run_id,
        run_link=row.run_link,
        logged_model_id=row.logged_model_id,
        workload=row.workload,
        description=row.description,
        stage=row.stage,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
        facts=facts_of(row.facts),
    )


def facts_text(facts: Facts) -> str:
    return orjson.dumps(asdict(facts)).decode()


def facts_of(text: str) -> Facts:
    values = orjson.loads(text)
    return Facts(
        flavors=values["flavors"],
        formats=tuple(values["formats"]),
        signature=values["signature"],
        requirements=values["requirements"],
        python_version=values["python_version"],
        labels=tuple(values["labels"]),
    )


def with_files(connection: Connection, version: ModelVersion) -> ModelVersion:
    """The version with its pinned files, by path."""
    files = files_below(connection, version.id)
    return replace(version, files=tuple(ModelFile(f.path, f.size, f.sha256, f.blob_key) for f in files))


def with_labels(connection: Connection, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    """The versions with their tags and aliases."""
    tags = pairs(connection, model_version_tags, "version_id", [version.id for version in versions])
    aliases: dict[str, list[str]] = {}
    for ids in _batches([version.id for version in versions]):
        query = (
            select(model_versions.c.id, model_aliases.c.alias)
            .join(
                model_aliases,
                (model_aliases.c.model_id == model_versions.c.model_id)
                & (model_aliases.c.version == model_versions.c.version),
            )
            .where(model_versions.c.id.in_(ids))
            .order_by(model_aliases.c.alias)
        )
        for row in connection.execute(query):
            aliases.setdefault(row.id, []).append(row.alias)
    return [replace(v, tags=tags.get(v.id, {}), aliases=tuple(aliases.get(v.id, ()))) for v in versions]


def with_versions(connection: Connection, models: Sequence[RegisteredModel]) -> list[RegisteredModel]:
    """The models with tags, aliases, and the newest version of each stage."""
    ids = [model.id for model in models]
    tags = pairs(connection, registered_model_tags, "model_id", ids)
    aliases: dict[str, dict[str, int]] = {}
    latest: dict[str, dict[str, ModelVersion]] = {}
    for batch in _batches(ids):
        for row in connection.execute(
            select(model_aliases).where(model_aliases.c.model_id.in_(batch)).order_by(model_aliases.c.alias)
        ):
            aliases.setdefault(row.model_id, {})[row.alias] = row.version
        query = (
            select(model_versions)
            .where(model_versions.c.model_id.in_(batch), model_versions.c.deleted_at.is_(None))
            .order_by(model_versions.c.version)
        )
        for row in connection.execute(query):
            latest.setdefault(row.model_id, {})[row.stage] = version_of(row)
    newest = [version for stages in latest.values() for version in stages.values()]
    labelled = {version.id: version for version in with_labels(connection, newest)}
    return [
        replace(
            model,
            tags=tags.get(model.id, {}),
            aliases=aliases.get(model.id, {}),
            latest=tuple(labelled[v.id] for v in latest.get(model.id, {}).values()),
        )
        for model in models
    ]


def pairs(connection: Connection, table: Table, column: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """The keys and values of `table` for each owner in `column`."""
    result: dict[str, dict[str, str]] = {}
    for batch in _batches(ids):
        query = select(table).where(table.c[column].in_(batch)).order_by(table.c.key)
        for row in connection.execute(query):
            result.setdefault(row._mapping[column], {})[row.key] = row.value
    return result


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
