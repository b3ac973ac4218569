"""Rows of endpoints: what is wanted, and the immutable revisions. Their replicas are rows of services."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from stratal.kernel.database import metadata

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    # how each revision is kept
    Column("least", Integer, nullable=False, server_default="0"),
    Column("most", Integer, nullable=False, server_default="1"),
    Column("concurrency", Integer, nullable=False, server_default="64"),
    Column("idle_ms", BigInteger, nullable=False),  # 0: never stopped for being idle
    Column("cpus", Float),
    Column("memory_bytes", BigInteger),
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("gpu_type", Text),
    Column("stopped", Integer, nullable=False),  # 1: a person stopped it
    Column("active_revision", Integer),  # the seq of the revision that answers
    Column(
        "shares", Text, nullable=False, server_default="{}"
    ),  # JSON {seq: percent} of others that answer too
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # A removed endpoint's row stays: predictions that it made are still explained.
    Column("removed_at", BigInteger),
    Index(
        "uq_endpoints_live_name",
        "project_id",
        "name",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)

endpoint_revisions = Table(
    "endpoint_revisions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),  # what prediction ids carry
    Column("endpoint_id", Text, ForeignKey("endpoints.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("model_version_id", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("files", Text, nullable=False),  # JSON [{path, sha256, size, blob}]
    Column("plan", Text, nullable=False),  # JSON: how a replica loads it
    Column("job_id", Text),
    Column("requirements", Text, nullable=False),
    Column("environment_id", Text),
    Column("share", Integer),  # the percentage of requests it was deployed for; null: all
    Column("state", Text, nullable=False),
    Column("failure", Text, nullable=False),
    Column("interface", Text),  # JSON: what it takes and gives, as the first replica told
    Column("loaded", Text),  # JSON {path: sha256}: what the last replica to start really read
    Column("libraries", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("person", Text, nullable=False, server_default=""),  # who pays for its replicas
    UniqueConstraint("endpoint_id", "number"),
    sqlite_autoincrement=True,
)
