"""Arrow tables as a table's Parquet data files, with field ids and the statistics that Iceberg wants.

pyiceberg's own way from rows to files loses NULLs of lists and maps of structs and holds all rows in
memory, so the files are written here, with its Parquet writer (which knows the table's properties and
computes the statistics) but from tables that carry the field ids already.
"""

import itertools
import uuid
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyiceberg.exceptions import NotInstalledError
from pyiceberg.io import FileIO, OutputFile
from pyiceberg.io.fileformat import FileFormatWriter
from pyiceberg.io.pyarrow import ParquetFormatModel, _determine_partitions, _TablePartition, schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionKey
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record

from stratal.engines.duckdb.statement import Refused

_FILE_BYTES = 512 * 1024 * 1024


def arrow_schema(metadata: TableMetadata) -> pa.Schema:
    """The table's schema as Arrow has it, each field with its id, in the small types that DuckDB and files use."""
    wide = schema_to_pyarrow(metadata.schema(), include_field_ids=True)
    return pa.schema([field.with_type(_small(field.type)) for field in wide])


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_small(field.type)) for field in kind])
    if pa.types.is_map(kind):
        key, item = kind.key_field, kind.item_field
        return pa.map_(key.with_type(_small(key.type)), item.with_type(_small(item.type)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_small(kind.value_type)))
    return kind


class DataFiles:
    """Writes tables (of `arrow_schema`) as files of one commit."""

    def __init__(self, metadata: TableMetadata, io: FileIO, commit: uuid.UUID) -> None:
        self._metadata = metadata
        self._io = io
        self._commit = commit
        self._numbers = itertools.count()
        self._locations = load_location_provider(metadata.location, metadata.properties)

    def write(self, tables: Iterator[pa.Table]) -> Iterator[DataFile]:
        """One file per partition and table; without partitions one per half gibibyte of rows."""
        if self._metadata.spec().is_unpartitioned():
            yield from self._rolling(tables)
            return
        for table in tables:
            for part in self._partitions(table):
                file, writer = self._open(part.partition_key)
                with writer:
                    writer.write(part.arrow_table_partition)
                yield self._done(file, writer, part.partition_key)

    def _partitions(self, table: pa.Table) -> Iterable[_TablePartition]:
        try:
            return list(_determine_partitions(self._metadata.spec(), self._metadata.schema(), table))
        except (NotInstalledError, ModuleNotFoundError) as error:
            raise Refused(
                "not_offered",
                "The server cannot write rows into partitions by bucket, truncation or time without pyiceberg-core.",
                "Install it with the server (the extra stratal[lake]), or append with pyiceberg[pyiceberg-core].",
            ) from error

    def _rolling(self, tables: Iterator[pa.Table]) -> Iterator[DataFile]:
        file: OutputFile | None = None
        writer: FileFormatWriter | None = None
        size = 0
        for table in tables:
            if file is None or writer is None:
                file, writer = self._open(None)
                size = 0
            writer.write(table)
            size += table.nbytes
            if size >= _FILE_BYTES:
                writer.close()
                yield self._done(file, writer, None)
                file = writer = None
        if file is not None and writer is not None:
            writer.close()
            yield self._done(file, writer, None)

    def _open(self, key: PartitionKey | None) -> tuple[OutputFile, FileFormatWriter]:
        name = f"{next(self._numbers):05d}-{self._commit}.parquet"
        file = self._io.new_output(self._locations.new_data_location(name, key))
        writer = ParquetFormatModel().create_writer(file, self._metadata.schema(), self._metadata.properties)
        return file, writer

    def _done(self, file: OutputFile, writer: FileFormatWriter, key: PartitionKey | None) -> DataFile:
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=file.location,
            file_format=FileFormat.PARQUET,
            partition=key.partition if key else Record(),
            file_size_in_bytes=len(file),
            sort_order_id=None,
            spec_id=self._metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **writer.result().to_serialized_dict(),
        )
