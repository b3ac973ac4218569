"""Rows of compute: jobs and their attempts, the code they ran, the environments they ran in, quotas."""

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
    Column("gpus", Integer, nullable=False, server_default="0"),
    Column("gpu_type", Text),
    Column("nodes", Integer),  # of a gang, each of which gets what was asked; NULL: one process tree
    Column("procs_per_node", Integer),
    Column("network", Text, nullable=False),
    Column("timeout_seconds", Float),
    Column("requirements", Text, nullable=False),
    Column("upgrade_environment", Integer, nullable=False),
    Column("pinned_environment", Text),
    Column("snapshot_id", Text),
    Column("cwd", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("diff_blob", Text),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("grace_seconds", Float, nullable=False, server_default="10"),
    Column("array_id", Integer),
    Column("array_index", Integer),
    # by whom; the credential is made from this when the job is claimed
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    # its place among those that wait (see `admission`), and until when it waits after a failed attempt
    Column("turn", BigInteger, nullable=False, server_default="0"),
    Column("waits_until", BigInteger),
    # how it goes: `owner` holds it until `lease_until`; a write of an older `fence` is refused
    Column("attempt", Integer, nullable=False),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("lease_until", BigInteger),
    Column("key_id", Text),
    Column("gpu_uuids", Text, nullable=False, server_default="[]"),
    Column("environment_id", Text),
    Column("stop_requested_at", BigInteger),
    Column("stopped_by", Text),
    Column("stop_cause", Text),  # why the platform stops it: it fails by that; NULL: somebody asked
    Column("starting_at", BigInteger),
    Column("started_at", BigInteger),
    # how it ended; while it goes on, how its present attempt goes
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("isolation", Text),
    Column("log_bytes", BigInteger),  # of all its attempts, once it has ended
    Column("checkpoint_bytes", BigInteger),  # NULL: it has no checkpoint
    Index("ix_jobs_project_id_id", "project_id", "id"),
    Index("ix_jobs_state_id", "state", "id"),
    Index("ix_jobs_state_turn", "state", "turn", "id"),
    Index("ix_jobs_array_id", "array_id"),
    Index("ix_jobs_diff_blob", "diff_blob"),
    sqlite_autoincrement=True,
)

# One try to carry a job out; its row is made by the claim and ends with the attempt.
attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("gpu_uuids", Text, nullable=False, server_default="[]"),
    Column("environment_id", Text),
    Column("starting_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("exit_code", Integer),
    Column("reason", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("isolation", Text),
    Column("log_blob", Text),
    Column("log_bytes", BigInteger),
    PrimaryKeyConstraint("job_id", "number"),
    Index("ix_job_attempts_project_id_ended_at", "project_id", "ended_at"),
    Index("ix_job_attempts_log_blob", "log_blob"),
)

# What each member of a gang wrote, beside the attempt's log, which has all of it.
rank_logs = Table(
    "job_rank_logs",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("blob", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("job_id", "number", "rank"),
    Index("ix_job_rank_logs_blob", "blob"),
)

# `job_id` starts only once `after_id` has succeeded.
dependencies = Table(
    "job_dependencies",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("after_id", Integer, ForeignKey("jobs.id"), nullable=False),
    PrimaryKeyConstraint("job_id", "after_id"),
    Index("ix_job_dependencies_after_id", "after_id"),
)

arrays = Table(
    "job_arrays",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("parallel", Integer),  # at most so many of it at once
    Column("created_by", Text, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Index("ix_job_arrays_project_id", "project_id"),
    sqlite_autoincrement=True,
)

# What a project's jobs may hold at the same time; NULL: no ceiling.
quotas = Table(
    "project_quotas",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("cpus", Float),
    Column("memory_bytes", BigInteger),
    Column("gpus", Integer),
    Column("jobs", Integer),
    Column("set_at", BigInteger, nullable=False),
    Column("set_by", Text, nullable=False),
)
