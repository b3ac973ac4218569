"""Rows of repositories; what is in them lies on disk."""

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text, UniqueConstraint

from stratal.kernel.database import metadata

repositories = Table(
    "repositories",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("protected", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("pushed_at", BigInteger),
    Column("pushed_by", Text),
    UniqueConstraint("project_id", "name"),
)

repository_quotas = Table(
    "repository_quotas",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)
