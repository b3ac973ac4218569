"""attempts, arrays, dependencies and quotas of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_arrays",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_job_arrays_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_arrays")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("job_arrays", schema=None) as batch_op:
        batch_op.create_index("ix_job_arrays_project_id", ["project_id"], unique=False)

    op.create_table(
        "project_quotas",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Float(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("gpus", sa.Integer(), nullable=True),
        sa.Column("jobs", sa.Integer(), nullable=True),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_quotas_project_id")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_project_quotas")),
    )
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("environment_id", sa.Text(), nullable=True),
        sa.Column("starting_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=False),
        sa.Column("isolation", sa.Text(), nullable=True),
        sa.Column("log_blob", sa.Text(), nullable=True),
        sa.Column("log_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_attempts_job_id")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_attempts")),
    )
    with op.batch_alter_table("job_attempts", schema=None) as batch_op:
        batch_op.create_index("ix_job_attempts_log_blob", ["log_blob"], unique=False)
        batch_op.create_index("ix_job_attempts_project_id_ended_at", ["project_id", "ended_at"], unique=False)

    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("after_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["after_id"], ["jobs.id"], name=op.f("fk_job_dependencies_after_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_dependencies_job_id")),
        sa.PrimaryKeyConstraint("job_id", "after_id", name=op.f("pk_job_dependencies")),
    )
    with op.batch_alter_table("job_dependencies", schema=None) as batch_op:
        batch_op.create_index("ix_job_dependencies_after_id", ["after_id"], unique=False)

    # Plainly, not in a batch: that would write the table anew and forget that its ids are never used again.
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("retries", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("grace_seconds", sa.Float(), server_default="10", nullable=False))
    op.add_column("jobs", sa.Column("array_id", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("array_index", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("waits_until", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_bytes", sa.BigInteger(), nullable=True))
    op.create_index("ix_jobs_array_id", "jobs", ["array_id"], unique=False)
    op.create_index("ix_jobs_state_turn", "jobs", ["state", "turn", "id"], unique=False)
    op.execute("UPDATE jobs SET turn = queued_at")
    op.execute(
        "INSERT INTO job_attempts (job_id, number, project_id, state, environment_id, starting_at, started_at,"
        " ended_at, exit_code, reason, usage, isolation, log_blob, log_bytes)"
        " SELECT id, attempt, project_id, state, environment_id, coalesce(starting_at, queued_at), started_at,"
        " ended_at, exit_code, reason, usage, isolation, log_blob, log_bytes FROM jobs WHERE attempt > 0"
    )
    op.drop_index("ix_jobs_log_blob", table_name="jobs")
    op.execute("ALTER TABLE jobs DROP COLUMN log_blob")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("log_blob", sa.TEXT(), nullable=True))
    op.execute(
        "UPDATE jobs SET log_blob = (SELECT log_blob FROM job_attempts"
        " WHERE job_id = jobs.id AND number = jobs.attempt)"
    )
    op.create_index("ix_jobs_log_blob", "jobs", ["log_blob"], unique=False)
    op.drop_index("ix_jobs_state_turn", table_name="jobs")
    op.drop_index("ix_jobs_array_id", table_name="jobs")
    for name in ("checkpoint_bytes", "waits_until", "turn", "array_index", "array_id", "grace_seconds"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {name}")
    for name in ("retries", "priority"):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {name}")
    for table in ("job_dependencies", "job_attempts", "project_quotas", "job_arrays"):
        op.drop_table(table)
