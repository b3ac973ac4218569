"""Rows of sweeps and their trials."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from stratal.kernel.database import metadata

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("argv", Text, nullable=False),  # JSON
    Column("space", Text, nullable=False),  # JSON [{name, kind, low, high, step, choices}]
    Column("metric", Text, nullable=False),
    Column("maximize", Integer, nullable=False),
    Column("trials", Integer, nullable=False),
    Column("parallel", Integer, nullable=False),
    Column("prune", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("register_as", Text),
    Column("experiment", Text, nullable=False),
    Column("run_id", Text, nullable=False),  # the parent of the trials' runs
    Column("template", Text, nullable=False),  # JSON: the job that each trial is
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("reason", Text, nullable=False),
    Column("best", Integer),  # the number of the best trial, once the sweep has ended
    Column("version", Integer),  # of the model `register_as`
    Index("ix_sweeps_project_id", "project_id", "id"),
    Index("ix_sweeps_state", "state"),
    sqlite_autoincrement=True,
)

# A trial's row and its job's are made in one transaction.
sweep_trials = Table(
    "sweep_trials",
    metadata,
    Column("sweep_id", Integer, ForeignKey("sweeps.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("params", Text, nullable=False),  # JSON
    Column("job_id", Integer, nullable=False),
    Column("run_id", Text),
    Column("value", Double),
    Column("points", Text, nullable=False),  # JSON [[step, value]]
    Column("reason", Text, nullable=False),
    Column("prune_asked_at", BigInteger),
    Column("begun_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    PrimaryKeyConstraint("sweep_id", "number"),
    Index("ix_sweep_trials_project_id", "project_id"),
)
