"""Rows of the lake. Namespaces' levels are joined by 0x1F, as Iceberg's REST protocol joins them."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, PrimaryKeyConstraint, Table, Text, text

from stratal.kernel.database import metadata

lakes = Table(
    "lakes",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("bucket", Text, nullable=False),
)

namespaces = Table(
    "namespaces",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("uq_namespaces_project_id_name", "project_id", "name", unique=True),
)

_LIVE = text("dropped_at IS NULL")

# A dropped table's row stays: what was read from it can still be explained.
tables = Table(
    "tables",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uuid", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("metadata_location", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("snapshot_id", BigInteger),
    Column("row_count", BigInteger),
    Column("byte_count", BigInteger),
    Column("file_count", BigInteger),
    Column("fields", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("dropped_at", BigInteger),
    Column("purging", Integer, nullable=False, default=0),
    Index(
        "uq_tables_live_name",
        "project_id",
        "namespace",
        "name",
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    ),
)

# Written in the transaction of the commit that added them; they outlive expiry for the same reason.
snapshots = Table(
    "snapshots",
    metadata,
    Column("table_id", Text, ForeignKey("tables.id"), nullable=False),
    Column("snapshot_id", BigInteger, nullable=False),
    Column("parent_id", BigInteger),
    Column("sequence_number", BigInteger),
    Column("schema_id", Integer),
    Column("manifest_list", Text, nullable=False),
    Column("manifest_list_version", Text, nullable=False),
    Column("operation", Text),
    Column("summary", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
    Column("committed_by", Text, nullable=False),
    Column("workload", Text),
    PrimaryKeyConstraint("table_id", "snapshot_id"),
    Index("ix_snapshots_manifest_list_version", "manifest_list_version"),
)

# Which object version each file of a table was when a commit first named it: what overwrites it later is
# another version, so a snapshot's bytes stay told apart from what lies at the same key afterwards.
table_files = Table(
    "table_files",
    metadata,
    Column("table_id", Text, ForeignKey("tables.id"), nullable=False),
    Column("location", Text, nullable=False),
    Column("version_id", Text, nullable=False),
    PrimaryKeyConstraint("table_id", "location"),
)
