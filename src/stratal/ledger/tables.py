"""Rows of the ledger."""

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table, Text

from stratal.kernel.database import metadata

accesses = Table(
    "accesses",
    metadata,
    Column("workload", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("workload", "mode", "kind", "version"),
    Index("ix_accesses_kind_version", "kind", "version"),
)
