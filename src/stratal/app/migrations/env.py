"""Alembic's entry: runs the revisions against the URL in its configuration."""

from alembic import context
from sqlalchemy import create_engine, pool

from stratal.app.tables import metadata

engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
