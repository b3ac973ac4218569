"""apps, and visits of every place."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "visits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("place_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("session_sha256", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("ticket_sha256", sa.Text(), nullable=True),
        sa.Column("cookie_sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visits")),
        sa.UniqueConstraint("cookie_sha256", name=op.f("uq_visits_cookie_sha256")),
        sa.UniqueConstraint("ticket_sha256", name=op.f("uq_visits_ticket_sha256")),
    )
    with op.batch_alter_table("visits", schema=None) as batch_op:
        batch_op.create_index("ix_visits_place_id", ["place_id"], unique=False)

    op.execute(
        "INSERT INTO visits (id, place_id, project, session_sha256, key_id, ticket_sha256, cookie_sha256, created_at, "
        "expires_at) SELECT id, workspace_id, project, session_sha256, key_id, ticket_sha256, cookie_sha256, "
        "created_at, expires_at FROM workspace_visits"
    )
    with op.batch_alter_table("workspace_visits", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_workspace_visits_workspace_id"))

    op.drop_table("workspace_visits")
    with op.batch_alter_table("functions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kind", sa.Text(), server_default="function", nullable=False))
        batch_op.add_column(sa.Column("label", sa.Text(), nullable=True))
        batch_op.drop_index(batch_op.f("uq_functions_live_name"), sqlite_where=sa.text("removed_at IS NULL"))
        batch_op.create_index(
            "uq_functions_live_name",
            ["project_id", "kind", "name"],
            unique=True,
            sqlite_where=sa.text("removed_at IS NULL"),
            postgresql_where=sa.text("removed_at IS NULL"),
        )
        batch_op.create_index("uq_functions_label", ["label"], unique=True)


def downgrade() -> None:
    apps = "(SELECT id FROM functions WHERE kind = 'app')"
    for table in ("function_invocations", "function_sources", "function_dues", "function_revisions"):
        op.execute(f"DELETE FROM {table} WHERE function_id IN {apps}")  # noqa: S608
    op.execute("DELETE FROM functions WHERE kind = 'app'")
    with op.batch_alter_table("functions", schema=None) as batch_op:
        batch_op.drop_index("uq_functions_label")
        batch_op.drop_index(
            "uq_functions_live_name",
            sqlite_where=sa.text("removed_at IS NULL"),
            postgresql_where=sa.text("removed_at IS NULL"),
        )
        batch_op.create_index(
            batch_op.f("uq_functions_live_name"),
            ["project_id", "name"],
            unique=True,
            sqlite_where=sa.text("removed_at IS NULL"),
            postgresql_where=sa.text("removed_at IS NULL"),
        )
        batch_op.drop_column("label")
        batch_op.drop_column("kind")

    op.create_table(
        "workspace_visits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("session_sha256", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("ticket_sha256", sa.Text(), nullable=True),
        sa.Column("cookie_sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_workspace_visits_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace_visits")),
        sa.UniqueConstraint("cookie_sha256", name=op.f("uq_workspace_visits_cookie_sha256")),
        sa.UniqueConstraint("ticket_sha256", name=op.f("uq_workspace_visits_ticket_sha256")),
    )
    with op.batch_alter_table("workspace_visits", schema=None) as batch_op:
        batch_op.create_index("ix_workspace_visits_workspace_id", ["workspace_id"], unique=False)
    op.drop_table("visits")
