"""Rows of repositories; what is in them lies on disk."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

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

merge_requests = Table(
    "merge_requests",
    metadata,
    Column("repository_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),  # open, merged, closed
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # once it has ended: by whom, what was merged, into what, and what came of it
    Column("ended_at", BigInteger),
    Column("ended_by", Text),
    Column("source_commit", Text),
    Column("target_commit", Text),
    Column("merge_commit", Text),
    PrimaryKeyConstraint("repository_id", "number"),
    Index("ix_merge_requests_project_id", "project_id"),
)

# What `.stratal/ci.toml` of a pushed commit asks to be run, each once a commit; `job_id` NULL: not queued yet.
checks = Table(
    "commit_checks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("repository_id", Text, nullable=False),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("commit_id", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("job_id", Integer),
    Column("error", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("repository_id", "commit_id", "name"),
    Index("ix_commit_checks_project_id", "project_id"),
)

# Up to which event pushes were looked at.
check_cursors = Table(
    "check_cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

# Large files of Git LFS: a row says that the bytes are whole.
lfs_objects = Table(
    "lfs_objects",
    metadata,
    Column("repository_id", Text, nullable=False),
    Column("oid", Text, nullable=False),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("blob_key", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    PrimaryKeyConstraint("repository_id", "oid"),
    Index("ix_lfs_objects_project_id", "project_id"),
    Index("ix_lfs_objects_blob_key", "blob_key"),
)

# Bytes that no file refers to any more and that await their unlinking.
lfs_trash = Table("lfs_trash", metadata, Column("blob_key", Text, primary_key=True))
