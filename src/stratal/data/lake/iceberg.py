"""The way to pyiceberg: on a thread, and imported when the first table is asked for.

It takes about a second, which neither the start nor the event loop may pay. `metadata.py` and `manifests.py`
import it; everybody else calls them through here.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from stratal.data.lake.model import Facts, SnapshotFile

if TYPE_CHECKING:
    from stratal.data.lake.manifests import Manifest


async def create(
    *,
    location: str,
    schema: Mapping[str, Any],
    partition_spec: Mapping[str, Any] | None,
    sort_order: Mapping[str, Any] | None,
    properties: Mapping[str, str],
) -> Facts:
    """See `metadata.create`."""

    def work() -> Facts:
        from stratal.data.lake import metadata

        return metadata.create(
            location=location,
            schema=schema,
            partition_spec=partition_spec,
            sort_order=sort_order,
            properties=properties,
        )

    return await anyio.to_thread.run_sync(work)


async def load(data: bytes) -> Facts:
    """See `metadata.load`."""

    def work() -> Facts:
        from stratal.data.lake import metadata

        return metadata.load(data)

    return await anyio.to_thread.run_sync(work)


async def apply(
    base: bytes | None,
    base_location: str | None,
    requirements: Sequence[Mapping[str, Any]],
    updates: Sequence[Mapping[str, Any]],
) -> Facts | None:
    """See `metadata.apply`."""

    def work() -> Facts | None:
        from stratal.data.lake import metadata

        return metadata.apply(base, base_location, requirements, updates)

    return await anyio.to_thread.run_sync(work)


async def schema_of(
    metadata_json: bytes, schema_id: int | None
) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
    """See `metadata.schema_of`."""

    def work() -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
        from stratal.data.lake import metadata

        return metadata.schema_of(metadata_json, schema_id)

    return await anyio.to_thread.run_sync(work)


async def read_list(data: bytes, location: str) -> "list[Manifest]":
    """See `manifests.read_list`."""

    def work() -> "list[Manifest]":
        from stratal.data.lake import manifests

        return manifests.read_list(data, location)

    return await anyio.to_thread.run_sync(work)


async def read_files(
    manifests_and_data: "Sequence[tuple[Manifest, bytes]]", metadata_json: bytes | None
) -> list[SnapshotFile]:
    """The live files of several manifests; with their partitions when the table's metadata is given."""

    def work() -> list[SnapshotFile]:
        from stratal.data.lake import manifests

        specs = manifests.Specs(metadata_json) if metadata_json is not None else None
        read = partial(manifests.read_files, specs=specs)
        return [file for manifest, data in manifests_and_data for file in read(manifest, data)]

    return await anyio.to_thread.run_sync(work)
