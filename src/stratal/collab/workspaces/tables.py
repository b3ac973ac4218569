"""Rows of workspaces and of the saves of their files."""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, Table, Text, text

from stratal.kernel.database import metadata

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("label", Text, nullable=False, unique=True),
    Column("program", Text, nullable=False, server_default="jupyter"),
    Column("requirements", Text, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("gpu_type", Text),
    Column("idle_seconds", Float, nullable=False),
    Column("network", Text, nullable=False),
    Column("environment_id", Text),
    Column("running", Integer, nullable=False),
    Column("stopped_why", Text, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("key_id", Text),
    Column("used_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("creator_name", Text, nullable=False),  # who pays
    # A removed workspace's row stays: what it read and wrote is still explained, and its host name is not given again.
    Column("removed_at", BigInteger),
    Index(
        "uq_workspaces_live_name",
        "project_id",
        "name",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)

workspace_contents = Table(
    "workspace_contents",
    metadata,
    # What saves consist of, once per project.
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("blob_key", Text, nullable=False, unique=True),
)

workspace_saves = Table(
    "workspace_saves",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("workspace_id", Text, ForeignKey("workspaces.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
    Column("saved_by", Text, nullable=False),
    Index("ix_workspace_saves_workspace_id_path", "workspace_id", "path", "seq"),
    Index("ix_workspace_saves_project_id_sha256", "project_id", "sha256"),
    sqlite_autoincrement=True,
)
