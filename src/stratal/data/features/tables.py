"""Rows of views and of what they serve, by key."""

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Table, Text

from stratal.kernel.database import metadata

views = Table(
    "feature_views",
    metadata,
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("table_id", Text, nullable=False),
    Column("snapshot_id", Text, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("published_by", Text, nullable=False),
    PrimaryKeyConstraint("project_id", "name"),
)

# Each publication writes a generation of its own, and is seen when the view names it.
rows = Table(
    "feature_rows",
    metadata,
    Column("project_id", Text, nullable=False),
    Column("view", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("known_at", Text),
    Column("features", Text, nullable=False),
    PrimaryKeyConstraint("project_id", "view", "generation", "key"),
)
