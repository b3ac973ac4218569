"""The database handle, and the two databases behind it: SQLite by path, PostgreSQL by URL.

A write is a *function* of a connection, in which rooms say SQLAlchemy Core statements that are right on
both; it is acknowledged once it is durable. See `handle` for what it may do and what is promised.
"""

from stratal.kernel.database.handle import Address, Database, Work, is_ready, metadata

__all__ = ["Address", "Database", "Work", "is_ready", "metadata"]
