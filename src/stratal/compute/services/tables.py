"""Rows of replicas, of every kind of service."""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, Table, Text

from stratal.kernel.database import metadata

service_replicas = Table(
    "service_replicas",
    metadata,
    Column("id", Text, primary_key=True),  # the engine's attempt id
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("version", Text, nullable=False),
    # what it is counted with beside the jobs, from here until `ended_at`
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("gpu_uuids", Text, nullable=False, server_default="[]"),
    Column("gpu_type", Text),  # theirs, of those that it was given
    Column("started_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("isolation", Text),
    Column("usage", Text),
    Column("log_blob", Text),
    Index("ix_service_replicas_kind_owner_id", "kind", "owner_id", "started_at"),
    Index("ix_service_replicas_ended_at", "ended_at"),
)
