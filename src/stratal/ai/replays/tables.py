"""Rows of replays."""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, Table, Text

from stratal.kernel.database import metadata

replays = Table(
    "replays",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("asked", Text, nullable=False),  # as it was asked for: a pipeline's run, a tracked run, job:N
    # what is repeated, and what repeats it: jobs, or runs of pipelines
    Column("kind", Text, nullable=False),
    Column("of_id", Integer, nullable=False),
    Column("by_id", Integer),
    Column("tolerance", Float, nullable=False),
    Column("ignored", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("verdict", Text),
    Column("reason", Text, nullable=False, server_default=""),
    Column("inputs", Text, nullable=False, server_default="[]"),
    Column("results", Text, nullable=False, server_default="[]"),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    Index("ix_replays_project_id_id", "project_id", "id"),
    Index("ix_replays_state", "state"),
    sqlite_autoincrement=True,
)
