"""Rows of compute: jobs, the code they ran, the environments they ran in."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from stratal.kernel.database import metadata

environments = Table(
    "environments",
    metadata,
    Column("id", Text, primary_key=True),  # SHA-256 of the lock document
    Column("lock_blob", Text, nullable=False),
    Column("python", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("packages", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

# What a text of requirements was resolved to, so that the same text means the same environment until asked anew.
resolutions = Table(
    "resolutions",
    metadata,
    Column("key", Text, primary_key=True),
    Column("environment_id", Text, ForeignKey("environments.id"), nullable=False),
    Column("resolved_at", BigInteger, nullable=False),
)

# Where the bytes of a file of somebody's code lie: a part of a pack, several files uploaded together.
code_files = Table(
    "code_files",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("blob", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id", "sha256"),
    Index("ix_code_files_blob", "blob"),
)

snapshots = Table(
    "code_snapshots",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("id", Text, nullable=False),  # SHA-256 of the canonical manifest
    Column("manifest_blob", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    PrimaryKeyConstraint("project_id", "id"),
)

# Up to which blob leftovers were looked for.
work_sweep = Table("work_sweep", metadata, Column("mark", Text, primary_key=True))

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    # what was asked
    Column("argv", Text, nullable=False),
    Column("env", Text, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("network", Text, nullable=False),
    Column("timeout_seconds", Float),
    Column("requirements", Text, nullable=False),
    Column("upgrade_environment", Integer, nullable=False),
    Column("snapshot_id", Text),
    Column("cwd", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("diff_blob", Text),
    # by whom; the credential is made from this when the job is claimed
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    # how it goes: `owner` holds it until `lease_until`; a write of an older `fence` is refused
    Column("attempt", Integer, nullable=False),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("lease_until", BigInteger),
    Column("key_id", Text),
    Column("environment_id", Text),
    Column("stop_requested_at", BigInteger),
    Column("stopped_by", Text),
    Column("starting_at", BigInteger),
    Column("started_at", BigInteger),
    # how it ended
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("isolation", Text),
    Column("log_blob", Text),
    Column("log_bytes", BigInteger),
    Index("ix_jobs_project_id_id", "project_id", "id"),
    Index("ix_jobs_state_id", "state", "id"),
    Index("ix_jobs_log_blob", "log_blob"),
    Index("ix_jobs_diff_blob", "diff_blob"),
    sqlite_autoincrement=True,
)
