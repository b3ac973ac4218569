"""Rows of reports and of the public links to them."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from stratal.kernel.database import metadata

reports = Table(
    "reports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("version", Integer, nullable=False),  # counts its texts
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
)

report_links = Table(
    "report_links",
    metadata,
    Column("id", Text, primary_key=True),
    Column("report_id", Text, ForeignKey("reports.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("token_sha256", Text, nullable=False, unique=True),
    Column("text", Text, nullable=False),  # as it was when it was published
    Column("data", Text),  # what its blocks showed then; NULL: they are asked anew
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("publisher_kind", Text, nullable=False),
    Column("publisher_id", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_report_links_report_id", "report_id"),
)
