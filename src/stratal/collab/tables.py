"""Rows of experiments, runs and artifacts.

A metric's points are packed into chunks (`metric_chunks`), its newest value stands by itself in
`latest_metrics`, which search reads. NaN has no order, so it is a NULL value with `is_nan` set.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from stratal.kernel.database import metadata

# Every project has one experiment "0", its default; the others are known by `id`.
experiments = Table(
    "experiments",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("is_default", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("lifecycle", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
    sqlite_autoincrement=True,
)

experiment_tags = Table(
    "experiment_tags",
    metadata,
    Column("experiment_id", BigInteger, ForeignKey("experiments.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("experiment_id", "key"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("experiment_id", BigInteger, ForeignKey("experiments.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger),
    Column("lifecycle", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # The workload whose credential made the run (``job:12``); NULL when a person did.
    Column("workload", Text),
    Index("ix_runs_experiment_id_lifecycle_start_time", "experiment_id", "lifecycle", "start_time", "id"),
    Index("ix_runs_project_id_start_time", "project_id", "start_time", "id"),
    Index("ix_runs_workload", "workload"),
)

run_params = Table(
    "run_params",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "key"),
)

run_tags = Table(
    "run_tags",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "key"),
)

latest_metrics = Table(
    "latest_metrics",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Double),
    Column("is_nan", Integer, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "key"),
    Index("ix_latest_metrics_key_value", "key", "value", "run_id"),
)

# Points of one metric of one run, `points` of them: their timestamps, then their steps (int64 each), then
# their values (float64), little-endian. Chunk 0 is the open tail, which new points are appended to.
metric_chunks = Table(
    "metric_chunks",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("points", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_id", "key", "seq"),
)

# The newest value of a metric that a run measured of a logged model, per data set it was measured on.
model_metrics = Table(
    "model_metrics",
    metadata,
    Column("model_id", Text, nullable=False),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("dataset_name", Text, nullable=False),
    Column("dataset_digest", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("value", Double),
    Column("is_nan", Integer, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    PrimaryKeyConstraint("model_id", "run_id", "key", "dataset_name", "dataset_digest"),
    Index("ix_model_metrics_run_id", "run_id"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("experiment_id", BigInteger, ForeignKey("experiments.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("source_type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text),
    Column("profile", Text),
    UniqueConstraint("experiment_id", "name", "digest"),
)

# `tags` is a JSON object; `context` repeats its ``mlflow.data.context`` for searching.
run_datasets = Table(
    "run_datasets",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("dataset_id", Text, ForeignKey("datasets.id"), nullable=False),
    Column("context", Text),
    Column("tags", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "dataset_id"),
)

# Logged models that a run read (`direction` in) or made (out).
run_models = Table(
    "run_models",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("direction", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "direction", "model_id"),
    Index("ix_run_models_model_id", "model_id"),
)

# Directories of artifacts: a run's, a logged model's, or (sealed: read-only) a model version's.
artifact_roots = Table(
    "artifact_roots",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("sealed", Integer, nullable=False),
    Index("ix_artifact_roots_project_id", "project_id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("root_id", Text, ForeignKey("artifact_roots.id"), nullable=False),
    Column("path", Text, nullable=False),
    Column("blob_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    PrimaryKeyConstraint("root_id", "path"),
    Index("ix_artifacts_blob_key", "blob_key"),
)

# Bytes that no artifact refers to any more and that await their unlinking.
artifact_trash = Table(
    "artifact_trash",
    metadata,
    Column("blob_key", Text, primary_key=True),
)

# Up to which blob key the store was swept for leftovers of killed processes (one row).
artifact_sweeps = Table(
    "artifact_sweeps",
    metadata,
    Column("store", Text, primary_key=True),
    Column("mark", Text, nullable=False),
)
