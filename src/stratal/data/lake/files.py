"""The lake's files as objects: which object version a location names, within the project."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

from stratal.data.lake.model import Place, split_location
from stratal.data.lake.tables import lakes, table_files
from stratal.data.objects.model import ObjectVersion
from stratal.data.objects.rows import current_version, version_by_id
from stratal.data.objects.service import Objects
from stratal.data.objects.tables import buckets
from stratal.identity.model import Principal, system_principal
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Internal, Invalid, StratalError

_READ_LIMIT = 256 * 1024 * 1024
_CHUNK = 500


class Files:
    """Looks up and reads a table's files. What it reads it reads as the platform: doors record who asked."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    async def bucket(self, place: Place) -> str | None:
        """The project's lake bucket; None before its first table."""
        return await self._database.read(lambda c: lake_bucket(c, place.id))

    async def current(self, place: Place, locations: Iterable[str]) -> dict[str, ObjectVersion]:
        """What each location names now. Locations that name nothing of this project are left out."""
        wanted = list(dict.fromkeys(locations))

        def work(connection: Connection) -> dict[str, ObjectVersion]:
            known: dict[str, str | None] = {}
            found: dict[str, ObjectVersion] = {}
            for location in wanted:
                parts = split_location(location)
                if parts is None:
                    continue
                bucket, key = parts
                if bucket not in known:
                    known[bucket] = connection.execute(
                        select(buckets.c.id).where(buckets.c.name == bucket, buckets.c.project_id == place.id)
                    ).scalar()
                bucket_id = known[bucket]
                version = current_version(connection, bucket_id, key.encode()) if bucket_id else None
                if version is not None:
                    found[location] = version
            return found

        return await self._database.read(work)

    async def pinned(self, table_id: str, locations: Iterable[str]) -> dict[str, ObjectVersion]:
        """The version each location was when a commit first named it; unpinned ones are left out."""
        wanted = list(dict.fromkeys(locations))

        def work(connection: Connection) -> dict[str, ObjectVersion]:
            found: dict[str, ObjectVersion] = {}
            for location, version_id in pins(connection, table_id, wanted).items():
                version = version_by_id(connection, version_id)
                if version is not None:
                    found[location] = version
            return found

        return await self._database.read(work)

    async def read(self, place: Place, version: ObjectVersion) -> bytes:
        """The version's bytes. Raises `NotFound` when they are gone, `Invalid` when it is far too large for metadata."""
        if version.size > _READ_LIMIT:
            raise Invalid(f"{version.key} is too large for a metadata file.", reason="bad_metadata")
        return await self._objects.read_all(reader(place), version)

    async def read_location(self, place: Place, location: str) -> tuple[ObjectVersion, bytes]:
        """What a location names now, and its bytes. Raises what `misplaced` says when it names nothing."""
        found = await self.current(place, [location])
        if location not in found:
            raise await self.misplaced(
                place,
                location,
                f"{location[:300]} is no object of this project.",
                hint="Write the file before the commit that names it.",
                reason="no_such_file",
            )
        return found[location], await self.read(place, found[location])

    async def misplaced(
        self, place: Place, location: str, message: str, *, hint: str, reason: str
    ) -> StratalError:
        """How to refuse a location: `Invalid` within the project's buckets, `Denied` outside, be there a bucket or not."""
        parts = split_location(location)
        if parts is not None:
            own = select(buckets.c.id).where(buckets.c.name == parts[0], buckets.c.project_id == place.id)
            if await self._database.read(lambda c: c.execute(own).first()) is None:
                return Denied(
                    f"{location[:300]!r} is in no bucket of this project.",
                    hint="A table's files lie in buckets of its own project.",
                    reason="foreign_location",
                )
        return Invalid(message, hint=hint, reason=reason)

    def path(self, version: ObjectVersion) -> str:
        """Where the version lies on this machine. Raises `Internal` when bytes are stored elsewhere or are gone."""
        path = self._objects.local_path(version)
        if path is None:
            raise Internal(f"The bytes of {version.bucket}/{version.key} are not on this machine.")
        return str(path)


def reader(place: Place) -> Principal:
    return system_principal(place.id, place.name)


def lake_bucket(connection: Connection, project_id: str) -> str | None:
    return connection.execute(select(lakes.c.bucket).where(lakes.c.project_id == project_id)).scalar()


def pins(connection: Connection, table_id: str, locations: Sequence[str]) -> Mapping[str, str]:
    """Location → version id, of those recorded."""
    found: dict[str, str] = {}
    for start in range(0, len(locations), _CHUNK):
        rows = connection.execute(
            select(table_files.c.location, table_files.c.version_id).where(
                table_files.c.table_id == table_id,
                table_files.c.location.in_(locations[start : start + _CHUNK]),
            )
        )
        found |= {row.location: row.version_id for row in rows}
    return found
