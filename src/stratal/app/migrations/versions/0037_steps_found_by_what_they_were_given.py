"""steps found by what they were given."""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pipeline_steps", schema=None) as batch_op:
        batch_op.create_index("ix_pipeline_steps_given_step", ["given", "step"], unique=False)
        batch_op.create_index(
            "ix_pipeline_steps_taken_from",
            ["taken_from"],
            unique=False,
            sqlite_where=sa.text("taken_from IS NOT NULL"),
            postgresql_where=sa.text("taken_from IS NOT NULL"),
        )


def downgrade() -> None:
    with op.batch_alter_table("pipeline_steps", schema=None) as batch_op:
        batch_op.drop_index("ix_pipeline_steps_taken_from")
        batch_op.drop_index("ix_pipeline_steps_given_step")
