"""Rows of pipelines: runs, their steps, and what steps have written but not yet shown."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from stratal.kernel.database import metadata

runs = Table(
    "pipeline_runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("pipeline", Text, nullable=False),  # "": the file's only one, until its worker has told
    Column("doc", Text, nullable=False, server_default=""),
    Column("file", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("output", Text),
    # what its worker is made of
    Column("snapshot_id", Text, nullable=False),
    Column("cwd", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("network", Text),
    Column("parallel", Integer),
    Column("use_cache", Integer, nullable=False, server_default="1"),
    Column("partitions", Text),  # those that it makes, NULL for a pipeline as a whole
    # of a replay: the run that it repeats, whose environment it has
    Column("replay_of", Integer),
    Column("environment", Text),
    # by whom; steps' credentials are made from this
    Column("created_by", Text, nullable=False),
    Column("creator_id", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    Column("creator_role", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    # its worker: a job. Each opening of the journal raises `epoch`, and a write of an older one is refused.
    Column("job_id", Integer),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Index("ix_pipeline_runs_project_id_id", "project_id", "id"),
    Index("ix_pipeline_runs_state", "state"),
    sqlite_autoincrement=True,
)

steps = Table(
    "pipeline_steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Integer, ForeignKey("pipeline_runs.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),  # within the run
    Column("step", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("doc", Text, nullable=False, server_default=""),
    Column("after", Text, nullable=False),
    Column("call", Text, nullable=False),  # how it is to be run
    Column("small", Integer, nullable=False),
    Column("cacheable", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    # what it does, as hashes: the same key, the same work (see `caching`)
    Column("code", Text, nullable=False),
    Column("arguments", Text),
    Column("given", Text),
    Column("environment", Text),
    Column("key", Text),
    # how it goes. `attempt` is the fence: what an older one says is refused
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("job_id", Integer),
    Column("workload", Text),
    Column("output", Text),
    Column("error", Text),
    Column("log", Text),
    Column("reads", Text),
    Column("writes", Text),
    Column("checks", Text),
    Column("models", Text),  # of a project of dbt: what each came to, of which tables
    Column("taken_from", Integer),  # the step whose result this one took
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Index("ix_pipeline_steps_run_id_name", "run_id", "name", unique=True),
    Index("ix_pipeline_steps_project_id_key", "project_id", "key"),
    Index("ix_pipeline_steps_project_id_step_code", "project_id", "step", "code"),
    Index("ix_pipeline_steps_given_step", "given", "step"),
    Index(
        "ix_pipeline_steps_taken_from",
        "taken_from",
        sqlite_where=text("taken_from IS NOT NULL"),
        postgresql_where=text("taken_from IS NOT NULL"),
    ),
    Index("ix_pipeline_steps_state", "state"),
    Index("ix_pipeline_steps_workload", "workload"),
    sqlite_autoincrement=True,
)

# A snapshot that an attempt has committed to a branch of its own, until the step's end shows it to everybody.
writes = Table(
    "pipeline_writes",
    metadata,
    Column("step_id", Integer, ForeignKey("pipeline_steps.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # which write of the attempt
    Column("project_id", Text, nullable=False),
    Column("table_id", Text, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("base_id", BigInteger),  # the table's snapshot that the attempt began from
    Column("snapshot_id", BigInteger, nullable=False),
    Column("schema_id", Integer),
    Column("row_count", BigInteger, nullable=False),
    Column("sql", Text),  # the query whose rows these are
    Column(
        "state", Text, nullable=False
    ),  # staged, published, dropped; of a replay kept, until it was compared
    PrimaryKeyConstraint("step_id", "attempt", "number"),
    Index("ix_pipeline_writes_state", "state"),
)

# What is deployed: a pipeline that is run by the clock, by what arrives, or by whoever asks for it by name.
pipelines = Table(
    "pipelines",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("file", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("snapshot_id", Text, nullable=False),
    Column("cwd", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("requirements", Text, nullable=False),
    Column("network", Text),
    Column("parallel", Integer),
    # when: a schedule and the moment it is due next; news of a table or of objects, and up to where it was seen
    Column("schedule", Text),
    Column("timezone", Text, nullable=False),
    Column("catch_up", Text, nullable=False),
    Column("next_at", BigInteger),
    Column("on_table", Text),
    Column("on_prefix", Text),
    Column("on_model", Text),
    Column("on_pipeline", Text),
    Column("seen", BigInteger, nullable=False, server_default="0"),
    Column("partition_of", Text),  # of what arrives: a pattern that finds in a key which partition it is of
    Column("overlap", Text, nullable=False),
    Column("deployed_by", Text, nullable=False),
    Column("deployer_id", Text, nullable=False),
    Column("deployer_name", Text, nullable=False),
    Column("deployer_role", Text, nullable=False),
    Column("deployed_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id", "name"),
    Index("ix_pipelines_next_at", "next_at"),
)

# The secrets of pipelines that webhooks run, sealed under the master key; and what was delivered, each once.
hooks = Table(
    "pipeline_hooks",
    metadata,
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("before", Text),  # the secret that it took the place of, and until when that is good
    Column("before_until", BigInteger),
    Column("made_at", BigInteger, nullable=False),
    Column("made_by", Text),  # who knows the secret; NULL: an older version made it
    Column("before_by", Text),
    PrimaryKeyConstraint("project_id", "name"),
)

deliveries = Table(
    "pipeline_deliveries",
    metadata,
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("delivery", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("run_id", Integer),  # NULL: it was left out, because another run had not ended
    PrimaryKeyConstraint("project_id", "name", "delivery"),
    Index("ix_pipeline_deliveries_at", "at"),
)
