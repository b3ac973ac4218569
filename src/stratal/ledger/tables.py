"""Rows of the ledger."""

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from stratal.kernel.database import metadata

accesses = Table(
    "accesses",
    metadata,
    Column("workload", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("workload", "mode", "kind", "version"),
    Index("ix_accesses_kind_version", "kind", "version"),
)

# What a workload that repeats earlier work is shown when it asks for a name (see `past`).
pasts = Table(
    "pasts",
    metadata,
    Column("workload", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    PrimaryKeyConstraint("workload", "kind", "name"),
)

# What one thing costs from a moment on, until the next row of the same name.
prices = Table(
    "prices",
    metadata,
    Column("name", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("set_at", BigInteger, nullable=False),
    Column("set_by", Text, nullable=False),
    PrimaryKeyConstraint("name", "since"),
)

# What was used and what it cost. A row grows for as long as its hour and its price last, then never changes. Rows
# outlive their project: what was spent was spent.
usage = Table(
    "usage",
    metadata,
    Column("source", Text, nullable=False),  # an attempt's id, or who came through which door
    Column("resource", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("workload", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("price", BigInteger, nullable=False),  # billionths for each unit that is priced
    Column("amount", BigInteger, nullable=False),  # billionths
    PrimaryKeyConstraint("source", "resource", "started_at"),
    Index("ix_usage_started_at", "started_at"),
    Index("ix_usage_project_id_started_at", "project_id", "started_at"),
)

# The sum of a project's rows of one month, kept with them: what a budget is held against.
spending = Table(
    "spending",
    metadata,
    Column("project_id", Text, nullable=False),
    Column("month", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id", "month"),
)

# What a project may spend a month; and what of it was told of (`told_level` per cent in `told_month`).
budgets = Table(
    "budgets",
    metadata,
    Column("project_id", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),  # billionths
    Column("stops", Integer, nullable=False),
    Column("set_at", BigInteger, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("told_month", Text, nullable=False),
    Column("told_level", Integer, nullable=False),
)
