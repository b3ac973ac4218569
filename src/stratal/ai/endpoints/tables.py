"""Rows of endpoints: what is wanted, the immutable revisions, and the replicas that were started."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint, text

from stratal.kernel.database import metadata

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("idle_ms", BigInteger, nullable=False),  # 0: never stopped for being idle
    Column("stopped", Integer, nullable=False),  # 1: a person stopped it
    Column("active_revision", Integer),  # the seq of the revision that answers
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
    Column("state", Text, nullable=False),
    Column("failure", Text, nullable=False),
    Column("interface", Text),  # JSON: what it takes and gives, as the first replica told
    Column("loaded", Text),  # JSON {path: sha256}: what the last replica to start really read
    Column("libraries", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("endpoint_id", "number"),
    sqlite_autoincrement=True,
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),  # the engine's attempt id
    Column("revision", Integer, ForeignKey("endpoint_revisions.seq"), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("isolation", Text),
    Column("log_blob", Text),
    Index("ix_replicas_revision", "revision"),
)
