"""Which files a snapshot has: manifest lists and manifests, read with pyiceberg from bytes at hand. No I/O.

Called through `iceberg.py`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.manifest import (
    DataFileContent,
    ManifestContent,
    ManifestEntry,
    ManifestFile,
    read_manifest_list,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import BinaryType, FixedType

from stratal.data.lake.model import FileKind, SnapshotFile
from stratal.kernel.errors import Invalid

_KINDS: dict[DataFileContent, FileKind] = {
    DataFileContent.DATA: "data",
    DataFileContent.POSITION_DELETES: "position deletes",
    DataFileContent.EQUALITY_DELETES: "equality deletes",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One entry of a manifest list."""

    location: str
    snapshot_id: int | None
    deletes: bool
    raw: ManifestFile


class Specs:
    """What is needed of a table's metadata to understand its files' partitions."""

    def __init__(self, metadata: bytes) -> None:
        parsed: TableMetadata = TableMetadataUtil.parse_raw(metadata.decode())
        self._specs: dict[int, PartitionSpec] = parsed.specs()
        self._schemas: Sequence[Schema] = parsed.schemas

    def identities(self, entry: ManifestEntry) -> dict[int, str | None]:
        """Field id → the value the whole file has of it, as text, for fields partitioned by identity."""
        spec = self._specs.get(entry.data_file.spec_id)
        found: dict[int, str | None] = {}
        for position, field in enumerate(spec.fields if spec else ()):
            if isinstance(field.transform, IdentityTransform):
                found[field.source_id] = self._text(field.source_id, entry.data_file.partition[position])
        return found

    def _text(self, field_id: int, value: Any) -> str | None:
        if value is None:
            return None
        for schema in self._schemas:
            try:
                kind = schema.find_type(field_id)
            except ValueError:
                continue
            if isinstance(kind, BinaryType | FixedType):
                return bytes(value).hex()
            return IdentityTransform().to_human_string(kind, value)
        return str(value)


def read_list(data: bytes, location: str) -> list[Manifest]:
    """The manifests of a manifest list. Raises `Invalid` when it is not one."""
    try:
        return [
            Manifest(m.manifest_path, m.added_snapshot_id, m.content == ManifestContent.DELETES, m)
            for m in read_manifest_list(_Bytes(location, data))
        ]
    except Exception as error:  # whatever a decoder raises on bytes that are no Avro
        raise Invalid(f"{location} is not a manifest list: {error}", reason="bad_manifest") from error


def read_files(manifest: Manifest, data: bytes, specs: Specs | None) -> list[SnapshotFile]:
    """The live files of a manifest. Raises `Invalid` when it is not a manifest."""
    try:
        entries = manifest.raw.fetch_manifest_entry(_Memory({manifest.location: data}), discard_deleted=True)
        return [_file(entry, specs) for entry in entries]
    except Exception as error:  # as above
        raise Invalid(f"{manifest.location} is not a manifest: {error}", reason="bad_manifest") from error


def _file(entry: ManifestEntry, specs: Specs | None) -> SnapshotFile:
    data = entry.data_file
    return SnapshotFile(
        kind=_KINDS[data.content],
        location=data.file_path,
        version_id=None,
        size=data.file_size_in_bytes,
        rows=data.record_count,
        format=str(data.file_format.value).lower(),
        sequence_number=entry.sequence_number or 0,
        partition=specs.identities(entry) if specs else {},
        partition_key=f"{data.spec_id}:{data.partition!r}",
    )


class _Bytes(InputFile):
    """A file whose bytes are at hand."""

    def __init__(self, location: str, data: bytes) -> None:
        super().__init__(location)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def exists(self) -> bool:
        return True

    def open(self, seekable: bool = True) -> InputStream:
        return _Stream(self._data)


class _Stream(io.BytesIO):
    """`BytesIO` under the name that pyiceberg's protocol has for it."""

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(
        self,
        exctype: type[BaseException] | None,
        excinst: BaseException | None,
        exctb: TracebackType | None,
    ) -> None:
        self.close()


class _Memory(FileIO):
    """Only what was fetched beforehand."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__()
        self._files = files

    def new_input(self, location: str) -> InputFile:
        return _Bytes(location, self._files[location])

    def new_output(self, location: str) -> OutputFile:
        raise PermissionError(location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise PermissionError(str(location))
