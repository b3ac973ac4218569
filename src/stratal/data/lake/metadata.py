"""Table metadata: made, changed and summarised with pyiceberg's own models. Pure; no I/O.

pyiceberg costs about a second to import, so this module is imported when a table is first asked for,
on a thread (see `iceberg.py`, through which everybody calls it).
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.exceptions import ValidationError as IcebergValidationError
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, TableMetadataV1, new_table_metadata
from pyiceberg.table.name_mapping import MappedField
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import (
    RemovePropertiesUpdate,
    SetPropertiesUpdate,
    TableRequirement,
    TableUpdate,
    update_table_metadata,
)

from stratal.data.lake.model import AddedSnapshot, Facts
from stratal.kernel.errors import Conflict, Invalid

_REQUIREMENTS: TypeAdapter[tuple[TableRequirement, ...]] = TypeAdapter(tuple[TableRequirement, ...])
_UPDATES: TypeAdapter[tuple[TableUpdate, ...]] = TypeAdapter(tuple[TableUpdate, ...])
# What pyiceberg calls a wrong value is, for these two, a commit that another one overtook.
_OVERTAKEN = ("Cannot add snapshot with sequence number", "Cannot add a snapshot with first row id")


def create(
    *,
    location: str,
    schema: Mapping[str, Any],
    partition_spec: Mapping[str, Any] | None,
    sort_order: Mapping[str, Any] | None,
    properties: Mapping[str, str],
) -> Facts:
    """The metadata of a new, empty table. Raises `Invalid` for what Iceberg does not allow."""
    try:
        metadata = new_table_metadata(
            schema=Schema.model_validate(schema),
            partition_spec=PartitionSpec.model_validate(partition_spec)
            if partition_spec
            else UNPARTITIONED_PARTITION_SPEC,
            sort_order=SortOrder.model_validate(sort_order) if sort_order else UNSORTED_SORT_ORDER,
            location=location,
            properties=dict(properties),
            table_uuid=uuid.uuid4(),
        )
    except (ValidationError, IcebergValidationError, ValueError, TypeError, KeyError) as error:
        raise Invalid(
            f"The table's definition is not valid: {_reason(error)}", reason="bad_definition"
        ) from error
    return _facts(metadata)


def load(data: bytes) -> Facts:
    """Read a metadata file. Raises `Invalid` when it is not one."""
    return _facts(_parse(data))


def apply(
    base: bytes | None,
    base_location: str | None,
    requirements: Sequence[Mapping[str, Any]],
    updates: Sequence[Mapping[str, Any]],
) -> Facts | None:
    """The metadata after a commit; None when it changes nothing. `base` is None for a table that is to be created.

    Raises `Conflict` (``commit_failed``) when a requirement does not hold or another commit came first,
    `Invalid` for updates that make no sense.
    """
    try:
        needed = _REQUIREMENTS.validate_python([dict(r) for r in requirements])
        wanted = _UPDATES.validate_python([dict(u) for u in updates])
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise Invalid(f"The commit is not valid: {_reason(error)}", reason="bad_commit") from error
    present = _parse(base) if base is not None else None
    try:
        for requirement in needed:
            requirement.validate(present)
    except CommitFailedException as error:
        raise Conflict(
            f"The table has changed: {error}", hint="Reload it and try again.", reason="commit_failed"
        ) from error
    before = present if present is not None else _empty()
    try:
        after = update_table_metadata(
            before,
            _forgiving(before, wanted),
            enforce_validation=present is None,
            metadata_location=base_location,
        )
    except (
        ValidationError,
        IcebergValidationError,
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
    ) as error:
        if str(error).startswith(_OVERTAKEN):
            raise Conflict(
                f"Another commit came first: {error}", hint="Reload it and try again.", reason="commit_failed"
            ) from error
        raise Invalid(f"The commit is not valid: {_reason(error)}", reason="bad_commit") from error
    if present is not None and after == present:
        return None
    return _facts(after)


def schema_of(data: bytes, schema_id: int | None) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
    """The fields of a schema of the table (None: the current one) as JSON, and for files written without field
    ids the names that each id was given: by the table's name mapping, else by the schema."""
    metadata = _parse(data)
    schema = (metadata.schema_by_id(schema_id) if schema_id is not None else None) or metadata.schema()
    mapping = metadata.name_mapping() or schema.name_mapping
    names: dict[int, list[str]] = {}

    def note(fields: Sequence[MappedField]) -> None:
        for field in fields:
            if field.field_id is not None:
                names[field.field_id] = list(field.names)
            note(field.fields)

    note(mapping.root)
    return orjson.loads(schema.model_dump_json())["fields"], names


def _parse(data: bytes) -> TableMetadata:
    try:
        return TableMetadataUtil.parse_raw(data.decode())
    except (ValidationError, IcebergValidationError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"That is not the metadata of an Iceberg table: {_reason(error)}", reason="bad_metadata"
        ) from error


def _empty() -> TableMetadata:
    # Version 1, since the updates that create a table begin by upgrading it to theirs; not validated, since it
    # must hold no schema yet that theirs would come second to.
    return TableMetadataV1.model_construct(last_column_id=-1, schema=Schema())


def _forgiving(base: TableMetadata, updates: Sequence[TableUpdate]) -> tuple[TableUpdate, ...]:
    """Removing a property that is not there is no mistake in Iceberg; pyiceberg would raise KeyError."""
    known = set(base.properties)
    kept: list[TableUpdate] = []
    for update in updates:
        if isinstance(update, SetPropertiesUpdate):
            known |= set(update.updates)
        elif isinstance(update, RemovePropertiesUpdate):
            update = RemovePropertiesUpdate(removals=[key for key in update.removals if key in known])
            known -= set(update.removals)
        kept.append(update)
    return tuple(kept)


def _facts(metadata: TableMetadata) -> Facts:
    if metadata.format_version > 2:
        raise Invalid(
            f"Tables of format version {metadata.format_version} are not kept here.",
            hint="Use version 2 (format-version=2), the default.",
            reason="unknown_format_version",
        )
    current = metadata.current_snapshot()
    totals: dict[str, int | None] = dict.fromkeys(("total-records", "total-files-size", "total-data-files"))
    if current is None:
        totals = dict.fromkeys(totals, 0)
    elif current.summary is not None:
        for key in totals:
            value = current.summary.additional_properties.get(key)
            # a writer's own words: what is no count, or more than a row holds, is not known
            totals[key] = int(value) if value is not None and re.fullmatch("[0-9]{1,18}", value) else None
    return Facts(
        data=metadata.model_dump_json(exclude_none=True).encode(),
        uuid=str(metadata.table_uuid),
        location=metadata.location.rstrip("/"),
        snapshot_id=metadata.current_snapshot_id,
        row_count=totals["total-records"],
        byte_count=totals["total-files-size"],
        file_count=totals["total-data-files"],
        fields=orjson.loads(metadata.schema().model_dump_json())["fields"],
        snapshots=[
            AddedSnapshot(
                snapshot_id=snapshot.snapshot_id,
                parent_id=snapshot.parent_snapshot_id,
                sequence_number=snapshot.sequence_number,
                schema_id=snapshot.schema_id,
                manifest_list=snapshot.manifest_list,
                operation=snapshot.summary.operation.value if snapshot.summary else None,
                summary=dict(snapshot.summary.additional_properties) if snapshot.summary else {},
                made_at=snapshot.timestamp_ms,
            )
            for snapshot in metadata.snapshots
        ],
        paths=[
            metadata.properties[key]
            for key in (
                "write.data.path",
                "write.metadata.path",
                "write.object-storage.path",
                "write.folder-storage.path",
            )
            if key in metadata.properties
        ],
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        parts = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:3]]
        return "; ".join(parts)
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error)[:500]
