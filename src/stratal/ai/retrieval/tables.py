"""Rows of indexes. Their passages are rows of the lake."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, Table, Text, UniqueConstraint

from stratal.kernel.database import metadata

indexes = Table(
    "indexes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("embedder", Text, nullable=False),
    Column("ocr", Text),
    Column("job_id", Integer, nullable=False),  # the newest that builds it
    Column("built", Text),  # JSON: what the last job that was done said; None before
    Column("calibration", Text),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("project_id", "name", name="uq_indexes_project_id_name"),
)
