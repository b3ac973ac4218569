"""forms of model versions."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_forms",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("parity", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("creator_id", sa.Text(), nullable=False),
        sa.Column("creator_name", sa.Text(), nullable=False),
        sa.Column("creator_role", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_model_forms_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_forms")),
        sa.UniqueConstraint("version_id", "kind", name=op.f("uq_model_forms_version_id_kind")),
    )
    with op.batch_alter_table("model_forms", schema=None) as batch_op:
        batch_op.create_index("ix_model_forms_project_id", ["project_id"], unique=False)
        batch_op.create_index("ix_model_forms_state", ["state"], unique=False)


def downgrade() -> None:
    roots = "(SELECT id FROM artifact_roots WHERE kind = 'model_form')"
    op.execute(
        f"INSERT INTO artifact_trash (blob_key) SELECT DISTINCT blob_key FROM artifacts WHERE root_id IN {roots}"  # noqa: S608
    )
    op.execute(f"DELETE FROM artifacts WHERE root_id IN {roots}")  # noqa: S608
    op.execute("DELETE FROM artifact_roots WHERE kind = 'model_form'")
    with op.batch_alter_table("model_forms", schema=None) as batch_op:
        batch_op.drop_index("ix_model_forms_state")
        batch_op.drop_index("ix_model_forms_project_id")

    op.drop_table("model_forms")
