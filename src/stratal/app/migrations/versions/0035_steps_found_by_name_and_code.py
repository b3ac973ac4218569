"""steps found by name and code."""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pipeline_steps", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_pipeline_steps_project_id_step"))
        batch_op.create_index(
            "ix_pipeline_steps_project_id_step_code", ["project_id", "step", "code"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("pipeline_steps", schema=None) as batch_op:
        batch_op.drop_index("ix_pipeline_steps_project_id_step_code")
        batch_op.create_index(
            batch_op.f("ix_pipeline_steps_project_id_step"), ["project_id", "step"], unique=False
        )
