"""Rows of logged models and of the registry. Their files are artifacts (`stratal.collab.tables`)."""

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

logged_models = Table(
    "logged_models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("experiment_id", BigInteger, ForeignKey("experiments.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("model_type", Text, nullable=False),
    Column("source_run_id", Text),
    Column("status", Text, nullable=False),
    Column("lifecycle", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("workload", Text),
    Index("ix_logged_models_experiment_id", "experiment_id", "created_at"),
    Index("ix_logged_models_source_run_id", "source_run_id"),
)

logged_model_tags = Table(
    "logged_model_tags",
    metadata,
    Column("model_id", Text, ForeignKey("logged_models.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("model_id", "key"),
)

logged_model_params = Table(
    "logged_model_params",
    metadata,
    Column("model_id", Text, ForeignKey("logged_models.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("model_id", "key"),
)

# `last_version` only grows, so that a deleted version's number is never given again.
registered_models = Table(
    "registered_models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("last_version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("project_id", "name"),
)

registered_model_tags = Table(
    "registered_model_tags",
    metadata,
    Column("model_id", Text, ForeignKey("registered_models.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("model_id", "key"),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("model_id", Text, ForeignKey("registered_models.id"), nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer, nullable=False),
    PrimaryKeyConstraint("model_id", "alias"),
)

# `facts` is what the model's own files say about it (`model.Facts`), as JSON. A deleted version that a
# workload's chain goes through keeps its row and files; `model_id` and `name` then only tell what it was.
model_versions = Table(
    "model_versions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text),
    Column("run_link", Text, nullable=False),
    Column("logged_model_id", Text),
    Column("workload", Text),
    Column("description", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("deleted_at", BigInteger),
    UniqueConstraint("model_id", "version"),
    Index("ix_model_versions_project_id_run_id", "project_id", "run_id"),
)

model_version_tags = Table(
    "model_version_tags",
    metadata,
    Column("version_id", Text, ForeignKey("model_versions.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("version_id", "key"),
)

# What a version was converted to, or why it was not: one row for each version and kind. Files: the artifacts of the
# row's id. `parity` is how its answers were compared with the version's, as JSON. `job_id` is the job that converts,
# and `creator_…` on whose behalf it does.
model_forms = Table(
    "model_forms",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("version_id", Text, ForeignKey("model_versions.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("job_id", BigInteger),
    Column("parity", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    UniqueConstraint("version_id", "kind"),
    Index("ix_model_forms_state", "state"),
    Index("ix_model_forms_project_id", "project_id"),
)
