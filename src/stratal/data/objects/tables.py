"""Rows of the objects room. Keys are stored as UTF-8 bytes, so that both databases order them as S3 does."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from stratal.kernel.database import metadata

buckets = Table(
    "buckets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_buckets_project_id", "project_id"),
)

# Every content that any key ever had; rows outlive their bucket, so it is named, not referenced.
object_versions = Table(
    "object_versions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bucket_id", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("blob_key", Text),
    Column("content_type", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("checksums", Text, nullable=False),
    Column("parts", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("ended_at", BigInteger),
    Column("ended_by", Text),
    Index("ix_object_versions_blob_key", "blob_key"),
)

# What each key names now.
objects = Table(
    "objects",
    metadata,
    Column("bucket_id", Text, ForeignKey("buckets.id"), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("version_id", Text, ForeignKey("object_versions.id"), nullable=False),
    PrimaryKeyConstraint("bucket_id", "key"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bucket_id", Text, ForeignKey("buckets.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("algorithm", Text),
    Column("composite", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # A completed upload is remembered for a while, so that completing it again answers the same.
    Column("completed_at", BigInteger),
    Column("version_id", Text),
    Index("ix_uploads_bucket_id_key", "bucket_id", "key", "id"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", Text, ForeignKey("uploads.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("blob_key", Text, nullable=False),
    Column("checksums", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("upload_id", "number"),
    Index("ix_upload_parts_blob_key", "blob_key"),
)

# Bytes to be removed. `condemned` ones are unreachable already and only await their unlinking; the
# others are a replaced version's, dropped once due unless lineage refers to that version by then.
blob_trash = Table(
    "blob_trash",
    metadata,
    Column("blob_key", Text, primary_key=True),
    Column("version_id", Text),
    Column("due_at", BigInteger, nullable=False),
    Column("condemned", Integer, nullable=False),
    Index("ix_blob_trash_due_at", "due_at"),
)

# Up to which blob key a store was swept for leftovers of killed processes.
blob_sweeps = Table(
    "blob_sweeps",
    metadata,
    Column("store", Text, primary_key=True),
    Column("mark", Text, nullable=False),
)
