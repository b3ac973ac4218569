"""Rows of the query log."""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Table, Text

from stratal.kernel.database import metadata

queries = Table(
    "queries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("workload", Text),
    Column("sql", Text, nullable=False),
    Column("tables", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("error", Text),
    Column("row_count", BigInteger),
    Column("byte_count", BigInteger),
    Column("started_at", BigInteger, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Index("ix_queries_project_id_started_at", "project_id", "started_at"),
)
