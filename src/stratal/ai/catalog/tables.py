"""Rows of the catalogue: what was fetched of a hub the first time, so that it can be told when it is another thing."""

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Table, Text

from stratal.kernel.database import metadata

catalog_files = Table(
    "catalog_files",
    metadata,
    Column("repo", Text, nullable=False),
    Column("commit", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("first_seen_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("repo", "commit", "path", name="pk_catalog_files"),
)
