"""Rows of identity. No secret that opens a door is among them: secrets are derived from the master key."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from stratal.kernel.database import metadata

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("removing_at", BigInteger),
)

people = Table(
    "people",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("admin", Integer, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("principal_name", Text, nullable=False),
    Column("workload", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index("ix_keys_project_id", "project_id"),
    Index("ix_keys_workload", "workload"),
)

login_links = Table(
    "login_links",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("people.id"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("people.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
